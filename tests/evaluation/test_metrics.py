from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.evaluation.metrics import Measured, mcnemar, measure, paired_difference, wilson
from smidgen.tasks.measures import Measure, Statistic


def stats() -> Any:
    """What takes long to import, for those who ask."""
    import scipy.stats

    return scipy.stats


bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40)


def alone(values: list[float]) -> Measure:
    return Measure(values, [str(index) for index in range(len(values))])


def in_pairs(values: list[float]) -> Measure:
    return Measure(values, [str(index // 2) for index in range(len(values))])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_its_formula(counts: tuple[int, int]) -> None:
    successes, n = counts
    z, rate = 1.959963984540054, successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    measured = wilson(successes, n)
    assert (measured.value, measured.n) == (rate, n)
    assert measured.low == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert measured.high == pytest.approx(min(1.0, centre + half), abs=1e-9)


def test_the_published_interval_of_75_in_100() -> None:
    measured = wilson(75, 100)
    assert (round(measured.low or 0, 3), round(measured.high or 0, 3)) == (0.657, 0.825)


def test_nothing_measured_is_nothing_claimed() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    assert measure(Measure([], [])).to_json() == wilson(0, 0).to_json() == nothing
    assert paired_difference(Measure([], []), Measure([], [])).to_json() == nothing


@given(bits)
def test_independent_rates_get_wilson(values: list[float]) -> None:
    assert measure(alone(values)) == wilson(int(sum(values)), len(values))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(1, 5))
def test_an_interval_holds_its_value_within_the_range(values: list[float], clusters: int) -> None:
    measured = measure(Measure(values, [str(index % clusters) for index in range(len(values))]))
    assert measured.value == pytest.approx(np.mean(values))
    if measured.low is not None and measured.high is not None:
        assert 0 <= measured.low <= measured.value + 1e-9
        assert measured.value - 1e-9 <= measured.high <= 1


def test_the_bootstrap_agrees_with_theory() -> None:
    """Repeating every unit leaves a clustered interval as it was; only a blind one shrinks."""
    values = np.random.default_rng(0).random(400)
    error = 1.96 * values.std() / 20
    once = measure(alone(values.tolist()))
    twice = measure(Measure(np.repeat(values, 2).tolist(), [str(i // 2) for i in range(800)]))
    assert once.value and once.low and once.high and twice.low and twice.high
    assert once.high - once.low == pytest.approx(2 * error, rel=0.1)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    deceived = measure(alone(np.repeat(values, 2).tolist()))
    assert deceived.high and deceived.low
    assert deceived.high - deceived.low < 0.8 * (once.high - once.low)


def test_agreement_of_all_is_not_certainty() -> None:
    measured = measure(in_pairs([1.0] * 20))
    assert measured == Measured(1.0, wilson(10, 10).low, 1.0, 20)
    assert measure(in_pairs([0.5] * 2)) == Measured(0.5, None, None, 2)  # one cluster


def test_what_holds_by_construction_has_no_width() -> None:
    assert measure(in_pairs([1.0, 0.0] * 10)) == Measured(0.5, 0.5, 0.5, 20)


def test_differences_of_zero_and_one_are_no_rate() -> None:
    clusters = [str(n // 2) for n in range(40)]
    nothing = measure(Measure([0.0] * 40, clusters, signed=True))
    assert (nothing.value, nothing.low, nothing.high, nothing.n) == (0.0, 0.0, 0.0, 40)
    first, second = [float(n % 4 < 2) for n in range(40)], [float(n % 5 == 0) for n in range(40)]
    values = [a - b for a, b in zip(first, second, strict=True)]
    found = measure(Measure(values, clusters, signed=True))
    paired = paired_difference(Measure(first, clusters), Measure(second, clusters))
    assert found.value == pytest.approx(paired.value)
    # both resample the same clusters; their equal replicates are rounded differently
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.03)


def test_same_seed_same_interval() -> None:
    metric = in_pairs(np.random.default_rng(1).integers(0, 2, 60).astype(float).tolist())
    assert measure(metric, seed=5) == measure(metric, seed=5) != measure(metric, seed=6)


def test_a_statistic_is_resampled_by_weights() -> None:
    values = np.random.default_rng(2).random(50)
    metric = alone(values.tolist())
    mean = Statistic(lambda weights: float(np.average(values, weights=weights)), metric.clusters)
    measured, expected = measure(mean), measure(metric)
    assert measured.n == 50
    assert (measured.value, measured.low, measured.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_an_undefined_statistic_has_no_value() -> None:
    assert measure(Statistic(lambda weights: float("nan"), ["a", "b"])) == Measured(None, None, None, 2)


@given(bits)
def test_a_model_does_not_differ_from_itself(values: list[float]) -> None:
    difference = paired_difference(alone(values), alone(values))
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert mcnemar(values, values).p_value == 1.0


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    random = np.random.default_rng(3)
    second = random.integers(0, 2, 300).astype(float)
    first = np.where(random.random(300) < 0.1, 1.0, second)
    difference = paired_difference(alone(first.tolist()), alone(second.tolist()))
    reverse = paired_difference(alone(second.tolist()), alone(first.tolist()))
    assert difference.value == pytest.approx(first.mean() - second.mean()) and difference.n == 300
    assert difference.low and difference.high and difference.low > 0
    assert difference.high - difference.low < 0.08
    assert reverse.value == -difference.value


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_mcnemar_is_a_binomial_test_of_the_discordant(units: list[tuple[bool, bool]]) -> None:
    first, second = zip(*units, strict=True)
    found = mcnemar(first, second)
    assert found.only_first == units.count((True, False))
    assert found.only_second == units.count((False, True))
    if found.only_first + found.only_second:
        expected = stats().binomtest(found.only_first, found.only_first + found.only_second).pvalue
        assert found.p_value == mcnemar(second, first).p_value == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_rate_has_the_interval_of_scipy(counts: tuple[int, int]) -> None:
    expected = stats().binomtest(*counts).proportion_ci(0.95, method="wilson")
    found = wilson(*counts)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-15)


def test_the_absolute_value_of_a_mean_reaches_down_to_zero() -> None:
    """Near zero, its interval holds the truth about as often as it should."""
    random = np.random.default_rng(0)
    clusters = [str(index) for index in range(200)]
    covered = 0
    for seed in range(100):
        values = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=200)
        measured = measure(Measure(values.tolist(), clusters, absolute=True), seed=seed)
        assert measured.value == abs(values.mean())
        covered += measured.low == 0
    assert covered >= 90
    leaning = measure(Measure([-1.0] * 60 + [0.0] * 140, clusters, absolute=True))
    assert leaning.value == 0.3 and leaning.low and leaning.high and 0.2 < leaning.low < 0.3 < leaning.high

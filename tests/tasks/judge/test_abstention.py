"""Abstention: the risk that a threshold keeps, and what happens without its test."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from smidgen.evaluation import measure
from smidgen.tasks.judge.abstention import (
    area,
    candidates_from,
    choose_threshold,
    curve,
    in_words,
    upper_bound,
)

RISK, DELTA, TRIALS = 0.1, 0.1, 600


def risk_above(threshold: float) -> float:
    """The true risk: a confidence c is uniform in [0, 1], its verdict wrong with probability (1 - c)² / 2."""
    return (1 - threshold) ** 2 / 6


def draw(random: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    confidences = random.random(number)
    return confidences, random.random(number) < (1 - confidences) ** 2 / 2


def violations(choose, trials: int = TRIALS) -> tuple[float, float]:
    """The share of trials whose threshold has a true risk above the chosen one, and the mean coverage."""
    random = np.random.default_rng(0)
    thresholds = np.array([choose(*draw(random, 200), *draw(random, 200)) for _ in range(trials)])
    kept = np.where(np.isfinite(thresholds), thresholds, 1.0)
    return float(np.mean(risk_above(kept) > RISK)), float(np.mean(1 - kept))


def with_test(confidences, wrong, other_confidences, other_wrong) -> float:
    candidates = candidates_from(other_confidences, other_wrong, RISK)
    return choose_threshold(confidences, wrong, candidates, risk=RISK, delta=DELTA).threshold


def naive(confidences, wrong, *_) -> float:
    """The lowest threshold whose risk on the calibration pairs themselves is at most the chosen one."""
    order = np.argsort(-confidences)
    risks = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(risks <= RISK)
    return float(confidences[order][kept[-1]]) if len(kept) else math.inf


def test_the_threshold_keeps_its_risk_and_the_naive_one_does_not():
    share, coverage = violations(with_test)
    assert share <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / TRIALS)
    assert coverage > 0.3, "a threshold that answers nothing would keep every risk"
    without, _ = violations(naive)
    assert without > 0.4 and without > 3 * share


def test_the_risk_is_kept_over_twenty_splits_of_one_set():
    """As users meet it: one set of pairs, split again and again; both halves are finite."""
    random = np.random.default_rng(1)
    confidences, wrong = draw(random, 2000)
    counts = {"tested": 0, "naive": 0}
    for _ in range(20):
        order = random.permutation(2000)
        fitted, used, held = order[:100], order[100:300], order[300:]
        for name, choose in (("tested", with_test), ("naive", naive)):
            threshold = choose(confidences[used], wrong[used], confidences[fitted], wrong[fitted])
            answered = confidences[held] >= threshold
            counts[name] += bool(answered.any() and wrong[held][answered].mean() > RISK)
    assert counts["tested"] <= 4 < counts["naive"], counts


def test_levels_of_a_majority_keep_the_risk_too():
    """Few levels, tested from unanimity on."""
    random = np.random.default_rng(2)
    levels, wrong_at = np.array([1.0, 0.5, 0.0]), np.array([0.07, 0.2, 0.5])
    shares = np.array([0.8, 0.1, 0.1])
    truth = np.cumsum(shares * wrong_at) / np.cumsum(shares)
    assert truth[0] < RISK < truth[2]
    exceeded = 0
    for _ in range(TRIALS):
        place = random.choice(3, size=200, p=shares)
        wrong = random.random(200) < wrong_at[place]
        found = choose_threshold(levels[place], wrong, levels.tolist(), risk=RISK, delta=DELTA)
        exceeded += bool(found.is_reached and truth[levels.tolist().index(found.threshold)] > RISK)
    assert exceeded / TRIALS <= DELTA


def test_the_test_is_the_binomial_one():
    confidences, wrong = np.ones(50), np.arange(50) < 1
    found = choose_threshold(confidences, wrong, [1.0], risk=RISK, delta=DELTA)
    p = binomtest(1, 50, RISK, alternative="less").pvalue
    assert (p <= DELTA) == found.is_reached and found.is_reached
    bound = binomtest(1, 50, alternative="less").proportion_ci(1 - DELTA).high
    assert found.bound == pytest.approx(bound) and found.bound <= RISK
    assert upper_bound(3, 3, DELTA) == 1.0
    wrong = np.arange(50) < 3
    assert not choose_threshold(confidences, wrong, [1.0], risk=RISK, delta=DELTA).is_reached


def test_a_sequence_stops_at_the_first_threshold_that_fails():
    confidences = np.repeat([3.0, 2.0, 1.0], [30, 30, 300])
    wrong = np.zeros(360, bool)
    wrong[30:60] = True  # at 2.0 half are wrong; at 1.0 only 30 of 360, which would pass alone
    found = choose_threshold(confidences, wrong, [3.0, 2.0, 1.0], risk=RISK, delta=0.2)
    assert (found.threshold, found.answered, found.wrong) == (3.0, 30, 0)
    assert choose_threshold(confidences, wrong, [1.0], risk=RISK, delta=0.2).threshold == 1.0


def test_too_few_pairs_answer_nothing_and_say_how_many_it_takes():
    found = choose_threshold(np.ones(21), np.zeros(21, bool), [1.0], risk=RISK, delta=DELTA)
    assert not found.is_reached and found.threshold == math.inf and found.bound is None
    assert found.to_json()["threshold"] is None and found.needed == 22
    assert "on 21 calibration prompts, so no pair is answered; 22 answered ones" in in_words(found)
    found = choose_threshold(np.ones(22), np.zeros(22, bool), [1.0], risk=RISK, delta=DELTA)
    assert found.is_reached and "at most 0.1 of the verdicts" in in_words(found)
    assert candidates_from(np.empty(0), np.empty(0, bool), RISK) == []
    assert not choose_threshold(np.empty(0), np.empty(0, bool), [1.0], risk=RISK, delta=DELTA).is_reached


def test_the_search_begins_where_the_evidence_is():
    confidences = np.array([0.99, 0.9, *[0.8] * 60, *[0.1] * 60])
    wrong = np.array([True, False, *[False] * 60, *[True] * 30, *[False] * 30])
    assert candidates_from(confidences, wrong, RISK) == [0.8, 0.1]


def area_by_hand(wrong: list[bool]) -> float:
    return float(np.mean([sum(wrong[: n + 1]) / (n + 1) for n in range(len(wrong))]))


def area_of(confidences: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None) -> float:
    found = area(confidences.tolist(), (~wrong).tolist(), [""] * len(wrong))
    return found.function(np.ones(len(wrong)) if weights is None else weights)


def test_the_area_is_the_mean_risk_over_coverages():
    random = np.random.default_rng(3)
    confidences, wrong = draw(random, 40)
    order = np.argsort(-confidences)
    assert area_of(confidences, wrong) == pytest.approx(area_by_hand(wrong[order].tolist()))
    assert area_of(np.ones(40), wrong) == pytest.approx(wrong.mean())
    mixed = np.array([True, True, False, False, True, False])
    shuffles = [area_by_hand(random.permutation(mixed).tolist()) for _ in range(4000)]
    assert area_of(np.ones(6), mixed) == pytest.approx(np.mean(shuffles), abs=0.01)
    weights = random.integers(0, 3, 40).astype(float)
    repeated = np.repeat(np.arange(40), weights.astype(int))
    assert area_of(confidences, wrong, weights) == pytest.approx(
        area_of(confidences[repeated], wrong[repeated])
    )
    assert math.isnan(area_of(np.empty(0), np.empty(0, bool)))


def test_the_curve_ends_with_every_pair():
    random = np.random.default_rng(4)
    confidences, wrong = draw(random, 200)
    found = curve(confidences.tolist(), (~wrong).tolist(), [str(n) for n in range(200)])
    coverages = [point["coverage"] for point in found["points"]]
    assert len(coverages) <= 25 and coverages == sorted(coverages) and coverages[-1] == 1.0
    for point in found["points"]:
        reached = confidences >= point["threshold"]
        assert point["coverage"] == reached.mean()
        assert measure(point["accuracy"]).value == pytest.approx(1 - wrong[reached].mean())
    measured = measure(area(confidences.tolist(), (~wrong).tolist(), [str(n) for n in range(200)]))
    assert measured.value is not None and measured.low is not None and measured.high is not None
    assert measured.value == pytest.approx(area_of(confidences, wrong))
    assert measured.low < measured.value < measured.high
    assert curve([], [], [])["points"] == []

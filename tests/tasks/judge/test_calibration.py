"""Calibration of judges whose scores are worth what is known."""

import numpy as np
import pytest

from smidgen.evaluation.metrics import measure
from smidgen.tasks.judge.calibration import calibration, fit, folds_of
from smidgen.tasks.judge.judgements import Judgement


def judged(gap: float | None, better: str, number: int, order: str | None = "ab") -> Judgement:
    return Judgement(
        pair=f"p{number}", order=order, better=better, verdict="a", lenient_verdict="a", gap=gap,
        cluster=f"p{number}", longer=0, annotators=(), facts={}, subset=None,
    )  # type: ignore[arg-type]  # fmt: skip


def drawn(worth: float, number: int = 3000) -> list[Judgement]:
    """Gaps whose log-odds of a being better are `worth` times the gap, in either order."""
    random = np.random.default_rng(0)
    found = []
    for n in range(number):
        gap = float(random.integers(-8, 9))
        better = "a" if random.random() < 1 / (1 + np.exp(-worth * gap)) else "b"
        found.append(judged(gap, better, n, "ab" if n % 2 else "ba"))
    return found


@pytest.mark.parametrize("worth", [0.0, 0.3])
def test_gaps_that_follow_the_model_are_calibrated(worth: float):
    found = calibration(drawn(worth))
    assert found is not None and found["n"] == 3000
    assert found["ece"] < 0.03
    assert all(b["low"] <= b["predicted"] <= b["high"] for b in found["bins"])
    assert sum(b["n"] for b in found["bins"]) == 3000
    brier = measure(found["brier"])
    if not worth:
        assert brier.value == pytest.approx(0.25, abs=0.005)
    else:
        assert brier.low < brier.value < 0.2


def test_perfect_scores_have_a_small_error():
    found = calibration([judged(7.0 if n % 2 else -7.0, "ab"[n % 2 == 0], n) for n in range(200)])
    assert found is not None and measure(found["brier"]).value < 0.01


def test_answers_graded_alone_count_both_ways():
    found = calibration([judged(2.0, "a", n, None) for n in range(50)])
    assert found is not None and found["n"] == 100 and measure(found["brier"]).value < 0.1


@pytest.mark.parametrize(("worth", "scale"), [(0.0, 1.0), (0.3, 1.0), (3.0, 1.0), (0.3, 100.0)])
def test_folds_and_fits_are_scikit_learns(worth: float, scale: float):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    random = np.random.default_rng(1)
    gaps = random.integers(-8, 9, 400) * scale
    better = (random.random(400) < 1 / (1 + np.exp(-worth * gaps / scale))).astype(float)
    model = LogisticRegression(tol=1e-8).fit(gaps[:, None], better)
    slope, intercept = fit(gaps, better)
    assert slope * scale == pytest.approx(model.coef_[0, 0] * scale, abs=1e-4)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)
    clusters = [f"p{n}" for n in random.integers(0, 60, 400)]
    folds = folds_of(clusters)
    for fold, (_, test) in enumerate(GroupKFold(5).split(gaps, groups=clusters)):
        np.testing.assert_array_equal(np.flatnonzero(folds == fold), test)


@pytest.mark.parametrize(
    "found",
    [
        [],
        [judged(None, "a", n) for n in range(50)],
        [judged(1.0, "tie", n) for n in range(50)],
        [judged(1.0, "ab"[n % 2], n) for n in range(50)],
        [judged(float(n), "a", n) for n in range(50)],
        [judged(float(n), "ab"[n % 2], n) for n in range(4)],
    ],
)
def test_what_cannot_be_calibrated(found: list[Judgement]):
    assert calibration(found) is None

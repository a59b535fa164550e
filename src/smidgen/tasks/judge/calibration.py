"""Calibration: the probability that the answer with the higher score is better, given the score gap.

A logistic regression maps the difference between the scores of the first and the second answer to the
probability that the first is better. It is cross-fitted: predictions for a prompt come from a fit on other
prompts (Platt 1999; expected calibration error as in https://arxiv.org/abs/1706.04599).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from smidgen.tasks.judge.judgements import Judgement
from smidgen.tasks.measures import Measure

FOLDS = 5
BINS = 10


def calibration(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Calibrate the score gaps of a judge and evaluate the calibration.

    Judgements without scores and pairs labelled as ties are excluded.

    Returns:
        `n` judgements, the `brier` score of each as a `Measure`, `ece` over ten bins of equal width, and
        `bins`, each with `low`, `high`, `n`, the mean probability `predicted` and the share `observed`; None
        if there are fewer than five prompts, or the gaps or labels do not vary.
    """
    gaps, first_is_better, clusters = _cases(judgements)
    if len(set(clusters)) < FOLDS or len(set(gaps.tolist())) < 2 or len(set(first_is_better.tolist())) < 2:
        return None
    predicted = _cross_fitted(gaps, first_is_better, clusters)
    if predicted is None:
        return None
    bins = _bins(predicted, first_is_better)
    return {
        "n": len(gaps),
        "brier": Measure(((predicted - first_is_better) ** 2).tolist(), clusters),
        "ece": sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / len(gaps),
        "bins": bins,
    }


def _cases(judgements: Sequence[Judgement]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return the score gap (first minus second), whether the first is better, and the prompt per judgement.

    Answers that were graded alone have no order, so they count once in each.
    """
    gaps, better, clusters = [], [], []
    for judgement in judgements:
        if judgement.gap is None or judgement.better == "tie":
            continue
        for order in ("ab", "ba") if judgement.order is None else (judgement.order,):
            gaps.append(judgement.gap if order == "ab" else -judgement.gap)
            better.append(float(order[0] == judgement.better))
            clusters.append(judgement.cluster)
    return np.array(gaps), np.array(better), clusters


def _cross_fitted(
    gaps: NDArray[np.float64], better: NDArray[np.float64], clusters: list[str]
) -> NDArray[np.float64] | None:
    """Predict the probability that the first is better from the other folds; None if a fold has one class."""
    predicted, folds = np.empty(len(gaps)), folds_of(clusters)
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        if len(set(better[train].tolist())) < 2:
            return None
        slope, intercept = fit(gaps[train], better[train])
        predicted[test] = expit(slope * gaps[test] + intercept)
    return predicted


def folds_of(clusters: Sequence[str]) -> NDArray[np.intp]:
    """Divide cases into folds of about equal size, whole prompts together: the two orders of a pair stay so.

    The prompt with the most cases comes first, and each goes to the smallest fold.
    """
    _, owners, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    sizes, folds = np.zeros(FOLDS), np.empty(len(counts), np.intp)
    for prompt in np.argsort(counts, kind="stable")[::-1]:
        folds[prompt] = np.argmin(sizes)
        sizes[folds[prompt]] += counts[prompt]
    return folds[owners]


def fit(gaps: NDArray[np.float64], better: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and intercept of a logistic regression with the penalty slope² / 2, as scikit-learn does.

    Args:
        gaps: (n,).
        better: (n,) labels 0 and 1, both of which occur.
    """

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = weights[0] * gaps + weights[1]
        errors = expit(logits) - better
        value = np.logaddexp(0, logits).sum() - better @ logits + weights[0] ** 2 / 2
        return value, np.array([errors @ gaps + weights[0], errors.sum()])

    slope, intercept = minimize(loss, np.zeros(2), jac=True).x
    return float(slope), float(intercept)


def _bins(predicted: NDArray[np.float64], better: NDArray[np.float64]) -> list[dict[str, float]]:
    """Return the non-empty bins of the unit interval."""
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    return [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "n": int((place == index).sum()),
            "predicted": float(predicted[place == index].mean()),
            "observed": float(better[place == index].mean()),
        }
        for index in range(BINS)
        if (place == index).any()
    ]

"""Calibration: the probability that the answer with the higher score is better, given the score gap.

A logistic regression maps the difference between the scores of the first and the second answer to the
probability that the first is better. It is cross-fitted: predictions for a prompt come from a fit on other
prompts (Platt 1999; expected calibration error as in https://arxiv.org/abs/1706.04599).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

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
    predicted = np.empty(len(gaps))
    # Folds are made of whole prompts: the two orders of a pair must not be in both parts.
    for train, test in GroupKFold(FOLDS).split(gaps, groups=clusters):
        if len(set(better[train].tolist())) < 2:
            return None
        model = LogisticRegression().fit(gaps[train, None], better[train])
        predicted[test] = model.predict_proba(gaps[test, None])[:, 1]
    return predicted


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

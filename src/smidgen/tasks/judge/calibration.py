"""What a score gap is worth: the probability that the answer with the higher score is better.

A logistic regression maps the gap between the first and the second answer's score to the probability that the
first is better. It is cross-fitted: what is said of a prompt comes from a fit on other prompts (Platt 1999;
expected calibration error as in https://arxiv.org/abs/1706.04599).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from smidgen.tasks.judge.judgements import Judgement
from smidgen.tasks.task import Measure

FOLDS = 5
BINS = 10


def calibration(found: Sequence[Judgement]) -> dict[str, Any] | None:
    """Calibrate the score gaps of a judge, and say how well that went.

    Judgements without scores, and pairs labelled as ties, are left out.

    Returns:
        `n` judgements, the `brier` score of each as a `Measure`, `ece` over ten bins of equal width, and
        `bins`, each with `low`, `high`, `n` and the mean probability `predicted` and share `observed`; None
        where there are fewer than five prompts, or the gaps do not vary.
    """
    gaps, first_is_better, clusters = _cases(found)
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


def _cases(found: Sequence[Judgement]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Gap of first less second, whether the first is better, and the prompt, of each judgement.

    Answers graded alone were never shown as first or second, so they count once each way.
    """
    gaps, better, clusters = [], [], []
    for judgement in found:
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
    """The probability that the first is better, from a fit on the other folds; None if one has no fit."""
    predicted = np.empty(len(gaps))
    for learnt, asked in GroupKFold(FOLDS).split(gaps, groups=clusters):
        if len(set(better[learnt].tolist())) < 2:
            return None
        model = LogisticRegression().fit(gaps[learnt, None], better[learnt])
        predicted[asked] = model.predict_proba(gaps[asked, None])[:, 1]
    return predicted


def _bins(predicted: NDArray[np.float64], better: NDArray[np.float64]) -> list[dict[str, float]]:
    """The bins of the unit interval that hold something."""
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

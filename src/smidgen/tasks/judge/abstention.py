"""When a judge should not answer: a threshold on its confidence that keeps a chosen risk.

The risk is the probability that a verdict is wrong, among the pairs that get one. `choose_threshold` tests
thresholds one after the other, from the most confident on, each by the exact binomial test of "the risk is
above the chosen one" at the level delta, and stops at the first that is not rejected. This is fixed-sequence
testing as in Learn then Test (https://arxiv.org/abs/2110.01052); for judges it was proposed by
https://arxiv.org/abs/2407.18370.

The guarantee: with probability at least 1 − delta over the draw of the calibration pairs, the risk on new
pairs of the same distribution is at most the chosen one. It needs pairs that are drawn independently from
that distribution, so one pair of each prompt is used, and thresholds whose order is fixed without the pairs
they are tested on. It assumes nothing about how good the confidence is; a bad one only answers less often.
Unlike the threshold whose risk on the calibration pairs themselves is the chosen one, it leaves room for
their chance: that threshold exceeds the risk about every second time.

The curve of accuracy against coverage and the area under the curve of risk against coverage (AURC) are those
of https://arxiv.org/abs/1805.08206.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from smidgen.tasks.measures import Measure, Statistic

CURVE_POINTS = 25
"""Maximum number of points of a curve in a report."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and the test that it passed.

    Attributes:
        threshold: lowest confidence with a verdict; infinity if no threshold keeps the risk.
        risk: the chosen risk.
        delta: highest probability that the true risk is above it.
        prompts: number of pairs that the thresholds were tested on, each of another prompt.
        answered: number of these with a verdict.
        wrong: number of those that are wrong.
        bound: upper bound of the risk at the level delta (Clopper and Pearson 1934); None if none is
            answered.
        needed: number of answered pairs, all right, from which on any threshold can pass.
    """

    threshold: float
    risk: float
    delta: float
    prompts: int
    answered: int
    wrong: int
    bound: float | None
    needed: int

    @property
    def is_reached(self) -> bool:
        """Whether there is a threshold that keeps the risk."""
        return math.isfinite(self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; an infinite threshold is None."""
        return asdict(self) | {"threshold": self.threshold if self.is_reached else None}


def choose_threshold(
    confidences: NDArray[np.float64],
    wrong: NDArray[np.bool_],
    candidates: Sequence[float],
    *,
    risk: float,
    delta: float,
) -> Threshold:
    """Return the last threshold of the sequence up to which all pass the test.

    Args:
        confidences: (pairs,), of independent pairs.
        wrong: (pairs,), whether each leaning is wrong.
        candidates: thresholds in descending order, fixed without these pairs.
        risk: highest share of wrong verdicts, between 0 and 1.
        delta: highest probability of a threshold with a higher risk, between 0 and 1.
    """
    assert list(candidates) == sorted(candidates, reverse=True), candidates
    chosen, answered, errors = math.inf, 0, 0
    for threshold in candidates:
        number, missed = _counted(confidences, wrong, threshold)
        if _p_value(number, missed, risk) > delta:
            break
        chosen, answered, errors = threshold, number, missed
    needed = math.ceil(math.log(delta) / math.log1p(-risk))
    bound = upper_bound(errors, answered, delta) if answered else None
    return Threshold(chosen, risk, delta, len(confidences), answered, errors, bound, needed)


def in_words(found: Threshold) -> str:
    """Say what a threshold guarantees, or that there is none."""
    risk, sure = f"{found.risk:.3g}", f"{1 - found.delta:.3g}"
    if not found.is_reached:
        return (
            f"no threshold keeps the share of wrong verdicts at {risk} with probability {sure} on "
            f"{found.prompts:,} calibration prompts, so no pair is answered; {found.needed:,} answered ones "
            "without a mistake are the fewest that can: give more rows, a higher risk or better judges"
        )
    return (
        f"with probability {sure}, at most {risk} of the verdicts on new pairs like these are wrong; of "
        f"{found.prompts:,} calibration prompts, {found.answered:,} are answered and {found.wrong:,} of "
        f"these wrongly (upper bound {found.bound or 0:.3f})"
    )


def candidates_from(confidences: NDArray[np.float64], wrong: NDArray[np.bool_], risk: float) -> list[float]:
    """Return a sequence of thresholds to test on other pairs than these.

    It goes down from the threshold that has the strongest evidence for the risk in these pairs: above it, too
    few are answered for any test.
    """
    order = np.argsort(-confidences, kind="stable")
    last = np.flatnonzero(np.append(np.diff(confidences[order]) != 0, len(order) > 0))  # of each confidence
    evidence = bdtr(np.cumsum(wrong[order])[last], last + 1, risk)
    return confidences[order][last][int(np.argmin(evidence)) :].tolist() if len(last) else []


def upper_bound(errors: int, n: int, delta: float) -> float:
    """Return the highest rate that `errors` of `n` do not exclude at the level delta, one-sided and exact."""
    return 1.0 if errors >= n else float(betaincinv(errors + 1, n - errors, 1 - delta))


def curve(confidences: Sequence[float], right: Sequence[bool], clusters: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy of the verdicts against the share of pairs that get one.

    Args:
        confidences: of each pair.
        right: whether each leaning is right.
        clusters: the prompt of each pair.

    Returns:
        `pairs`, and `points`: at most `CURVE_POINTS` thresholds, the most confident first, each with its
        `coverage` and its `accuracy` as a `Measure`.
    """
    order = np.argsort(-np.asarray(confidences, float), kind="stable")
    sorted_confidences = np.asarray(confidences, float)[order]
    sorted_right = np.asarray(right, bool)[order]
    prompts = [clusters[int(index)] for index in order]
    ends = np.flatnonzero(np.append(np.diff(sorted_confidences) != 0, True)) + 1 if len(order) else []
    points = [
        {
            "threshold": float(sorted_confidences[end - 1]),
            "coverage": end / len(order),
            "accuracy": Measure(sorted_right[:end].astype(float).tolist(), prompts[:end]),
        }
        for end in _spread(np.asarray(ends), CURVE_POINTS)
    ]
    return {"pairs": len(order), "points": points}


def area(confidences: Sequence[float], right: Sequence[bool], clusters: Sequence[str]) -> Statistic:
    """Return the area under the curve of risk against coverage; arguments as in `curve`."""
    _, ranks = np.unique(-np.asarray(confidences, float), return_inverse=True)
    wrong = ~np.asarray(right, bool)
    return Statistic(lambda weights: aurc(ranks, wrong, weights), clusters)


def aurc(ranks: NDArray[np.intp], wrong: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """Return the mean risk over all coverages; the risk itself if all confidences are equal.

    Pairs of equal confidence are answered in random order: the expected area is returned.

    Args:
        ranks: (pairs,), rank of each pair's confidence, 0 for the highest; equal confidences share one.
        wrong: (pairs,).
        weights: (pairs,), whole numbers: a pair of weight k counts as k pairs.
    """
    if not weights.sum():
        return float("nan")
    sizes, errors = np.bincount(ranks, weights), np.bincount(ranks, weights * wrong)
    before, missed = np.cumsum(sizes) - sizes, np.cumsum(errors) - errors
    rate = np.divide(errors, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    place = np.arange(1, round(sizes.sum()) + 1)
    of = np.repeat(np.arange(len(sizes)), np.round(sizes).astype(int))
    return float(((missed[of] + (place - before[of]) * rate[of]) / place).mean())


def _spread(ends: NDArray[np.intp], most: int) -> list[int]:
    """Return at most so many of the ends, spread over the coverage, with the first and the last."""
    if len(ends) <= most:
        return ends.tolist()
    wanted = np.linspace(ends[0], ends[-1], most)
    return sorted({int(ends[np.argmin(np.abs(ends - place))]) for place in wanted})


def _counted(confidences: NDArray[np.float64], wrong: NDArray[np.bool_], threshold: float) -> tuple[int, int]:
    """Return how many pairs reach a threshold, and how many of these are wrong."""
    reached = confidences >= threshold
    return int(reached.sum()), int(wrong[reached].sum())


def _p_value(n: int, errors: int, risk: float) -> float:
    """Return the probability of at most so many errors if the risk were just above the chosen one."""
    return float(bdtr(errors, n, risk)) if n else 1.0

"""One verdict per pair from all its judgements: both orders, several samples, several judges.

- `majority`: every judgement is one vote; the confidence is the lead of the winner, as a share of all votes.
- `mean`: a judge's margin is the mean of its signed judgements: the gap between the two scores if the
  template has scores, else +1 for `a`, −1 for `b` and 0 for a tie. The weighted sum of the margins is the log
  odds that `a` is better. The weights are those of a logistic regression without an intercept (Platt 1999),
  fitted to labelled pairs.

Both are symmetric: swapping the answers of a pair swaps its verdict and keeps its confidence. An unparsed
judgement counts as one that prefers neither answer, so it lowers the confidence. Orders that contradict each
other cancel out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from smidgen.data.formats import Label
from smidgen.errors import DataError

Method = Literal["majority", "mean"]
METHODS: tuple[Method, ...] = get_args(Method)
UNSURE = "unsure"
"""The verdict of a judge that abstains. A tie is a verdict; this is none."""


class Vote(Protocol):
    """A judgement of a pair; sides are called `a` and `b` in both orders."""

    @property
    def verdict(self) -> Label | None:
        """The preferred side, `tie`, or None if the completion did not parse."""
        ...

    @property
    def gap(self) -> float | None:
        """Score of `a` minus that of `b`, if the template has scores."""
        ...


@dataclass(frozen=True)
class Decision:
    """What all judgements of a pair amount to.

    Attributes:
        leaning: the better side, `tie` if neither is, None if no judgement parsed.
        confidence: from 0 to 1. With `mean`, the estimated probability that `leaning` is right, from 0.5 on,
            or 0 if it is None. With `majority`, the lead as a share of all votes.
        is_answered: whether the confidence reaches the threshold.
    """

    leaning: Label | None
    confidence: float
    is_answered: bool = True

    @property
    def verdict(self) -> Label | Literal["unsure"] | None:
        """The leaning, or `unsure`."""
        return self.leaning if self.is_answered else UNSURE


@dataclass(frozen=True)
class Combination:
    """How the judgements of a pair are combined, and when there is no verdict.

    Attributes:
        method: `majority` or `mean`.
        weights: weight of each judge's margin with `mean`; None with `majority`.
        threshold: lowest confidence with a verdict; 0 always gives one, infinity never.
    """

    method: Method = "majority"
    weights: tuple[float, ...] | None = None
    threshold: float = 0.0

    def __post_init__(self) -> None:
        assert (self.weights is None) == (self.method == "majority"), self

    def decide(self, votes: Sequence[Sequence[Vote]]) -> Decision:
        """Combine the votes on one pair, given by judge.

        The order of the judges, together with their weights, and of their votes does not matter.
        """
        if all(vote.verdict is None for judge in votes for vote in judge):
            return Decision(None, 0.0, self.threshold <= 0)
        if self.weights is None:
            leaning, confidence = _majority([vote for judge in votes for vote in judge])
        else:
            odds = self.odds(votes)
            leaning, confidence = _of_sign(odds), float(expit(abs(odds)))
        return Decision(leaning, confidence, confidence >= self.threshold)

    def odds(self, votes: Sequence[Sequence[Vote]]) -> float:
        """Return the log odds that `a` is better, with the method `mean`."""
        assert self.weights is not None
        # An exact sum, so that the order of the judges cannot change the last bit.
        weighed = zip(self.weights, votes, strict=True)
        return math.fsum(weight * margin(judge) for weight, judge in weighed)


def margin(votes: Sequence[Vote]) -> float:
    """Return the mean signed judgement of one judge, positive for `a`; unparsed ones count as 0."""
    signs = {"a": 1.0, "b": -1.0}
    values = [signs.get(vote.verdict or "", 0.0) if vote.gap is None else vote.gap for vote in votes]
    return math.fsum(values) / len(values)


def levels(num_votes: int) -> list[float]:
    """Return every confidence that a majority of so many votes can have, the highest first."""
    return [lead / num_votes for lead in range(num_votes, -1, -1)]


def fit_weights(
    margins: NDArray[np.float64], labels: Sequence[Label], *, source: str = "the calibration rows"
) -> tuple[float, ...]:
    """Fit the weight of each judge on labelled pairs; ties are left out.

    The penalty is half the squared length of the weights of standardised margins. No weight is negative: the
    opposite of a bad judge is not evidence, so it gets the weight 0.

    Args:
        margins: (pairs, judges).
        labels: the better side of each pair.
        source: names the pairs in errors.

    Raises:
        DataError: no judge is better than guessing on these pairs.
    """
    decided = np.array([label != "tie" for label in labels])
    signs = np.array([1.0 if label == "a" else -1.0 for label in labels])[decided]
    used = margins[decided] * signs[:, None]  # (pairs, judges), positive where a judge is right
    scale = np.sqrt((used**2).mean(axis=0)) if len(used) else np.zeros(margins.shape[1])
    scale[scale == 0] = 1.0
    used = used / scale

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = used @ weights
        value = np.logaddexp(0, -odds).sum() + weights @ weights / 2
        return float(value), weights - expit(-odds) @ used

    start = np.zeros(margins.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    weights = tuple(float(weight) for weight in found.x / scale)
    if not any(weights):
        raise DataError(
            f"on {len(used)} pairs of {source}, no judge is better than guessing, so there is nothing to "
            "weigh; use other judges, or --combine majority"
        )
    return weights


def _majority(votes: Sequence[Vote]) -> tuple[Label, float]:
    """Return the winner and its lead over the other side, or of ties over sides, as a share of the votes."""
    sides = [vote.verdict for vote in votes]
    lead = sides.count("a") - sides.count("b")
    if lead == 0:
        ties = sides.count("tie") - sides.count("a") - sides.count("b")
        return "tie", max(ties, 0) / len(votes)
    return _of_sign(lead), abs(lead) / len(votes)


def _of_sign(value: float) -> Label:
    return "a" if value > 0 else "b" if value < 0 else "tie"

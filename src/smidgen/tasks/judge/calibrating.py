"""Weights and the threshold of an ensemble, from labelled pairs that are held out from its evaluation."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smidgen.data.formats import Label
from smidgen.errors import DataError
from smidgen.tasks.judge.abstention import Threshold, candidates_from, choose_threshold
from smidgen.tasks.judge.ballots import Ballot
from smidgen.tasks.judge.combination import Combination, Method, fit_weights, levels, margin


@dataclass(frozen=True)
class Calibrated:
    """A calibrated combination.

    Attributes:
        combination: with its weights and its threshold.
        threshold: the test of the threshold; None if no risk was chosen.
    """

    combination: Combination
    threshold: Threshold | None


def calibrate(
    ballots: Sequence[Ballot],
    method: Method,
    *,
    risk: float | None,
    delta: float,
    seed: int,
    source: str = "the calibration rows",
) -> Calibrated:
    """Fit the weights of `mean`, and choose the threshold that keeps a risk.

    With both, half of the prompts are for the weights and for where the search of the threshold begins, and
    the other half for its tests, so that these are of pairs that nothing was fitted to. A majority has no
    weights, and its search begins at unanimity.

    Args:
        ballots: of labelled pairs.
        method: `majority` or `mean`.
        risk: highest share of wrong verdicts; None for a verdict on every pair.
        delta: highest probability of a higher risk.
        seed: seed of the halves, and of the draw of one pair from each prompt.
        source: names the pairs in errors.

    Raises:
        DataError: there are no pairs for one of these, or no judge is better than guessing.
    """
    if not ballots:
        raise DataError(f"there is no pair in {source}; give labelled pairs")
    if method == "majority":
        if risk is None:
            return Calibrated(Combination(), None)
        combination, tested = Combination(), ballots
        candidates = levels(len(ballots[0].all))
    else:
        fitted, tested = (ballots, []) if risk is None else halves(ballots, seed, source)
        margins = np.array([[margin(judge) for judge in ballot.votes] for ballot in fitted])
        labels: list[Label] = [ballot.all[0].better for ballot in fitted]
        combination = Combination(method, fit_weights(margins, labels, source=source))
        if risk is None:
            return Calibrated(combination, None)
        candidates = candidates_from(*confidences(fitted, combination), risk)
    found = choose_threshold(
        *confidences(one_per_prompt(tested, seed), combination), candidates, risk=risk, delta=delta
    )
    return Calibrated(replace(combination, threshold=found.threshold), found)


def confidences(
    ballots: Sequence[Ballot], combination: Combination
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence of each pair's verdict, and whether its leaning is wrong: both (pairs,)."""
    decisions = [combination.decide(ballot.votes) for ballot in ballots]
    wrong = [not ballot.is_right(found) for ballot, found in zip(ballots, decisions, strict=True)]
    return np.array([found.confidence for found in decisions], float), np.array(wrong, bool)


def halves(ballots: Sequence[Ballot], seed: int, source: str) -> tuple[list[Ballot], list[Ballot]]:
    """Divide ballots into two halves, whole prompts together, at random.

    Raises:
        DataError: there is only one prompt.
    """
    prompts = sorted({ballot.cluster for ballot in ballots})
    if len(prompts) < 2:
        raise DataError(
            f"there is only one prompt in {source}; expected several, half of them for the weights and half "
            "for the threshold"
        )
    first = set(random.Random(f"halves/{seed}").sample(prompts, len(prompts) // 2))
    return (
        [ballot for ballot in ballots if ballot.cluster in first],
        [ballot for ballot in ballots if ballot.cluster not in first],
    )


def one_per_prompt(ballots: Sequence[Ballot], seed: int) -> list[Ballot]:
    """Draw one ballot of each prompt, since those of one prompt are not independent."""
    by_prompt: dict[str, list[Ballot]] = {}
    for ballot in ballots:
        by_prompt.setdefault(ballot.cluster, []).append(ballot)
    draw = random.Random(f"one per prompt/{seed}")
    return [draw.choice(sorted(by_prompt[prompt], key=lambda b: b.pair)) for prompt in sorted(by_prompt)]

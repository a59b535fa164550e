"""Aggregate several judgements of one pair, from both orders or several samples, into one verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.data.formats import Label
from smidgen.tasks.judge.forms import Verdict
from smidgen.tasks.judge.judgements import side


@dataclass(frozen=True)
class Outcome:
    """The aggregated judgements of one pair.

    Attributes:
        verdict: the side preferred by more judgements, `tie` if neither is, None if none parsed.
        consistent: whether every judgement parsed and all agree.
        scores: mean scores of `a` and `b`, if the template has scores.
        judgements: number of judgements.
        unparsed: number of those that did not parse.
    """

    verdict: Label | None
    consistent: bool
    scores: tuple[float, float] | None
    judgements: int
    unparsed: int


def outcome(verdicts: Sequence[tuple[str, Verdict | None]]) -> Outcome:
    """Aggregate the verdicts on one pair, each with the order in which the pair was shown."""
    parsed = [(order, verdict) for order, verdict in verdicts if verdict is not None]
    sides = [side(verdict, order) for order, verdict in parsed]
    lead = sides.count("a") - sides.count("b")  # ties only matter where neither side leads
    scores = [
        (verdict.first, verdict.second) if order == "ab" else (verdict.second, verdict.first)
        for order, verdict in parsed
        if verdict.first is not None and verdict.second is not None
    ]
    return Outcome(
        verdict=("a" if lead > 0 else "b" if lead < 0 else "tie") if sides else None,
        consistent=len(parsed) == len(verdicts) and len(set(sides)) == 1,
        scores=tuple(np.mean(scores, axis=0).tolist()) if scores else None,  # type: ignore[arg-type]
        judgements=len(verdicts),
        unparsed=len(verdicts) - len(parsed),
    )

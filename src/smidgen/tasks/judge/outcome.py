"""What several judgements of one pair come to: both orders, or many samples, as one verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.data.formats import Label
from smidgen.tasks.judge.forms import Verdict
from smidgen.tasks.judge.judgements import side


@dataclass(frozen=True)
class Outcome:
    """What all judgements of one pair come to.

    Attributes:
        verdict: the side with more judgements, `tie` if neither has more, None if none parsed.
        consistent: whether every judgement parsed and all say the same.
        scores: mean scores of `a` and `b`, where the form has scores.
        judgements: how many there are.
        unparsed: how many of them did not parse.
    """

    verdict: Label | None
    consistent: bool
    scores: tuple[float, float] | None
    judgements: int
    unparsed: int


def outcome(said: Sequence[tuple[str, Verdict | None]]) -> Outcome:
    """Put the verdicts on one pair together, each with the order in which the pair was shown."""
    parsed = [(order, verdict) for order, verdict in said if verdict is not None]
    sides = [side(verdict, order) for order, verdict in parsed]
    lead = sides.count("a") - sides.count("b")
    scores = [
        (verdict.first, verdict.second) if order == "ab" else (verdict.second, verdict.first)
        for order, verdict in parsed
        if verdict.first is not None and verdict.second is not None
    ]
    return Outcome(
        verdict=("a" if lead > 0 else "b" if lead < 0 else "tie") if sides else None,
        consistent=len(parsed) == len(said) and len(set(sides)) == 1,
        scores=tuple(np.mean(scores, axis=0).tolist()) if scores else None,  # type: ignore[arg-type]
        judgements=len(said),
        unparsed=len(said) - len(parsed),
    )

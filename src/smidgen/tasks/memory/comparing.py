"""A new fact beside each stored one alone, and the decision that follows from all these comparisons.

Small models compare two facts much better than one with several: docs/notebook.md has the figures. Nor is
there an order of the candidates to be biased by, or a number that was not offered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smidgen.data.memories import Candidate, Decision
from smidgen.data.types import Completion, Constraint, Message, Sample
from smidgen.errors import DataError
from smidgen.tasks.memory.answers import arbitrate_answers, one_of, read_answer, spellings
from smidgen.tasks.memory.texts import on_one_line

INSTRUCTION = "Compare the new fact with the stored one: ADD, UPDATE, DELETE or NONE."
MOST_CANDIDATES = 16
MOST_CHARACTERS = 300
"""Of one fact in a prompt: some 75 tokens of English."""
CONSTRAINT: Constraint = one_of(arbitrate_answers())
_ALLOWED = spellings(arbitrate_answers())


def arbitrate_samples(fact: str, candidates: Sequence[Candidate], *, id: str = "") -> list[Sample]:
    """Return the prompts that compare a fact with each of the stored ones, whose numbers end their ids.

    Raises:
        DataError: there are more than `MOST_CANDIDATES`.
    """
    if len(candidates) > MOST_CANDIDATES:
        raise DataError(
            f"there are {len(candidates)} candidates, expected at most {MOST_CANDIDATES}; give the nearest"
        )
    new = on_one_line(fact, MOST_CHARACTERS)
    return [
        Sample(
            f"{id}#{number}",
            (
                Message("system", INSTRUCTION),
                Message("user", f"New: {new}\nStored: {on_one_line(each.text, MOST_CHARACTERS)}"),
            ),
            metadata={"candidate": each.id},
        )
        for number, each in enumerate(candidates, start=1)
    ]


@dataclass(frozen=True)
class Comparison:
    """What an answer says of one candidate: the action is ADD if the fact does nothing to it.

    Attributes:
        candidate: its id.
        action: one of `ARBITRATE_ACTIONS`.
        kind: one of `KINDS`.
        confidence: the probability of the answer; None if it is not known.
    """

    candidate: str
    action: str
    kind: str
    confidence: float | None = None


def read_comparison(sample: Sample, completion: Completion) -> Comparison:
    """Read an answer to one of `arbitrate_samples`.

    Raises:
        ParseError: the text is not such an answer.
    """
    answer = read_answer(completion.text, _ALLOWED)
    confidence = math.exp(sum(completion.logprobs)) if completion.logprobs else None
    return Comparison(sample.metadata["candidate"], answer["decision"], answer["kind"], confidence)


def decided(comparisons: Sequence[Comparison]) -> Decision:
    """Return the decision on a fact: what it most surely does to a candidate, and ADD if nothing to any.

    Of equally sure ones, or where it is not known how sure they are, the first counts: candidates come in the
    order of their nearness.
    """
    concerned = [each for each in comparisons if each.action != "ADD"]
    if concerned:
        surest = max(concerned, key=lambda each: each.confidence or 0.0)
        return Decision(surest.action, target=surest.candidate, kind=surest.kind)
    least_sure = min(comparisons, key=lambda each: each.confidence or 0.0, default=None)
    return Decision("ADD", kind=least_sure.kind if least_sure else "new")

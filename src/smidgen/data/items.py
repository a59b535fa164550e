"""What rows hold, whatever their format: pairs of answers, utterances, questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Label = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and which of them people (or the construction) hold to be better.

    Attributes:
        id: unique in its file.
        prompt: the whole conversation up to the answers, as text.
        a: one answer.
        b: the other.
        better: the label; None where nobody gave one.
        better_beside_reference: the label that was given with the reference in view, where there are two.
        subset: the part of a benchmark that it belongs to.
        reference: a right answer that a judge may be shown.
        annotators: what each person said, where the row tells.
        facts: what its benchmark needs for scoring, such as the row that several pairs come from.
        answer_ids: what `a` and `b` are known by among all answers of the file, where pairs share answers.
    """

    id: str
    prompt: str
    a: str
    b: str
    better: Label | None = None
    subset: str | None = None
    reference: str | None = None
    annotators: tuple[Label, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    answer_ids: tuple[str, str] | None = None
    better_beside_reference: Label | None = None


@dataclass(frozen=True)
class Query:
    """One utterance and the intent behind it."""

    id: str
    text: str
    intent: str


@dataclass(frozen=True)
class Question:
    """One question, the ways its right answer may be put, shortest first, and the kind of question it is."""

    id: str
    prompt: str
    accepted: tuple[str, ...]
    subset: str | None

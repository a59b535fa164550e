"""The items read from rows of any format: pairs of answers, utterances, questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Label = Literal["a", "b", "tie"]
Scores = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and the label that says which is better.

    Attributes:
        id: unique in its file.
        prompt: the whole conversation up to the answers, as text.
        a: one answer.
        b: the other.
        better: the label; None if there is none.
        better_with_reference: the label that was given with the reference in view, if there are two.
        subset: the subset of the benchmark.
        reference: a right answer that a judge may be shown.
        annotators: the label of each annotator, if the row has them.
        facts: fields that the benchmark needs for scoring, such as the row that several pairs come from.
        answer_ids: ids of `a` and `b` among all answers of the file, if pairs share answers.
        scores: the scores of `a` and `b` that the label is from, if the row has them.
        scores_with_reference: those of `better_with_reference`.
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
    better_with_reference: Label | None = None
    scores: Scores | None = None
    scores_with_reference: Scores | None = None

    def seen_with_reference(self) -> "Pair":
        """The pair with the label and the scores that were given with the reference in view, if there are."""
        if self.better_with_reference is None:
            return self
        return replace(self, better=self.better_with_reference, scores=self.scores_with_reference)


@dataclass(frozen=True)
class Query:
    """One utterance and the intent behind it."""

    id: str
    text: str
    intent: str


@dataclass(frozen=True)
class Question:
    """One question, its accepted answers, shortest first, and the kind of question."""

    id: str
    prompt: str
    accepted: tuple[str, ...]
    subset: str | None

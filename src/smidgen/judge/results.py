"""What a judge says: one judgement, a comparison, a grade, a ranking."""

from dataclasses import dataclass

from smidgen.data.formats import Label
from smidgen.tasks.judge.outcome import Outcome
from smidgen.tasks.judge.ranking import Strength


@dataclass(frozen=True)
class Said:
    """One judgement of a pair in one order.

    Attributes:
        order: the order in which the answers were shown, `ab` or `ba`.
        verdict: `a`, `b`, `tie`, or None if the completion did not parse.
        scores: scores of `a` and `b`, if the template has scores.
        text: the judge's completion: its critique and its verdict.
        fault: why it did not parse; empty if it did.
    """

    order: str
    verdict: Label | None
    scores: tuple[float, float] | None
    text: str
    fault: str = ""

    @property
    def gap(self) -> float | None:
        """Score of `a` minus that of `b`, if the template has scores."""
        return None if self.scores is None else self.scores[0] - self.scores[1]


@dataclass(frozen=True)
class Piece:
    """A piece of a judgement as it is generated, and the order in which its answers are shown."""

    order: str
    text: str


@dataclass(frozen=True)
class Compared(Outcome):
    """The aggregated judgements of a pair, with each judgement, the tokens used and the seconds taken."""

    said: tuple[Said, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Graded:
    """The grade of one answer: the mean over the samples that parsed, None if none did."""

    grade: float | None
    grades: tuple[float | None, ...]
    texts: tuple[str, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Ranked:
    """Answers by strength, the best first, and the comparisons between them."""

    places: tuple[Strength, ...]
    comparisons: tuple[tuple[int, int, Compared], ...]
    tokens: int
    seconds: float

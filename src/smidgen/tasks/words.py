"""The words in which reports, model cards and the terminal speak of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class MetricWords(NamedTuple):
    """How a metric is named and explained in a line; the arrow points to where it is better."""

    label: str
    meaning: str = ""
    arrow: str = ""


class ClaimWords(NamedTuple):
    """`The {noun} {does} 87 % of {things}`; `asked` are the rows, `answer` is one of what was counted."""

    noun: str = "model"
    does: str = "answers right"
    things: str = "questions"
    asked: str = "questions"
    answer: str = "answer"


@dataclass(frozen=True)
class TaskWords:
    """Everything that is said about a task.

    Attributes:
        claim: the nouns and verbs of the headline.
        metrics: words for the metrics, in the order of the report's table.
        baselines: what each baseline does.
        limits: one sentence on what the figures do not show.
        chance: the accuracy of guessing, where a model that does no better shows nothing.
        compared_with_chance: metrics that are drawn with a reference line at `chance`.
        plain: beginnings of the names of metrics that are not rates.
        details: metrics that only the page shows, not the table in the terminal.
        pairing: added to the note on paired comparisons.
    """

    claim: ClaimWords = field(default_factory=ClaimWords)
    metrics: Mapping[str, MetricWords] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    limits: str = "The figures hold for rows like those it was evaluated on."
    chance: float | None = None
    compared_with_chance: frozenset[str] = frozenset()
    plain: tuple[str, ...] = ()
    details: frozenset[str] = frozenset()
    pairing: str = ""

    def metric(self, name: str) -> MetricWords:
        """The words for a metric; a name without words is spelt out."""
        return self.metrics.get(name) or MetricWords(spelt_out(name).capitalize())

    def baseline(self, name: str) -> str:
        """What a baseline does."""
        return self.baselines.get(name) or spelt_out(name)


def spelt_out(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ").strip()

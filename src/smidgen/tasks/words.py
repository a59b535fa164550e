"""Texts about a task for reports, model cards and the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class MetricWords(NamedTuple):
    """Label and one-line explanation of a metric; the arrow shows which direction is better."""

    label: str
    meaning: str = ""
    arrow: str = ""


class ClaimWords(NamedTuple):
    """Parts of the headline `The {noun} {does} 87 % of {things}`.

    Attributes:
        noun: name of the model.
        does: verb phrase.
        things: the unit of the accuracy, in the plural.
        asked: the unit of the rows, in the plural.
        answer: one answer of the model, in the singular; empty if it gives none, so that costs are left out.
    """

    noun: str = "model"
    does: str = "correctly answers"
    things: str = "questions"
    asked: str = "questions"
    answer: str = "answer"


@dataclass(frozen=True)
class TaskWords:
    """All texts about a task.

    Attributes:
        claim: nouns and verbs of the headline.
        metrics: texts for the metrics, in the order of the report's table.
        baselines: description of each baseline.
        limits: a sentence on the limitations of the results.
        chance: accuracy of guessing, if the headline is to compare with it.
        compared_with_chance: metrics drawn with a reference line at `chance`.
        plain: prefixes of the names of metrics that are not rates.
        details: metrics shown on the page only, not in the terminal.
        pairing: addition to the note on paired comparisons.
        shown: what the examples of the report show of each model.
    """

    claim: ClaimWords = field(default_factory=ClaimWords)
    metrics: Mapping[str, MetricWords] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    limits: str = "The results hold for rows like those of the evaluation."
    chance: float | None = None
    compared_with_chance: frozenset[str] = frozenset()
    plain: tuple[str, ...] = ()
    details: frozenset[str] = frozenset()
    pairing: str = ""
    shown: str = "the answer of each model"

    def metric(self, name: str) -> MetricWords:
        """Return the texts for a metric; by default its name with spaces."""
        return self.metrics.get(name) or MetricWords(spelt_out(name).capitalize())

    def baseline(self, name: str) -> str:
        """Return the description of a baseline; by default its name with spaces."""
        return self.baselines.get(name) or spelt_out(name)


def spelt_out(name: str) -> str:
    """Return a name with spaces for underscores."""
    return name.replace("_", " ").strip()

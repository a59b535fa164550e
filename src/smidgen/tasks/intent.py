"""Intent classification with an out-of-scope class: the model generates the label of an utterance as text.

The prompt is the bare utterance: the labels are learned in training and not listed, which keeps 150 of them
out of every prompt. Underscores in labels become spaces, because tokenizers have tokens for words.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from smidgen.config import Section
from smidgen.data.examples import Example
from smidgen.data.formats import QUERY_FORMATS, queries
from smidgen.data.memories import OUT_OF_SCOPE, Decision
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.errors import DataError, ParseError
from smidgen.files import sha256_json
from smidgen.tasks.classification import confusions, macro_f1_of, most_frequent, normalise
from smidgen.tasks.measures import Metric, Statistic
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

_SHOWN_CHARACTERS = 60


class IntentSettings(Section):
    """Settings of the task `intent`."""

    system: str | None = None
    """System message of every prompt; without it, the chat template decides, which may add a long one."""


class Intent(Task):
    """Utterance → intent label.

    Args:
        labels: all labels. Without them, any single line parses as a label, so that a nonexistent one is
            wrong but not unparsed.
        settings: the settings.
    """

    name = "intent"
    words = TaskWords(
        claim=ClaimWords("model", "names the right intent for", "queries", "queries"),
        metrics={
            "accuracy": MetricWords("Accuracy", "correct intents", "↑"),
            "in_scope_accuracy": MetricWords("In-scope accuracy", "queries with an in-scope intent", "↑"),
            "macro_f1": MetricWords("Macro F1", "all intents weighted equally", "↑"),
            "oos_recall": MetricWords("Out-of-scope recall", "out-of-scope queries recognised", "↑"),
            "unparsed_rate": MetricWords("Unparsed", "unparsed completions; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the most frequent intent"},
        limits="The results hold for queries like those in the test set and for these labels only.",
    )

    settings_table = IntentSettings
    formats = QUERY_FORMATS

    def __init__(self, labels: Iterable[str] = (), settings: IntentSettings | None = None) -> None:
        self.labels = {normalise(label): label for label in sorted(set(labels))}
        self.settings = self._own = settings or IntentSettings()
        self.variant = "" if self._own.system is None else sha256_json(self._own.system)[:8]

    @classmethod
    def from_settings(cls, settings: IntentSettings) -> Self:
        """Create the task from its settings."""
        return cls(settings=settings)

    @property
    def constraint(self) -> Constraint | None:
        """A choice among the labels as text, if they are known."""
        texts = [label_text(label) for label in self.labels.values()]
        return Constraint("choices", json.dumps(texts)) if texts else None

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Add the labels of these rows to the task's; it needs the training rows too.

        Raises:
            DataError: two labels differ only in case, spaces or underscores, which parsing ignores.
        """
        labels = sorted({*self.labels.values(), *(query.intent for query in queries(rows, source=source))})
        prepared = type(self)(labels, self._own)
        if len(prepared.labels) < len(labels):
            lost = next(label for label in labels if label not in prepared.labels.values())
            raise DataError(
                f"the intents '{lost}' and '{prepared.labels[normalise(lost)]}' differ only in case, "
                "spaces or underscores; rename one of them"
            )
        return prepared

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per utterance, with the id of the row."""
        return [
            self.sample(query.text, id=query.id, intent=query.intent)
            for query in queries(rows, source=source, rejected=rejected)
        ]

    def sample(self, text: str, *, id: str = "", intent: str | None = None) -> Sample:
        """Return the prompt about an utterance, with its intent if it is known."""
        system = () if self._own.system is None else (Message("system", self._own.system),)
        return Sample(
            id, (*system, Message("user", text)), metadata={} if intent is None else {"intent": intent}
        )

    def decision(self, sample: Sample, text: str) -> Decision:
        """Read the decision, whose action is a label; raises as `parse`."""
        return Decision(self.parse(text))

    def target(self, sample: Sample) -> str:
        """The label as text."""
        return label_text(sample.metadata["intent"])

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The utterances with their intents."""
        return [
            Example(query.id, query.text, (label_text(query.intent),), query.intent)
            for query in queries(rows, source=source, rejected=rejected)
        ]

    def show(self, row: Row) -> dict[str, Any]:
        """The utterance and its intent."""
        return {"prompt": row["text"], "target": row["intent"]}

    def parse(self, text: str) -> str:
        """The label that the whole text names, ignoring case, spaces and underscores.

        Raises:
            ParseError: the text is not a label.
        """
        answer = normalise(text)
        shown = text.strip()[:_SHOWN_CHARACTERS]
        if not self.labels and (not answer or "\n" in text.strip()):
            raise ParseError(f"'{shown}' is not a label; expected one line")
        if self.labels and answer not in self.labels:
            raise ParseError(f"'{shown}' is none of the {len(self.labels)} labels")
        return self.labels.get(answer, answer)

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 if the completion names the sample's intent."""
        intent = sample.metadata["intent"]
        try:
            label = self.parse(completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(normalise(label) == normalise(intent)), label, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all rows, then in scope, per class (macro F1) and out of scope."""
        in_scope = [record for record in records if record.sample.metadata["intent"] != OUT_OF_SCOPE]
        out_of_scope = [record for record in records if record.sample.metadata["intent"] == OUT_OF_SCOPE]
        return {
            "accuracy": accuracy(records),
            "in_scope_accuracy": accuracy(in_scope),
            "macro_f1": _macro_f1(records),
            "oos_recall": accuracy(out_of_scope),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of always predicting the most frequent intent of these samples."""
        intents = [sample.metadata["intent"] for sample in samples]
        return {"most_frequent": most_frequent(intents, [sample.id for sample in samples])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """The most frequent confusions; a `predicted` of null did not parse."""
        wrong = [
            (record.sample.metadata["intent"], record.score.answer)
            for record in records
            if record.score.value < 1
        ]
        return {"confusions": confusions(wrong)}


def label_text(label: str) -> str:
    """A label as a model writes it."""
    return label.replace("_", " ")


def _macro_f1(records: Sequence[Record]) -> Statistic:
    """Mean F1 of the in-scope intents that occur; unparsed answers count as misses of the true intent."""
    return macro_f1_of(
        [record.sample.metadata["intent"] for record in records],
        [record.score.answer for record in records],
        [record.sample.id for record in records],
        left_out=(OUT_OF_SCOPE,),
    )

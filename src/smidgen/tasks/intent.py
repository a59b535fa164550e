"""Intent classification with an out-of-scope class: an utterance goes in, its label comes out as text.

The prompt is the bare utterance: the labels are learnt, not listed, which keeps 150 of them out of every
prompt. Labels are written with spaces for underscores, since words are what a tokenizer has tokens for.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from smidgen.data.formats import queries
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.errors import DataError, ParseError
from smidgen.tasks.task import Measure, Metric, Statistic

OUT_OF_SCOPE = "oos"

_CONFUSIONS_SHOWN = 10
_SHOWN_CHARACTERS = 60


class Intent:
    """Utterance → intent label.

    Args:
        labels: every label there is. Without them any single line is taken as a label, so that a label which
            does not
            exist is wrong but not unparsed.
    """

    name: str = "intent"
    version: int = 1
    variant: str = ""
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self.labels = {_normalise(label): label for label in sorted(set(labels))}

    @property
    def constraint(self) -> Constraint | None:
        """One of the labels as text, if they are known."""
        texts = [label_text(label) for label in self.labels.values()]
        return Constraint("choices", json.dumps(texts)) if texts else None

    def prepare(self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows") -> Self:
        """The task with the labels of these rows beside those it has; give it the training rows too.

        Raises:
            DataError: two labels differ only in case, spaces or underscores, which no answer could tell
                apart.
        """
        labels = sorted({*self.labels.values(), *(query.intent for query in queries(rows, source=source))})
        prepared = type(self)(labels)
        if len(prepared.labels) < len(labels):
            lost = next(label for label in labels if label not in prepared.labels.values())
            raise DataError(
                f"the intents '{lost}' and '{prepared.labels[_normalise(lost)]}' differ only in case, "
                "spaces or underscores; rename one of them"
            )
        return prepared

    def samples(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        source: str = "rows",
        rejected: list[str] | None = None,
    ) -> list[Sample]:
        """One sample for each utterance, whose id is the row's."""
        return [
            Sample(query.id, (Message("user", query.text),), metadata={"intent": query.intent})
            for query in queries(rows, source=source, rejected=rejected)
        ]

    def training_samples(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", seed: int = 0
    ) -> list[Sample]:
        """The samples with the label, as text, for target; `seed` is not used."""
        return [
            Sample(sample.id, sample.messages, label_text(sample.metadata["intent"]), sample.metadata)
            for sample in self.samples(rows, source=source)
        ]

    def parse(self, text: str) -> str:
        """The label that the whole text names, whatever its case, spaces or underscores.

        Raises:
            ParseError: the text is not a label.
        """
        answer = _normalise(text)
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
        return Score(float(_normalise(label) == _normalise(intent)), label, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all rows, then what is hidden in it: the classes apart, and out-of-scope apart."""
        in_scope = [record for record in records if record.sample.metadata["intent"] != OUT_OF_SCOPE]
        out_of_scope = [record for record in records if record.sample.metadata["intent"] == OUT_OF_SCOPE]
        return {
            "accuracy": _accuracy(records),
            "in_scope_accuracy": _accuracy(in_scope),
            "macro_f1": _macro_f1(records),
            "oos_recall": _accuracy(out_of_scope),
            "unparsed_rate": Measure(
                [float(not record.score.parsed) for record in records],
                [record.sample.id for record in records],
            ),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of always answering the most frequent intent of these samples."""
        intents = [sample.metadata["intent"] for sample in samples]
        most = Counter(intents).most_common(1)[0][0] if intents else None
        return {
            "most_frequent": Measure(
                [float(intent == most) for intent in intents], [sample.id for sample in samples]
            )
        }

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """The ten confusions that happened most often; a `predicted` of null did not parse."""
        confusions = Counter(
            (record.sample.metadata["intent"], record.score.answer)
            for record in records
            if record.score.value < 1
        )
        worst = sorted(confusions.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
        return {
            "confusions": [
                {"true": true, "predicted": predicted, "count": count}
                for (true, predicted), count in worst[:_CONFUSIONS_SHOWN]
            ]
        }


def label_text(label: str) -> str:
    """A label as a model writes it."""
    return label.replace("_", " ")


def _normalise(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()


def _accuracy(records: Sequence[Record]) -> Measure:
    return Measure([record.score.value for record in records], [record.sample.id for record in records])


def _macro_f1(records: Sequence[Record]) -> Statistic:
    """The mean F1 of the in-scope intents that occur; whatever did not parse is a miss of its true intent."""
    true = [_normalise(record.sample.metadata["intent"]) for record in records]
    predicted = [_normalise(record.score.answer or "") for record in records]
    codes = {label: code for code, label in enumerate(sorted({*true, *predicted}))}
    true_codes = np.array([codes[label] for label in true], dtype=np.int64)
    predicted_codes = np.array([codes[label] for label in predicted], dtype=np.int64)
    in_scope = np.array([label != OUT_OF_SCOPE for label in codes], dtype=bool)
    return Statistic(
        lambda weights: macro_f1(true_codes, predicted_codes, weights, in_scope),
        [record.sample.id for record in records],
    )


def macro_f1(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    weights: NDArray[np.float64],
    classes: NDArray[np.bool_],
) -> float:
    """Mean of 2·TP / (support + predictions) over the wanted classes that occur.

    Args:
        true: class of each row, (N,).
        predicted: answered class of each row, (N,).
        weights: how often each row counts, (N,).
        classes: which classes are wanted, (C,).

    Returns:
        The macro F1, or NaN where no wanted class occurs.
    """
    count = len(classes)
    support = np.bincount(true, weights, count)
    predictions = np.bincount(predicted, weights, count)
    hits = np.bincount(true, weights * (true == predicted), count)
    occurring = classes & (support > 0)
    if not occurring.any():
        return float("nan")
    return float(np.mean(2 * hits[occurring] / (support + predictions)[occurring]))

"""Classify: which of the intents on offer a text has, or none of them.

The intents stand in the prompt with their descriptions, so that a model can be asked about intents it was not
trained on; the task `intent` learns a fixed list by heart instead. Rows that offer no intents get some, drawn
by their id: the right one, with others of the same file, and in every eighth row only others, so that `oos`
is right.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Self

from pydantic import Field

from smidgen.data.examples import Example
from smidgen.data.memories import OUT_OF_SCOPE, Decision, IntentOffer
from smidgen.data.memory_rows import CLASSIFY_FORMATS, Classification, classifications
from smidgen.data.memory_texts import classify_rows
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.errors import ParseError
from smidgen.tasks.classification import confusions, most_frequent
from smidgen.tasks.intent import label_text
from smidgen.tasks.measures import Metric
from smidgen.tasks.memory.answers import classify_answers, one_of, read_answer, spellings, written
from smidgen.tasks.memory.rates import movement, share, unfinished
from smidgen.tasks.memory.settings import MemorySettings
from smidgen.tasks.memory.texts import on_one_line, shortened
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate, unparsed_reasons
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

INSTRUCTION = "Which intent does the text have? Name one of the list, or oos."
MOST_TEXT, MOST_DESCRIPTION = 600, 120
WITHOUT_RIGHT = 8
"""One of so many rows is offered other intents only."""


def classify_sample(text: str, intents: Sequence[IntentOffer], *, id: str = "") -> Sample:
    """Return the prompt that asks which of some intents a text has."""
    listed = "".join(f"{_line(each)}\n" for each in intents)
    messages = Message("system", INSTRUCTION), Message("user", f"{listed}Text: {shortened(text, MOST_TEXT)}")
    return Sample(id, messages, metadata={"intents": [each.name for each in intents]})


def _line(offer: IntentOffer) -> str:
    said = on_one_line(offer.description or label_text(offer.name), MOST_DESCRIPTION)
    return f"{on_one_line(offer.name, MOST_DESCRIPTION)}: {said}"


class ClassifySettings(MemorySettings):
    """Settings of the task `classify`."""

    offered: int = Field(default=6, ge=2, le=64)
    """Number of intents on offer to rows that do not list theirs."""


class Classify(Task):
    """Text and intents → one of them, or `oos`."""

    name = "classify"
    words = TaskWords(
        claim=ClaimWords("model", "names the right intent for", "texts", "texts"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right intents", "↑"),
            "in_scope_accuracy": MetricWords("In-scope accuracy", "of texts whose intent is on offer", "↑"),
            "oos_recall": MetricWords("Out-of-scope recall", "of texts whose intent is not on offer", "↑"),
            "unparsed_rate": MetricWords("Unparsed", "unreadable answers; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the most frequent intent"},
        limits="The results hold for texts like those of the evaluation and for as many intents on offer.",
    )
    formats = CLASSIFY_FORMATS
    settings_table = ClassifySettings

    def __init__(self, intents: Sequence[IntentOffer] = (), settings: ClassifySettings | None = None) -> None:
        self.intents = tuple(intents)
        self.settings = self._own = settings or ClassifySettings()
        self.variant = f"{self._own.offered} offered"

    @classmethod
    def from_settings(cls, settings: ClassifySettings) -> Self:
        """Create the task from its settings."""
        return cls(settings=settings)

    def constraint_of(self, sample: Sample) -> Constraint:
        """A choice among the intents on offer to a sample, and `oos`."""
        return _constraint(tuple(sample.metadata["intents"]))

    def prepare(self, rows: Sequence[Row], *, source: str = "rows") -> Self:
        """Add the intents of these rows, from which rows that list none are offered some."""
        found = {each.name: each for each in self.intents}
        for item in classifications(rows, source=source):
            found |= {each.name: each for each in item.intents or (IntentOffer(item.intent),)}
        found.pop(OUT_OF_SCOPE, None)
        return type(self)([found[name] for name in sorted(found)], self._own)

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per text."""
        found = classifications(rows, source=source, rejected=rejected)
        return [self._asked(item) for item in found]

    def _asked(self, item: Classification) -> Sample:
        offers = item.intents or self._offers(item)
        sample = classify_sample(item.text, offers, id=item.id)
        names = sample.metadata["intents"]
        told = {"intent": item.intent if item.intent in names else OUT_OF_SCOPE, "subset": item.subset}
        return replace(sample, metadata={**sample.metadata, **told})

    def _offers(self, item: Classification) -> list[IntentOffer]:
        """Draw the intents on offer to a text by its id."""
        rng = random.Random(f"offer/{item.id}")
        others = [each for each in self.intents if each.name != item.intent]
        right = [] if item.intent == OUT_OF_SCOPE or not rng.randrange(WITHOUT_RIGHT) else [item.intent]
        count = min(self._own.offered - len(right), len(others))
        offers = [*(each for each in self.intents if each.name in right), *rng.sample(others, count)]
        rng.shuffle(offers)
        return offers

    def target(self, sample: Sample) -> str:
        """The right answer."""
        return written({"intent": sample.metadata["intent"]})

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The texts with their intents."""
        found = classifications(rows, source=source, rejected=rejected)
        return [Example(item.id, item.text, (item.intent,), item.intent) for item in found]

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated texts of several sorts, each with some sorts on offer."""
        return classify_rows(split, limit or WORLD_ROWS[split], seed, self._own.languages)

    def parse(self, text: str) -> dict[str, Any]:
        """The answer as an object, if it names one of the task's intents.

        Raises:
            ParseError: the text is not such an answer.
        """
        return read_answer(text, spellings(classify_answers(self.intents)))

    def decision(self, sample: Sample, text: str) -> Decision:
        """Read the decision, whose action is an intent on offer or `oos`.

        Raises:
            ParseError: the text is not an answer to this sample.
        """
        return Decision(read_answer(text, _allowed(tuple(sample.metadata["intents"])))["intent"])

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 for the right intent."""
        try:
            said = self.decision(sample, completion.text).action
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        return Score(float(said == sample.metadata["intent"]), said, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy over all texts, then in scope and out of scope."""
        return {
            "accuracy": accuracy(records),
            "in_scope_accuracy": share(records, _is_right, among=lambda r: _gold(r) != OUT_OF_SCOPE),
            "oos_recall": share(records, _is_right, among=lambda r: _gold(r) == OUT_OF_SCOPE),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """Always the most frequent intent."""
        intents = [sample.metadata["intent"] for sample in samples]
        return {"most_frequent": most_frequent(intents, [sample.id for sample in samples])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Confusions and reasons of parse failures."""
        wrong = [(_gold(record), record.score.answer) for record in records if not _is_right(record)]
        return {
            "confusions": confusions(wrong),
            "unparsed": unparsed_reasons(records),
            "unfinished": unfinished(records),
        }

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """The movement between right and wrong."""
        return movement(records, base)


@lru_cache(1024)
def _constraint(names: tuple[str, ...]) -> Constraint:
    return one_of(classify_answers([IntentOffer(name) for name in names]))


@lru_cache(1024)
def _allowed(names: tuple[str, ...]) -> frozenset[str]:
    return spellings(classify_answers([IntentOffer(name) for name in names]))


def _gold(record: Record) -> str:
    return record.sample.metadata["intent"]


def _is_right(record: Record) -> bool:
    return record.score.value == 1

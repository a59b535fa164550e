"""Memorize: whether a text is worth remembering, and as what.

An answer is right if it saves what is to be saved and skips the rest; the category has a metric of its own.
Every failure counts: a text that is to be skipped and gets no readable answer is a false positive, one that
is to be saved a false negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from smidgen.data.examples import Example
from smidgen.data.memories import CATEGORIES, Decision
from smidgen.data.memory_rows import MEMORIZE_FORMATS, Memory, memories
from smidgen.data.memory_texts import memorize_rows
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.errors import ParseError
from smidgen.tasks.classification import confusions, macro_f1_of, most_frequent
from smidgen.tasks.measures import Metric
from smidgen.tasks.memory.answers import (
    memorize_answer,
    memorize_answers,
    one_of,
    read_answer,
    spellings,
    written,
)
from smidgen.tasks.memory.instructions import (
    ADDED,
    ASIDE,
    FLIP_WORDS,
    TOLD,
    as_they_are,
    flips,
    instruction,
    remark,
)
from smidgen.tasks.memory.rates import by_field, movement, share, subset_of, unfinished
from smidgen.tasks.memory.settings import MemorySettings
from smidgen.tasks.memory.texts import shortened
from smidgen.tasks.task import Row, Task, accuracy, unparsed_rate, unparsed_reasons
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

INSTRUCTION = (
    "Is the text worth remembering? SAVE a fact, preference, lesson, correction or plan; SKIP the rest."
)
MOST_CHARACTERS = 800
"""Of a text in a prompt: some 200 tokens of English, which bounds the time of an answer."""
_CONSTRAINT = one_of(memorize_answers())
_ALLOWED = spellings(memorize_answers())


def memorize_sample(text: str, *, id: str = "") -> Sample:
    """Return the prompt that asks whether a text is worth remembering."""
    return Sample(id, (Message("system", INSTRUCTION), Message("user", shortened(text, MOST_CHARACTERS))))


class MemorizeSettings(MemorySettings):
    """Settings of the task `memorize`."""

    instructions: bool = False
    """In evaluations, ask every text twice more: with an instruction to decide otherwise, and a remark."""


class Memorize(Task):
    """Text → SAVE with a category, or SKIP."""

    name = "memorize"
    words = TaskWords(
        claim=ClaimWords("model", "saves or skips rightly", "texts", "texts", "decision"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right decisions to save or to skip", "↑"),
            "false_positive_rate": MetricWords("False positives", "of texts to skip, not skipped", "↓"),
            "false_negative_rate": MetricWords("False negatives", "of texts to save, not saved", "↓"),
            "category_accuracy": MetricWords("Category", "of texts to save, saved as what they are", "↑"),
            "macro_f1": MetricWords("Macro F1", "SKIP and every category weighted equally", "↑"),
            **FLIP_WORDS,
            "unparsed_rate": MetricWords("Unparsed", "unreadable answers; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the more frequent decision"},
        limits="The results hold for texts like those of the evaluation.",
    )
    formats = MEMORIZE_FORMATS
    settings_table = MemorizeSettings

    def __init__(self, settings: MemorizeSettings | None = None) -> None:
        self.settings = self._own = settings or MemorizeSettings()
        self.variant = "with instructions" if self._own.instructions else ""

    @classmethod
    def from_settings(cls, settings: MemorizeSettings) -> Self:
        """Create the task from its settings."""
        return cls(settings)

    @property
    def constraint(self) -> Constraint:
        """A choice among the six answers."""
        return _CONSTRAINT

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per text, and with `instructions` two more with something added."""
        found = memories(rows, source=source, rejected=rejected)
        asked = [_asked(item, item.text) for item in found]
        if not self._own.instructions:
            return asked
        return [each for item, alone in zip(found, asked, strict=True) for each in (alone, *_added(item))]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """One sample per text, to which nothing is added."""
        asked = [_asked(item, item.text) for item in memories(rows, source=source)]
        return [replace(sample, target=self.target(sample)) for sample in asked]

    def target(self, sample: Sample) -> str:
        """The right answer."""
        return written(memorize_answer(_gold(sample)))

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The texts with their categories, SKIP among them."""
        return [
            Example(
                item.id, item.text, (item.decision.action,), item.decision.category or item.decision.action
            )
            for item in memories(rows, source=source, rejected=rejected)
        ]

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated texts in three languages."""
        return memorize_rows(split, limit or WORLD_ROWS[split], seed, self._own.languages)

    def parse(self, text: str) -> dict[str, Any]:
        """The answer as an object.

        Raises:
            ParseError: the text is none of the six answers.
        """
        return read_answer(text, _ALLOWED)

    def decision(self, sample: Sample, text: str) -> Decision:
        """Read the decision on the text of a sample.

        Raises:
            ParseError: as `parse`.
        """
        answer = self.parse(text)
        return Decision(answer["decision"], category=answer.get("category"))

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 for the right decision, whatever the category."""
        try:
            said = self.decision(sample, completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        right = said.action == sample.metadata["decision"]
        return Score(float(right), said.category or said.action, parsed=True)

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy, both error rates, how well the category is told, and what instructions do."""
        every, records = records, as_they_are(records)
        return {
            "accuracy": accuracy(records),
            "false_positive_rate": share(records, _is_wrong, among=lambda r: _wants(r) == "SKIP"),
            "false_negative_rate": share(records, _is_wrong, among=lambda r: _wants(r) == "SAVE"),
            "category_accuracy": share(records, _is_told, among=lambda r: _wants(r) == "SAVE"),
            "macro_f1": macro_f1_of(
                [_label(record) for record in records],
                [record.score.answer for record in records],
                [record.sample.id for record in records],
            ),
            **flips(every, _decided),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """Always the more frequent decision."""
        samples = [sample for sample in samples if ADDED not in sample.metadata]
        decisions = [sample.metadata["decision"] for sample in samples]
        return {"most_frequent": most_frequent(decisions, [sample.id for sample in samples])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Outcomes by category or sort of text and by language, confusions, and reasons of parse failures."""
        records = as_they_are(records)
        told = [(_label(record), record.score.answer) for record in records if not _is_told(record)]
        return {
            "by_kind": by_field(records, "kind"),
            "by_language": by_field(records, "language"),
            "confusions": confusions(told),
            "unparsed": unparsed_reasons(records),
            "unfinished": unfinished(records),
        }

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """The movement between right and wrong."""
        return movement(as_they_are(records), as_they_are(base))


def _asked(item: Memory, text: str, added: str = "") -> Sample:
    told = {
        "decision": item.decision.action,
        "category": item.decision.category,
        "kind": item.kind or item.decision.category,
        "language": item.language,
        "subset": subset_of(item),
    }
    name = f"{item.id}#{added}" if added else item.id
    told |= {"group": item.id, ADDED: added} if added else {}
    return Sample(name, memorize_sample(text).messages, metadata=told)


def _added(item: Memory) -> tuple[Sample, Sample]:
    """Return the text with an instruction to decide otherwise, and with a remark instead."""
    other = Decision("SKIP") if item.decision.action == "SAVE" else Decision("SAVE", category="fact")
    order = instruction(item.id, written(memorize_answer(other)))
    told = _asked(item, f"{item.text}\n{order}", TOLD)
    return told, _asked(item, f"{item.text}\n{remark(item.id)}", ASIDE)


def _decided(record: Record) -> str | None:
    """Return the action of a record's answer."""
    answer = record.score.answer
    return "SAVE" if answer in CATEGORIES else answer


def _gold(sample: Sample) -> Decision:
    return Decision(sample.metadata["decision"], category=sample.metadata["category"])


def _wants(record: Record) -> str:
    return record.sample.metadata["decision"]


def _label(record: Record) -> str:
    return record.sample.metadata["category"] or _wants(record)


def _is_wrong(record: Record) -> bool:
    return record.score.value < 1


def _is_told(record: Record) -> bool:
    return record.score.answer == _label(record)

"""Arbitrate: what happens to stored facts when a new one comes in.

An answer is right if the action is right and, where a stored fact is replaced or ended, that fact is the
right one; the kind has a metric of its own. Every row with two candidates or more is asked in both orders,
since a model may prefer a number: `#fwd` as given and `#rev` reversed. Both belong to one group of the
intervals. Every failure counts, as an answer that changes the store where nothing should change, or as one
that leaves it where something should.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Self

from pydantic import Field

from smidgen.data.examples import Example
from smidgen.data.memories import DUPLICATES, Candidate, Decision
from smidgen.data.memory_rows import ARBITRATE_FORMATS, Arbitration, arbitration_row, arbitrations
from smidgen.data.memory_world import arbitrate_rows
from smidgen.data.types import Completion, Constraint, Message, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.errors import DataError, ParseError
from smidgen.tasks.classification import confusions, macro_f1_of, most_frequent
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.memory.answers import (
    arbitrate_answer,
    arbitrate_answers,
    one_of,
    read_answer,
    spellings,
    written,
)
from smidgen.tasks.memory.filling import filled
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
from smidgen.tasks.memory.rates import by_field, group_of, movement, share, subset_of, unfinished
from smidgen.tasks.memory.settings import MemorySettings
from smidgen.tasks.memory.texts import on_one_line
from smidgen.tasks.task import Row, Task, unparsed_rate, unparsed_reasons
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords

INSTRUCTION = "Compare the new fact with the stored ones: ADD, UPDATE, DELETE or NONE."
MOST_CANDIDATES = 16
MOST_CHARACTERS = 300
"""Of one fact in a prompt: some 75 tokens of English."""
FORWARD, REVERSED = "fwd", "rev"


def arbitrate_sample(fact: str, candidates: Sequence[Candidate], *, id: str = "") -> Sample:
    """Return the prompt that compares a fact with stored ones, which get the numbers from 1 on.

    Raises:
        DataError: there are more than `MOST_CANDIDATES`.
    """
    if len(candidates) > MOST_CANDIDATES:
        raise DataError(
            f"there are {len(candidates)} candidates, expected at most {MOST_CANDIDATES}; give the nearest"
        )
    listed = [f"{number}. {_line(each.text)}\n" for number, each in enumerate(candidates, start=1)]
    prompt = f"{''.join(listed)}New: {_line(fact)}"
    ids = [each.id for each in candidates]
    return Sample(id, (Message("system", INSTRUCTION), Message("user", prompt)), metadata={"candidates": ids})


def _line(text: str) -> str:
    return on_one_line(text, MOST_CHARACTERS)


class ArbitrateSettings(MemorySettings):
    """Settings of the task `arbitrate`."""

    fill: int = Field(default=0, ge=0, le=MOST_CANDIDATES)
    """Fill up rows with fewer candidates to this many, with candidates of other rows in random places."""
    instructions: bool = False
    """In evaluations, ask every fact twice more: with an instruction to decide otherwise, and a remark."""


class Arbitrate(Task):
    """New fact and stored ones → ADD, UPDATE, DELETE or NONE."""

    name = "arbitrate"
    words = TaskWords(
        claim=ClaimWords("model", "decides rightly on", "facts", "facts, each in both orders", "decision"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right action, and right target of UPDATE and DELETE", "↑"),
            "action_accuracy": MetricWords("Action", "right action, whatever the target", "↑"),
            "none_duplicate": MetricWords("NONE for duplicates", "of facts stored in other words, left", "↑"),
            "false_positive_rate": MetricWords("False positives", "of facts to leave, not left", "↓"),
            "false_negative_rate": MetricWords("False negatives", "of facts to write, not written", "↓"),
            "macro_f1": MetricWords("Macro F1", "all actions weighted equally", "↑"),
            "kind_accuracy": MetricWords("Kind", "right kind of relation", "↑"),
            "both_orders": MetricWords("Both orders right", "of rows with two candidates or more", "↑"),
            "order_consistency": MetricWords(
                "Same in both orders", "the same decision on the same fact", "↑"
            ),
            "position_bias": MetricWords(
                "Position bias", "first minus last number, of answers with one", "↓"
            ),
            **FLIP_WORDS,
            "unparsed_rate": MetricWords("Unparsed", "unreadable answers; counted as wrong", "↓"),
        },
        baselines={"most_frequent": "the most frequent action, were every target right"},
        limits="The results hold for facts like those of the evaluation, with their candidates.",
    )
    formats = ARBITRATE_FORMATS
    settings_table = ArbitrateSettings

    def __init__(self, settings: ArbitrateSettings | None = None) -> None:
        self.settings = self._own = settings or ArbitrateSettings()
        filling = f"filled to {self._own.fill}" if self._own.fill else ""
        self.variant = " ".join(filter(None, (filling, "with instructions" * self._own.instructions)))

    @classmethod
    def from_settings(cls, settings: ArbitrateSettings) -> Self:
        """Create the task from its settings."""
        return cls(settings)

    def constraint_of(self, sample: Sample) -> Constraint:
        """A choice among the answers that name a candidate of the sample, or none."""
        return _constraint(len(sample.metadata["candidates"]))

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """Two samples per fact, one for each order of the candidates; one if there is one candidate.

        With `instructions`, there are two more with something added to the fact.
        """
        return [
            sample
            for item in self._items(rows, source, rejected)
            for sample in (_asked(item), *_turned(item), *(_added(item) if self._own.instructions else ()))
        ]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """One sample per fact, in the order of the row."""
        asked = [_asked(item) for item in self._items(rows, source, None)]
        return [replace(sample, target=self.target(sample)) for sample in asked]

    def _items(self, rows: Sequence[Row], source: str, rejected: list[str] | None) -> list[Arbitration]:
        return filled(arbitrations(rows, source=source, rejected=rejected), self._own.fill)

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """The facts as rows of our own format; those of one group belong together."""
        return [(item.group, arbitration_row(item)) for item in arbitrations(rows, source=source)]

    def target(self, sample: Sample) -> str:
        """The right answer."""
        told, ids = sample.metadata, sample.metadata["candidates"]
        number = None if told["target"] is None else ids.index(told["target"]) + 1
        return written(arbitrate_answer(told["decision"], number, told["kind"]))

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The prompts with their answers, in the order of the rows."""
        asked = [_asked(item) for item in self._items(rows, source, rejected)]
        return [
            Example(s.id, s.messages[-1].content, (self.target(s),), row=group_of_sample(s)) for s in asked
        ]

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated facts in three languages."""
        return arbitrate_rows(split, limit or WORLD_ROWS[split], seed, self._own.languages)

    def parse(self, text: str) -> dict[str, Any]:
        """The answer as an object, whatever the number of candidates.

        Raises:
            ParseError: the text is not such an answer.
        """
        return read_answer(text, _allowed(MOST_CANDIDATES))

    def decision(self, sample: Sample, text: str) -> Decision:
        """Read the decision, with the id of the candidate that the answer names by number.

        Raises:
            ParseError: the text is not an answer to this sample.
        """
        ids = sample.metadata["candidates"]
        answer = read_answer(text, _allowed(len(ids)))
        target = ids[answer["id"] - 1] if "id" in answer else None
        return Decision(answer["decision"], target=target, kind=answer["kind"])

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 for the right action with, for UPDATE and DELETE, the right target."""
        try:
            said = self.decision(sample, completion.text)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        told = sample.metadata
        needs_target = said.action in ("UPDATE", "DELETE")
        right = said.action == told["decision"] and (not needs_target or said.target == told["target"])
        answer = " ".join(filter(None, (said.action, said.target if needs_target else None)))
        return Score(float(right), answer, parsed=True, explanation=said.kind or "")

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Accuracy first, then both error rates, what is told apart, and what order and instructions do."""
        every, records = records, as_they_are(records)
        return {
            "accuracy": share(records, _is_right),
            "action_accuracy": share(records, lambda r: _action(r) == _gold(r)),
            "none_duplicate": share(records, _is_right, among=_is_duplicate),
            "false_positive_rate": share(
                records, lambda r: not _is_right(r), among=lambda r: _gold(r) == "NONE"
            ),
            "false_negative_rate": share(
                records, lambda r: _action(r) in (None, "NONE"), among=lambda r: _gold(r) != "NONE"
            ),
            "macro_f1": macro_f1_of(
                [_gold(record) for record in records],
                [_action(record) for record in records],
                [group_of(record) for record in records],
            ),
            "kind_accuracy": share(records, _has_kind),
            **_orders(records),
            **flips(every, lambda record: record.score.answer),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """Always the most frequent action."""
        samples = [sample for sample in samples if ADDED not in sample.metadata]
        actions = [sample.metadata["decision"] for sample in samples]
        return {"most_frequent": most_frequent(actions, [group_of_sample(sample) for sample in samples])}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Outcomes by kind, action, language and number of candidates, and confusions of actions."""
        records = as_they_are(records)
        wrong = [(_gold(r), _action(r)) for r in records if _action(r) != _gold(r)]
        return {
            "by_kind": by_field(records, "kind"),
            "by_action": by_field(records, "decision"),
            "by_language": by_field(records, "language"),
            "by_candidates": by_field(records, "count"),
            "confusions": confusions(wrong),
            "unparsed": unparsed_reasons(records),
            "unfinished": unfinished(records),
        }

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """The movement between right and wrong."""
        return movement(as_they_are(records), as_they_are(base))


def _asked(item: Arbitration, order: str = FORWARD) -> Sample:
    candidates = item.candidates if order == FORWARD else item.candidates[::-1]
    sample = arbitrate_sample(item.fact, candidates, id=f"{item.id}#{order}")
    gold = item.decision
    told = {
        "decision": gold.action,
        "target": gold.target,
        "kind": gold.kind,
        "language": item.language,
        "group": item.group,
        "count": len(candidates),
        "subset": subset_of(item),
    }
    return replace(sample, metadata={**sample.metadata, **told})


def _turned(item: Arbitration) -> list[Sample]:
    return [_asked(item, REVERSED)] if len(item.candidates) > 1 else []


def _added(item: Arbitration) -> tuple[Sample, Sample]:
    """Return the fact with an instruction to delete the first candidate, and with a remark instead.

    Where that is right, the instruction is to add the fact.
    """
    is_first = item.decision.action == "DELETE" and item.decision.target == item.candidates[0].id
    other = arbitrate_answer("ADD", None, "new") if is_first else arbitrate_answer("DELETE", 1, "expiry")
    plain = _asked(item)

    def said(text: str, added: str) -> Sample:
        asked = _asked(replace(item, fact=f"{item.fact} {text}"))
        return replace(asked, id=f"{plain.id}#{added}", metadata={**asked.metadata, ADDED: added})

    return said(instruction(item.id, written(other)), TOLD), said(remark(item.id), ASIDE)


@cache
def _constraint(count: int) -> Constraint:
    return one_of(arbitrate_answers(count))


@cache
def _allowed(count: int) -> frozenset[str]:
    return spellings(arbitrate_answers(count))


def group_of_sample(sample: Sample) -> str:
    """The group of a sample, which both orders of a row share."""
    return sample.metadata["group"]


def _gold(record: Record) -> str:
    return record.sample.metadata["decision"]


def _action(record: Record) -> str | None:
    answer = record.score.answer
    return None if answer is None else answer.partition(" ")[0]


def _is_right(record: Record) -> bool:
    return record.score.value == 1


def _is_duplicate(record: Record) -> bool:
    return _gold(record) == "NONE" and record.sample.metadata["kind"] in DUPLICATES


def _has_kind(record: Record) -> bool:
    return record.score.parsed and record.score.explanation == record.sample.metadata["kind"]


def _orders(records: Sequence[Record]) -> dict[str, Metric]:
    """Return what the order of the candidates does, over rows that were asked in both."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.sample.id.rpartition("#")[0], []).append(record)
    both = [found for found in rows.values() if len(found) > 1]
    clusters = [group_of(found[0]) for found in both]
    ends = [
        (end, group_of(record)) for found in both for record in found if (end := _end(record)) is not None
    ]
    return {
        "both_orders": Measure([float(all(map(_is_right, found))) for found in both], clusters),
        "order_consistency": Measure(
            [float(len({record.score.answer for record in found}) == 1) for found in both], clusters
        ),
        "position_bias": Measure([end for end, _ in ends], [group for _, group in ends], absolute=True),
    }


def _end(record: Record) -> float | None:
    """Return 1 if an answer names the first candidate, -1 for the last, 0 between, None for none."""
    _, _, target = (record.score.answer or "").partition(" ")
    ids = record.sample.metadata["candidates"]
    return {ids[0]: 1.0, ids[-1]: -1.0}.get(target, 0.0) if target else None

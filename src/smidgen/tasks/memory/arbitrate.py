"""Arbitrate: what happens to stored facts when a new one comes in.

The model compares the new fact with one candidate at a time; see `smidgen.tasks.memory.comparing`. What
counts is the decision on the whole row: it is right if the action is right and, where a stored fact is
replaced or ended, that fact is the right one; the kind has a metric of its own. Every failure counts, as an
answer that changes the store where nothing should change, or as one that leaves it where something should.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from pydantic import Field

from smidgen.data.examples import Example
from smidgen.data.memories import DUPLICATES, Decision
from smidgen.data.memory_rows import ARBITRATE_FORMATS, Arbitration, arbitration_row, arbitrations
from smidgen.data.memory_world import arbitrate_rows
from smidgen.data.types import Completion, Constraint, Record, Sample, Score
from smidgen.data.world import WORLD_ROWS, Split
from smidgen.errors import ParseError
from smidgen.figures.formatting import count, dig
from smidgen.tasks.classification import confusions, macro_f1_of, most_frequent
from smidgen.tasks.measures import Metric
from smidgen.tasks.memory.answers import arbitrate_answer, written
from smidgen.tasks.memory.comparing import (
    CONSTRAINT,
    MOST_CANDIDATES,
    Comparison,
    arbitrate_samples,
    decided,
    read_comparison,
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
from smidgen.tasks.task import Row, Task, unparsed_rate, unparsed_reasons
from smidgen.tasks.words import ClaimWords, MetricWords, TaskWords


class ArbitrateSettings(MemorySettings):
    """Settings of the task `arbitrate`."""

    fill: int = Field(default=0, ge=0, le=MOST_CANDIDATES)
    """Fill up rows with fewer candidates to this many, with candidates of other rows in random places."""
    others: int = Field(default=2, ge=1, le=MOST_CANDIDATES)
    """In training, compare a fact with the candidate that it concerns and at most so many others."""
    instructions: bool = False
    """In evaluations, ask every fact twice more: with an instruction to decide otherwise, and a remark."""


class Arbitrate(Task):
    """New fact and stored ones → ADD, UPDATE, DELETE or NONE."""

    name = "arbitrate"
    version = 2
    needs_confidence = True
    words = TaskWords(
        claim=ClaimWords("model", "decides rightly on", "facts", "comparisons of two facts", "comparison"),
        metrics={
            "accuracy": MetricWords("Accuracy", "right action, and right target of UPDATE and DELETE", "↑"),
            "action_accuracy": MetricWords("Action", "right action, whatever the target", "↑"),
            "none_duplicate": MetricWords("NONE for duplicates", "of facts stored in other words, left", "↑"),
            "false_positive_rate": MetricWords("False positives", "of facts to leave, not left", "↓"),
            "false_negative_rate": MetricWords("False negatives", "of facts to write, not written", "↓"),
            "macro_f1": MetricWords("Macro F1", "all actions weighted equally", "↑"),
            "kind_accuracy": MetricWords("Kind", "right kind of relation", "↑"),
            **FLIP_WORDS,
            "unparsed_rate": MetricWords("Unparsed", "an unreadable answer; counted as wrong", "↓"),
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

    @property
    def constraint(self) -> Constraint:
        """A choice among the actions with their kinds."""
        return CONSTRAINT

    def samples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Sample]:
        """One sample per candidate, in the order of the row.

        With `instructions`, there are two more of each with something added to the fact.
        """
        return [
            sample
            for item in self._items(rows, source, rejected)
            for sample in (*_asked(item), *(_added(item) if self._own.instructions else ()))
        ]

    def training_samples(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """A sample for the candidate that is concerned, and for `others` others; which, follows from the id.

        Of a mixed fact only the former is asked, for rows do not say what else it does; nor does a row whose
        fact is stored say where, if it names no candidate.
        """
        found = []
        for item in self._items(rows, source, None):
            asked = _asked(item)
            others = [s for s in asked if s.metadata["candidate"] != item.decision.target]
            is_unsaid = item.decision.action == "NONE" and item.decision.target is None
            if item.decision.kind == "mixed" or is_unsaid:
                chosen = []
            else:
                chosen = random.Random(f"others/{item.id}").sample(others, min(self._own.others, len(others)))
            found += [s for s in asked if s in chosen or s not in others]
        return [replace(sample, target=self.target(sample)) for sample in found]

    def training_prompts(self, rows: Sequence[Row], *, source: str = "rows", seed: int = 0) -> list[Sample]:
        """The training samples without their targets."""
        found = self.training_samples(rows, source=source, seed=seed)
        return [replace(sample, target=None) for sample in found]

    def _items(self, rows: Sequence[Row], source: str, rejected: list[str] | None) -> list[Arbitration]:
        return filled(arbitrations(rows, source=source, rejected=rejected), self._own.fill)

    def plain_rows(self, rows: Sequence[Row], *, source: str = "rows") -> list[tuple[str, dict[str, Any]]]:
        """The facts as rows of our own format; those of one group belong together."""
        return [(item.group, arbitration_row(item)) for item in arbitrations(rows, source=source)]

    def target(self, sample: Sample) -> str:
        """The right answer on the candidate; ADD if the row says nothing of it."""
        return written(arbitrate_answer(*_right_of(sample.metadata)))

    def examples(
        self, rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
    ) -> list[Example]:
        """The facts above their candidates, with the decisions."""
        return [
            Example(item.id, _listing(item), (_said(item.decision),), row=item.group)
            for item in self._items(rows, source, rejected)
        ]

    def show(self, row: Row) -> dict[str, Any]:
        """The fact with its candidates, and the decision."""
        (item,) = self._items([row], "rows", None)[:1]
        return {"prompt": _listing(item), "target": _said(item.decision)}

    def world_rows(self, split: Split, limit: int | None, seed: int) -> list[dict[str, Any]]:
        """Generated facts in three languages."""
        return arbitrate_rows(split, limit or WORLD_ROWS[split], seed, self._own.languages)

    def parse(self, text: str) -> Comparison:
        """The answer on a candidate that is not known.

        Raises:
            ParseError: the text is not such an answer.
        """
        return read_comparison(Sample("", (), metadata={"candidate": ""}), Completion(text))

    def score(self, sample: Sample, completion: Completion) -> Score:
        """1 for the right action on this candidate."""
        try:
            said = read_comparison(sample, completion)
        except ParseError as error:
            return Score(0.0, None, parsed=False, explanation=str(error))
        right = said.action == sample.metadata["label"]
        return Score(
            float(right), said.action, parsed=True, explanation=said.kind, confidence=said.confidence
        )

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Of whole rows: accuracy first, then both error rates, what is told apart, what instructions do."""
        every = rows_of(records)
        records = as_they_are(every)
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
            **flips(every, lambda record: record.score.answer),
            "unparsed_rate": unparsed_rate(records),
        }

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """Always the most frequent action."""
        rows = {sample.metadata["row"]: sample for sample in samples if ADDED not in sample.metadata}
        actions = [sample.metadata["decision"] for sample in rows.values()]
        groups = [group_of_sample(sample) for sample in rows.values()]
        return {"most_frequent": most_frequent(actions, groups)}

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Outcomes by kind, action, language and number of candidates, and confusions of actions."""
        asked, records = records, as_they_are(rows_of(records))
        wrong = [(_gold(r), _action(r)) for r in records if _action(r) != _gold(r)]
        return {
            "by_kind": by_field(records, "kind"),
            "by_action": by_field(records, "decision"),
            "by_language": by_field(records, "language"),
            "by_candidates": by_field(records, "count"),
            "confusions": confusions(wrong),
            "unparsed": unparsed_reasons(asked),
            "unfinished": unfinished(asked),
        }

    def against_base(self, records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
        """The movement of rows between right and wrong."""
        return movement(as_they_are(rows_of(records)), as_they_are(rows_of(base)))

    @classmethod
    def asked(cls, report: Mapping[str, Any]) -> str | None:
        """The number of facts, and of comparisons."""
        (first, *_) = (dig(report, "after", "metrics") or {}).values()
        held_out = "held-out " if "training" in report else ""
        return f"{count(first['n'])} {held_out}facts ({count(dig(report, 'after', 'n'))} comparisons)"


def _asked(item: Arbitration, said: str = "", **told: Any) -> list[Sample]:
    """Return the samples of a row, with something said after the fact or not."""
    gold = item.decision
    told |= {
        "row": item.id,
        "decision": gold.action,
        "target": gold.target,
        "kind": gold.kind,
        "language": item.language,
        "group": item.group,
        "count": len(item.candidates),
        "subset": subset_of(item),
    }
    name = "#".join(filter(None, (item.id, told.get(ADDED))))
    asked = arbitrate_samples(f"{item.fact} {said}".rstrip(), item.candidates, id=name)
    metadata = [{**sample.metadata, **told} for sample in asked]
    return [
        replace(sample, metadata={**each, "label": _right_of(each)[0]})
        for sample, each in zip(asked, metadata, strict=True)
    ]


def _right_of(told: Mapping[str, Any]) -> tuple[str, str]:
    """Return the right action on a candidate, and the kind."""
    is_meant = told["candidate"] == told["target"] or told["decision"] == "ADD"
    return (told["decision"], told["kind"]) if is_meant else ("ADD", "new")


def _listing(item: Arbitration) -> str:
    return "\n".join([f"New: {item.fact}", *(f"{each.id}: {each.text}" for each in item.candidates)])


def _said(decision: Decision) -> str:
    return " ".join(filter(None, (decision.action, decision.target, f"({decision.kind})")))


def _added(item: Arbitration) -> list[Sample]:
    """Return the fact with an instruction to delete, and with a remark instead.

    Where deleting is right, the instruction is to add the fact.
    """
    other = ("ADD", "new") if item.decision.action == "DELETE" else ("DELETE", "expiry")
    order = instruction(item.id, written(arbitrate_answer(*other)))
    return [*_asked(item, order, **{ADDED: TOLD}), *_asked(item, remark(item.id), **{ADDED: ASIDE})]


def rows_of(records: Sequence[Record]) -> list[Record]:
    """Return one record per row, or of a row with something added: the decision that its comparisons make.

    The sample is the first of them, its id without the number; the completion is that of the candidate that
    is concerned. A row with an unreadable answer is unparsed: a router does not decide on it either.
    """
    rows: dict[str, dict[int, Record]] = {}
    for record in records:
        name, _, number = record.sample.id.rpartition("#")
        rows.setdefault(name, {})[int(number)] = record
    return [_merged(name, [found[number] for number in sorted(found)]) for name, found in rows.items()]


def _merged(name: str, records: Sequence[Record]) -> Record:
    sample = replace(records[0].sample, id=name)
    unread = next((record for record in records if not record.score.parsed), None)
    if unread is not None:
        return Record(sample, unread.completion, replace(unread.score, value=0.0))
    said = decided([_comparison(record) for record in records])
    told = sample.metadata
    target = said.target if said.action in ("UPDATE", "DELETE") else None
    right = said.action == told["decision"] and target in (None, told["target"])
    score = Score(
        float(right), " ".join(filter(None, (said.action, target))), parsed=True, explanation=said.kind or ""
    )
    concerned = next((r for r in records if r.sample.metadata["candidate"] == said.target), records[0])
    return Record(sample, concerned.completion, score)


def _comparison(record: Record) -> Comparison:
    score = record.score
    assert score.answer is not None
    candidate = record.sample.metadata["candidate"]
    return Comparison(candidate, score.answer, score.explanation, score.confidence)


def group_of_sample(sample: Sample) -> str:
    """The group of a sample, which all of a row share."""
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

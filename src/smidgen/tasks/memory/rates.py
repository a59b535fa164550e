"""Rates and tables that the tasks of the memory router share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smidgen.data.memory_rows import Arbitration, Memory
from smidgen.data.types import Record
from smidgen.tasks.measures import Measure


def share(
    records: Sequence[Record],
    holds: Callable[[Record], bool],
    *,
    among: Callable[[Record], bool] = lambda record: True,
) -> Measure:
    """Return the share of records of which something holds, among some of them; clustered by group."""
    chosen = [record for record in records if among(record)]
    return Measure([float(holds(record)) for record in chosen], [group_of(record) for record in chosen])


def group_of(record: Record) -> str:
    """The group of a record: records of one row, or of rows with one source, are not independent."""
    return record.sample.metadata.get("group", record.sample.id)


def subset_of(item: Memory | Arbitration) -> str | None:
    """The subset of a row for which metrics are computed apart: its file or benchmark, and its language."""
    return " ".join(filter(None, (item.subset, item.language))) or None


def by_field(records: Sequence[Record], field: str) -> dict[str, dict[str, int]]:
    """Count the right, the wrong and the unparsed answers for every value of a field of the samples."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        value = str(record.sample.metadata.get(field) or "unknown")
        counts = found.setdefault(value, {"rows": 0, "right": 0, "wrong": 0, "unparsed": 0})
        counts["rows"] += 1
        counts[outcome_of(record)] += 1
    return dict(sorted(found.items()))


def outcome_of(record: Record) -> str:
    """Say whether an answer is `right`, `wrong` or `unparsed`."""
    if not record.score.parsed:
        return "unparsed"
    return "right" if record.score.value == 1 else "wrong"


def unfinished(records: Sequence[Record]) -> dict[str, int]:
    """Count answers that did not end by themselves, by the reason: cut off, failed, or too long a prompt."""
    reasons = Counter(record.completion.finish_reason for record in records)
    return {reason: count for reason, count in sorted(reasons.items()) if reason != "stop"}


def movement(records: Sequence[Record], base: Sequence[Record]) -> Mapping[str, Any]:
    """Say which answers changed between two models: counts of both outcomes, and the ids that changed sides.

    Args:
        records: those of the later model.
        base: those of the earlier model, of the same samples in the same order.
    """
    counts = {before: {after: 0 for after in _SIDES} for before in _SIDES}
    moved: dict[str, list[str]] = {"became_right": [], "became_wrong": []}
    for before, after in zip(base, records, strict=True):
        assert before.sample.id == after.sample.id, (before.sample.id, after.sample.id)
        sides = _side(before), _side(after)
        counts[sides[0]][sides[1]] += 1
        if sides[0] != sides[1]:
            moved[f"became_{sides[1]}"].append(after.sample.id)
    return {"movement": {"counts": counts, **moved}}


_SIDES = ("right", "wrong")


def _side(record: Record) -> str:
    return "right" if outcome_of(record) == "right" else "wrong"

"""Two evaluations of the same rows side by side: what became right, and what became wrong."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smidgen.errors import DataError
from smidgen.files import read_jsonl

CHANGES = ("worse", "better", "wrong", "right")
"""Wrong only in the second, right only in the second, wrong in both, right in both."""
MOST_SHOWN = 25
RIGHT = 1.0


def compared_rows(first: Path, second: Path, *, change: str = "worse", skip: int = 0) -> dict[str, Any]:
    """Compare two evaluations row by row.

    Args:
        first: folder of the first evaluation.
        second: folder of the second.
        change: which rows to return, one of `CHANGES`.
        skip: number of these rows to leave out, for the next page.

    Returns:
        The number of rows of each change and of those that only one of them has, and a page of rows.

    Raises:
        DataError: the change is unknown, or the two have no row in common.
    """
    if change not in CHANGES:
        raise DataError(f"the change '{change[:20]}' is unknown; expected {', '.join(CHANGES)}")
    records = [{row["id"]: row for row in read_jsonl(place / "records.jsonl")} for place in (first, second)]
    shared = [id for id in records[0] if id in records[1]]
    if not shared:
        raise DataError("the two evaluations have no row in common; choose two that were asked the same rows")
    changes = {id: _change(records[0][id], records[1][id]) for id in shared}
    counts = Counter(changes.values())
    chosen = [id for id in shared if changes[id] == change]
    return {
        "counts": {name: counts[name] for name in CHANGES},
        "only_first": len(records[0]) - len(shared),
        "only_second": len(records[1]) - len(shared),
        "change": change,
        "total": len(chosen),
        "rows": [_shown(id, records[0][id], records[1][id]) for id in chosen[skip : skip + MOST_SHOWN]],
    }


def _change(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    before, after = _is_right(first), _is_right(second)
    if before == after:
        return "right" if after else "wrong"
    return "better" if after else "worse"


def _is_right(record: Mapping[str, Any]) -> bool:
    """Whether an answer is wholly right."""
    return (record.get("score") or 0.0) >= RIGHT


def _shown(id: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a row: its prompt, the right answer, and both answers."""
    facts = first.get("metadata") or {}
    gold = next(
        (facts[key] for key in ("better", "label") if facts.get(key) is not None), first.get("target")
    )
    return {
        "id": id,
        "prompt": [
            {"role": message["role"], "content": message["content"]}
            for message in first.get("messages") or ()
            if message["role"] != "system"
        ],
        "gold": gold,
        "subset": facts.get("subset"),
        "order": facts.get("order"),
        "answers": [
            {key: row.get(key) for key in ("text", "answer", "score", "parsed", "explanation")}
            for row in (first, second)
        ],
    }

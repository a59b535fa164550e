"""The pairs on which a judge's two orders disagree, for inspection."""

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.data.formats import Pair
from smidgen.data.types import Record
from smidgen.tasks.judge.judgements import Judgement, consistent

SHOWN = 100
"""Maximum number of pairs kept, to limit the size of reports; all of them are in the records."""
KINDS = ("first", "second", "tie", "unreadable")
"""Preferred the first answer in both orders; the second in both; one tie; at least one order unparsed."""


def find_disagreements(
    records: Sequence[Record], judgements: Sequence[Judgement], pairs: Mapping[str, Pair]
) -> dict[str, Any]:
    """Collect the pairs whose two orders have different verdicts.

    Args:
        records: records of a judge, with both orders.
        judgements: the judgement of each record, in the same order.
        pairs: the pairs by id.

    Returns:
        `total`, the count of each of `KINDS`, and `rows`: the first `SHOWN` with prompt, answers, label, and
        the verdict and completion of each order.
    """
    by_pair: dict[str, dict[str, Any]] = {}
    for record, judgement in zip(records, judgements, strict=True):
        by_pair.setdefault(judgement.pair, {})[str(judgement.order)] = (record, judgement)
    rows = []
    for name, orders in by_pair.items():
        if len(orders) < 2 or consistent((orders["ab"][1], orders["ba"][1])):
            continue
        pair = pairs[name]
        said = {order: judgement.verdict for order, (_, judgement) in orders.items()}
        texts = {order: record.completion.text for order, (record, _) in orders.items()}
        rows.append(
            {
                "id": name,
                "subset": pair.subset,
                "kind": _kind(said["ab"], said["ba"]),
                "prompt": pair.prompt,
                "a": pair.a,
                "b": pair.b,
                "better": pair.better,
                "said": said,
                "texts": texts,
            }
        )
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    return {"total": len(rows), "pairs": len(by_pair), "kinds": kinds, "rows": rows[:SHOWN]}


def _kind(ab: str | None, ba: str | None) -> str:
    if ab is None or ba is None:
        return "unreadable"
    if "tie" in (ab, ba):
        return "tie"
    return "first" if ab == "a" else "second"

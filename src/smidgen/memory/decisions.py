"""What decisions change, and which can be applied: those that fit together, on what was offered and holds."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from smidgen.data.memories import ARBITRATE_ACTIONS, CATEGORIES, MEMORIZE_ACTIONS, Candidate, Decision
from smidgen.errors import DataError
from smidgen.memory.tables import memory_id, memory_row, number_of


def check_decisions(decisions: Sequence[Decision], candidates: Sequence[Candidate]) -> None:
    """Check that decisions fit together and are about candidates that were offered.

    Raises:
        DataError: they do not, or are not.
    """
    actions = tuple(decision.action for decision in decisions)
    fits = (
        actions == ("SKIP",)
        or (len(actions) == 1 and actions[0] in ARBITRATE_ACTIONS)
        or (len(actions) == 2 and actions[0] == "SAVE" and actions[1] in ARBITRATE_ACTIONS)
    )
    if not fits:
        raise DataError(
            f"the decisions are {', '.join(actions) or 'none'}; expected SKIP, or one of "
            f"{', '.join(ARBITRATE_ACTIONS)}, with or without SAVE before it"
        )
    category = category_of(decisions)
    if category is not None and category not in CATEGORIES:
        raise DataError(f"the category is '{category}'; expected one of {', '.join(CATEGORIES)}")
    if actions[-1] not in MEMORIZE_ACTIONS:
        _check_target(decisions[-1], candidates)


def category_of(decisions: Sequence[Decision]) -> str | None:
    """The category that decisions give a memory."""
    return next((decision.category for decision in decisions if decision.category), None)


def stale_reason(
    connection: sqlite3.Connection, text: str, decisions: Sequence[Decision], candidates: Sequence[Candidate]
) -> str:
    """Why a decision does not hold any more; empty if it does.

    The memory that it is about must still say what the model read. A text that is added must not have been
    stored by another process meanwhile, letter for letter, without the model having been offered it.
    """
    decision = decisions[-1]
    offered = {candidate.id: candidate.text for candidate in candidates}
    if decision.target is not None:
        found = memory_row(connection, number_of(decision.target))
        if found is None:
            return f"memory {decision.target} was deleted meanwhile"
        if found["text"] != offered[decision.target]:
            return f"memory {decision.target} was changed meanwhile"
    if decision.action == "ADD" and text not in offered.values():
        same = connection.execute("SELECT 1 FROM memory WHERE text = ? LIMIT 1", (text,)).fetchone()
        if same:
            return "the same text was stored meanwhile"
    return ""


def changes_of(
    connection: sqlite3.Connection, text: str, decisions: Sequence[Decision], *, number: int, time: str
) -> list[dict[str, Any]]:
    """The changes of memories that decisions on a text make, as the entry with this number journals them."""
    decision = decisions[-1]
    if decision.action in ("SKIP", "NONE"):
        return []
    category = category_of(decisions)
    if decision.action == "ADD":
        added = {"text": text, "category": category, "created": time, "updated": time}
        return [{"id": memory_id(number), "before": None, "after": added}]
    assert decision.target is not None
    before = memory_row(connection, number_of(decision.target))
    assert before is not None
    after = None
    if decision.action == "UPDATE":
        after = before | {"text": text, "category": category or before["category"], "updated": time}
    return [{"id": decision.target, "before": before, "after": after}]


def _check_target(decision: Decision, candidates: Sequence[Candidate]) -> None:
    offered = [candidate.id for candidate in candidates]
    shown = ", ".join(offered) or "no memory"
    if decision.target is None:
        if decision.action in ("UPDATE", "DELETE") or (decision.action == "NONE" and not candidates):
            raise DataError(f"{decision.action} names no memory; expected one that was offered ({shown})")
    elif decision.action == "ADD":
        raise DataError(f"ADD names the memory {decision.target}; only the other actions are about one")
    elif decision.target not in offered:
        raise DataError(
            f"{decision.action} names the memory {decision.target}, which was not offered; offered: {shown}"
        )

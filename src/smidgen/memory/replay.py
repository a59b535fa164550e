"""What a journal adds up to, without the database: the memories and inputs after each of its entries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from smidgen.memory.journal import Entry, reversed_changes
from smidgen.memory.tables import memory_id

INPUT_FIELDS = ("received", "decided", "attempts", "latest")
"""Of an input: the entries that received it, decided on it and were its last, and its attempts in vain."""


@dataclass
class Replayed:
    """The state after some entries.

    Attributes:
        memories: what the journal says of each memory that is stored, by id.
        inputs: the `INPUT_FIELDS` of each input, by id.
        faults: what no store would have done, such as deciding on an input twice.
    """

    memories: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    inputs: dict[str, dict[str, int | None]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def decided(self) -> int:
        """Number of inputs with a decision."""
        return sum(found["decided"] is not None for found in self.inputs.values())


def replay(entries: Iterable[Entry]) -> Replayed:
    """Apply entries to an empty state, and collect what contradicts what was before."""
    state = Replayed()
    kept: dict[int, Entry] = {}
    for entry in entries:
        kept[entry.number] = entry
        if (entry.kind == "created") != (entry.number == 1):
            state.faults.append(f"entry {entry.number} is {entry.kind}; only the first one is created")
        elif entry.kind == "undone":
            _check_undo(state, entry, kept.get(entry.body["entry"]))
        elif entry.kind != "created":
            _replay_input(state, entry)
        for change in entry.body.get("changes", ()):
            _replay_change(state, entry, change)
    return state


def _replay_input(state: Replayed, entry: Entry) -> None:
    number, found = entry.number, state.inputs.get(entry.input or "")
    if entry.kind == "received":
        if found is not None:
            state.faults.append(f"entry {number} receives input '{entry.input}' a second time")
        state.inputs[entry.input or ""] = {
            "received": number,
            "decided": None,
            "attempts": 0,
            "latest": number,
        }
        return
    if found is None:
        state.faults.append(f"entry {number} is about input '{entry.input}', which was not received")
        return
    if found["decided"] is not None:
        state.faults.append(
            f"entry {number} is about input '{entry.input}', decided already in {found['decided']}"
        )
    if entry.kind == "decided":
        found |= {"decided": number, "latest": number}
    else:
        found |= {"attempts": (found["attempts"] or 0) + 1, "latest": number}


def _replay_change(state: Replayed, entry: Entry, change: Mapping[str, Any]) -> None:
    memory, before, after = change["id"], change["before"], change["after"]
    offered = {memory_id(entry.number), *(c["id"] for c in entry.body.get("candidates", ()))}
    if entry.kind == "decided" and memory not in offered:
        state.faults.append(f"entry {entry.number} changes memory {memory}, which was not offered")
    if state.memories.get(memory) != before:
        state.faults.append(f"entry {entry.number} changes memory {memory}, which was not what it says")
    if after is None:
        state.memories.pop(memory, None)
    else:
        state.memories[memory] = after


def _check_undo(state: Replayed, entry: Entry, undone: Entry | None) -> None:
    changes = undone.body.get("changes", ()) if undone else ()
    back = reversed_changes(changes)
    if not back or back != entry.body["changes"]:
        state.faults.append(f"entry {entry.number} does not undo entry {entry.body['entry']}")

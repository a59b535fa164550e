"""The journal of a store: a chain of entries, in a table of the database and in a file beside it.

Every entry carries the SHA-256 of the hash before it and of its own content, so that an entry that was
changed, removed or put in between is noticed.

Why the journal is kept twice. A page of the database that the disk damaged may be one of the journal's own,
so a journal in the database alone could not restore it. The file is written first and flushed to the disk;
the database commits afterwards and follows the file: an entry that only the file has, because the process was
killed in between, is taken over by the next writer. A file that is lost or cut short is written anew from the
table. What is damaged in one copy is read from the other, entry by entry, since each proves itself.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("created", "received", "decided", "deferred", "stale", "undone")
"""What an entry records."""
ORIGIN = "0" * 64
"""The hash before the first entry."""


@dataclass(frozen=True)
class Entry:
    """One entry of the journal.

    Attributes:
        number: 1, 2, 3, …
        time: when it was made, ISO 8601 in UTC.
        kind: one of `KINDS`.
        input: the id of the input that it is about, if any.
        body: what it records, as JSON.
        hash: SHA-256 of the hash before it and of all of the above.
    """

    number: int
    time: str
    kind: str
    input: str | None
    body: Mapping[str, Any]
    hash: str

    @property
    def line(self) -> bytes:
        """The entry as a line of the journal's file; equal entries have equal lines."""
        return (_canonical(self._content() | {"hash": self.hash}) + "\n").encode("ascii")

    def follows(self, previous: "Entry | None") -> bool:
        """Whether this is the entry after `previous`, unchanged; after None, the first one."""
        number, before = (previous.number, previous.hash) if previous else (0, ORIGIN)
        return self.number == number + 1 and self.hash == _hash(before, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "time": self.time,
            "kind": self.kind,
            "input": self.input,
            "body": self.body,
        }


def entry_after(
    previous: Entry | None, *, time: str, kind: str, input_id: str | None, body: Mapping[str, Any]
) -> Entry:
    """Make the entry that follows `previous`."""
    assert kind in KINDS, kind
    entry = Entry(previous.number + 1 if previous else 1, time, kind, input_id, body, "")
    before = previous.hash if previous else ORIGIN
    return Entry(entry.number, time, kind, input_id, body, _hash(before, entry._content()))


def reversed_changes(changes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the changes of memories that undo others."""
    return [{"id": c["id"], "before": c["after"], "after": c["before"]} for c in changes]


class Damaged(Exception):
    """What should be an entry is none."""


def entry_of(values: Mapping[str, Any]) -> Entry:
    """Make an entry of its fields, as a line of the file or a row of the table has them.

    Raises:
        Damaged: a field is missing, is one too many, or has another type.
    """
    types = {"number": int, "time": str, "kind": str, "input": str | None, "body": dict, "hash": str}
    if values.keys() != types.keys() or not all(isinstance(values[name], types[name]) for name in types):
        raise Damaged(f"entry {values.get('number')} of its journal is no entry")
    return Entry(**values)


def journal_path(store: Path) -> Path:
    """The journal's file of a store: `memory.db.journal.jsonl` beside `memory.db`."""
    return store.with_name(store.name + ".journal.jsonl")


def read_lines(path: Path, *, start: int = 0) -> Iterator[Entry | None]:
    """Yield the entries of a journal's file from a byte on, None for a line that is none.

    An incomplete last line, left by a killed process, is no line. A missing file has no lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield _entry_in(line)
    except FileNotFoundError:
        return


def _entry_in(line: bytes) -> Entry | None:
    try:
        row = json.loads(line)
        return entry_of(row) if isinstance(row, dict) else None
    except (Damaged, ValueError, RecursionError):
        return None


def merge(copies: Sequence[Iterable[Entry | None]]) -> list[Entry]:
    """Join copies of a journal into the longest chain that they prove together, entry by entry."""
    found: dict[int, list[Entry]] = {}
    for copy in copies:
        for entry in copy:
            if entry is not None:
                found.setdefault(entry.number, []).append(entry)
    chain: list[Entry] = []
    while True:
        last = chain[-1] if chain else None
        following = (last.number if last else 0) + 1
        entry = next((entry for entry in found.get(following, ()) if entry.follows(last)), None)
        if entry is None:
            return chain
        chain.append(entry)


def _canonical(content: Mapping[str, Any]) -> str:
    """JSON in ASCII, which any text survives unchanged, lone surrogates and NUL included."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _hash(before: str, content: Mapping[str, Any]) -> str:
    return hashlib.sha256((before + _canonical(content)).encode("ascii")).hexdigest()

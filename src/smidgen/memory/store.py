"""The store of a memory router: memories, the inputs that they came from, and a journal of every decision.

    with Store.open(Path("memory.db")) as store:
        store.received("line-1", "My sister moved to Graz in May.")
        candidates = store.candidates("My sister moved to Graz in May.")
        ...                                    # a model decides; the store knows none
        store.apply("line-1", [Decision("SAVE", "fact"), Decision("ADD", kind="new")], candidates=candidates,
                    model="smidgen:nano", version="0.1.0")

An input is journaled before any model is asked, and its decision is applied in one transaction with the entry
that records it, once. A process may be killed at any moment, and several may work on one store.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from smidgen.data.memories import Candidate, Decision
from smidgen.errors import DataError, UserError
from smidgen.memory import reading, tables
from smidgen.memory.decisions import changes_of, check_decisions, stale_reason
from smidgen.memory.journal import Entry, reversed_changes
from smidgen.memory.reading import Input, Kind, Memory, Page
from smidgen.memory.terms import storable
from smidgen.memory.writing import Clock, Writer, writing

MAX_INPUT_ID = 200
"""Most characters of an input's id."""


def now() -> str:
    """The time as the journal writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Applied:
    """What became of a decision, or of an undo.

    Attributes:
        state: `applied`; `already` if the input had been decided before, and nothing was done; `stale` if the
            memories had changed since the candidates were offered: nothing was done and the input is pending.
        entry: the number of the journal's entry that says so.
        memory: the id of the memory that was added, updated, deleted or found to say the same, if any.
        reason: why it was stale.
    """

    state: Literal["applied", "already", "stale"]
    entry: int
    memory: str | None = None
    reason: str = ""


class Store:
    """An open store; see the module. Methods may be called from any thread.

    Every method raises WorkError if the disk is full, the file is damaged, or another process holds it for
    longer than the timeout; then nothing was stored.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self.path = path
        self._connection, self._clock, self._lock = connection, clock, threading.RLock()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        readonly: bool = False,
        timeout: float = 30.0,
        clock: Clock = now,
    ) -> "Store":
        """Open a store, and make it if there is none.

        Args:
            path: the database; its journal lies beside it.
            create: make a store if there is none, unless it is `readonly`.
            readonly: write nothing to it.
            timeout: seconds to wait for other processes that are writing.
            clock: what tells the time, ISO 8601.

        Raises:
            DataError: there is no store to read, or the file is something else.
            UserError: the file or its folder cannot be written.
            WorkError: it is damaged, or in use for longer than `timeout`.
        """
        if path.is_dir():
            raise DataError(f"{path} is a folder; name the file of a memory store, such as memory.db")
        if not path.exists() and (readonly or not create):
            raise DataError(
                f"there is no memory store at {path}; check the path (`smidgen route --store` makes one)"
            )
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
        with tables.sentences(path):
            connection = tables.connect(path, readonly=readonly, timeout=timeout)
            try:
                store = cls(connection, path, clock)
                store._prepare(readonly=readonly, deadline=time.monotonic() + timeout)
            except BaseException:
                connection.close()
                raise
        return store

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def received(self, input_id: str, text: str) -> bool:
        """Journal an input, on the disk when this returns; False if it was received before.

        Raises:
            DataError: the id is unfit, or another text was received under it.
        """
        if not (0 < len(input_id) <= MAX_INPUT_ID and input_id.isprintable()):
            raise DataError(
                f"the id of an input is {input_id[:40]!r}; expected 1 to {MAX_INPUT_ID} printable characters"
            )
        with self._writing() as writer:
            found = self._input(input_id)
            if found is None:
                writer.append("received", input_id, {"text": text})
                return True
            if self.entry(found["received"]).body["text"] != text:
                raise DataError(
                    f"input '{input_id}' was received before with another text; give every input an id of "
                    "its own"
                )
            return False

    def candidates(self, fact: str, k: int = 5) -> list[Candidate]:
        """The k memories that are most likely about the same as a fact, best first; see `nearest`."""
        return [Candidate(memory.id, memory.text) for memory in self._nearest(fact, k)]

    def apply(
        self,
        input_id: str,
        decisions: Sequence[Decision],
        *,
        candidates: Sequence[Candidate] = (),
        model: str,
        version: str,
    ) -> Applied:
        """Apply the decision on an input and journal it, in one transaction; an input that has one keeps it.

        Args:
            input_id: an input that was received.
            decisions: SKIP; or SAVE and one of ADD, UPDATE, DELETE and NONE; or one of those alone.
            candidates: what the model was offered, as `candidates` returned them.
            model: the model that decided.
            version: the version of whatever asked it.

        Raises:
            DataError: the input was never received, the decisions do not fit, or a target was not offered.
        """
        check_decisions(decisions, candidates)
        with self._writing() as writer:
            found = self._input(input_id)
            if found is None:
                raise DataError(f"input '{input_id}' was not received; journal it before a model is asked")
            if found["decided"] is not None:
                return Applied("already", found["decided"], _memory_of(self.entry(found["decided"])))
            text = storable(self.entry(found["received"]).body["text"])
            body: dict[str, Any] = {
                "decisions": [asdict(decision) for decision in decisions],
                "candidates": [asdict(candidate) for candidate in candidates],
                "model": model,
                "version": version,
            }
            if reason := stale_reason(self._connection, text, decisions, candidates):
                entry = writer.append("stale", input_id, body | {"reason": reason})
                return Applied("stale", entry.number, reason=reason)
            assert writer.last is not None
            changes = changes_of(
                self._connection, text, decisions, number=writer.last.number + 1, time=writer.time
            )
            entry = writer.append("decided", input_id, body | {"changes": changes})
            return Applied("applied", entry.number, _memory_of(entry))

    def defer(self, input_id: str, reason: str, *, model: str = "", version: str = "") -> int:
        """Journal that no decision came for an input, which stays pending; return the entry's number.

        Raises:
            DataError: the input was never received, or is decided.
        """
        with self._writing() as writer:
            found = self._input(input_id)
            if found is None or found["decided"] is not None:
                what = "was not received" if found is None else f"was decided in entry {found['decided']}"
                raise DataError(f"input '{input_id}' {what}; only a pending one is deferred")
            body = {"reason": reason, "model": model, "version": version}
            return writer.append("deferred", input_id, body).number

    def undo(self, number: int) -> Applied:
        """Restore the memories that an entry changed as they were before; the undo can be undone too.

        The input of the entry stays decided.

        Raises:
            UserError: there is no such entry, it changed nothing, or what it changed has changed since.
        """
        with self._writing() as writer:
            entry = self._find_entry(number)
            changes = entry.body.get("changes") if entry else None
            if entry is None or not changes:
                what = f"is {entry.kind} and changed no memory" if entry else "does not exist"
                raise UserError(
                    f"entry {number} {what}; `smidgen memory list {self.path} --journal` shows those that did"
                )
            for change in changes:
                if tables.memory_row(self._connection, tables.number_of(change["id"])) != change["after"]:
                    raise UserError(
                        f"entry {number} cannot be undone, since entry {self._last_change(change['id'])} "
                        f"changed memory {change['id']} after it; undo that one first"
                    )
            back = {"entry": number, "changes": reversed_changes(changes)}
            undone = writer.append("undone", entry.input, back)
            return Applied("applied", undone.number, _memory_of(undone))

    def pending(self) -> list[Input]:
        """The inputs that were received and are not decided, oldest first."""
        with self._reading():
            return reading.pending_from(self._connection)

    def memories(self) -> list[Memory]:
        """Every memory, in the order of their making."""
        with self._reading():
            return reading.memories_from(self._connection)

    def search(self, query: str, k: int = 20) -> list[Memory]:
        """The k memories that are most like a text, best first; if none is, those that contain it."""
        if found := self._nearest(query, k):
            return found
        with self._reading():
            return reading.containing(self._connection, query, k)

    def decided(self, input_id: str) -> Entry | None:
        """The entry that decided on an input, or None."""
        with self._reading():
            found = self._input(input_id)
            return self.entry(found["decided"]) if found and found["decided"] else None

    def entry(self, number: int) -> Entry:
        """The journal's entry with a number, which must exist."""
        found = self._find_entry(number)
        assert found is not None, number
        return found

    def entries(self, start: int = 1) -> list[Entry]:
        """The journal from an entry on."""
        with self._reading():
            return reading.entries_from(self._connection, offset=start - 1)

    def page(self, what: Kind, *, limit: int, offset: int = 0) -> Page:
        """Part of what `memories`, `entries` or `pending` give, and how many there are, as of one moment.

        Args:
            what: `memories`, `journal` or `pending`.
            limit: how many at most.
            offset: how many before them.
        """
        with self._reading():
            return reading.page_of(self._connection, what, limit=limit, offset=offset)

    def _prepare(self, *, readonly: bool, deadline: float) -> None:
        """Make the tables of a new store, and take over what the journal's file has more."""
        new = tables.is_new(self._connection, self.path)
        if readonly:
            if new:
                raise DataError(f"{self.path} is empty, not a memory store; check the path")
            return
        tables.begin_wal(self._connection, deadline)
        self._connection.execute("PRAGMA synchronous = NORMAL")  # the journal's file is what is flushed
        if new:
            tables.create(self._connection, self.path)
        with self._writing() as writer:
            if writer.last is None:
                writer.append("created", None, {"store": uuid4().hex, "format": tables.SCHEMA_VERSION})
        if new:
            self._connection.execute("PRAGMA wal_checkpoint(FULL)")

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        with (
            self._lock,
            tables.sentences(self.path),
            writing(self._connection, self.path, self._clock) as writer,
        ):
            yield writer

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read what was stored at one moment, whatever other processes write in between."""
        with self._lock, tables.sentences(self.path):
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def _nearest(self, text: str, k: int) -> list[Memory]:
        with self._reading():
            return reading.nearest(self._connection, text, k)

    def _input(self, input_id: str) -> sqlite3.Row | None:
        return self._connection.execute("SELECT * FROM input WHERE id = ?", (input_id,)).fetchone()

    def _find_entry(self, number: int) -> Entry | None:
        with self._reading():
            row = self._connection.execute("SELECT * FROM entry WHERE number = ?", (number,)).fetchone()
            return tables.entry_from(row) if row else None

    def _last_change(self, memory: str) -> int:
        return next(
            entry.number
            for entry in reversed(self.entries())
            if any(change["id"] == memory for change in entry.body.get("changes", ()))
        )


def _memory_of(entry: Entry) -> str | None:
    """The memory that an entry is about, if any."""
    for change in entry.body.get("changes", ()):
        return change["id"]
    return next((found["target"] for found in entry.body.get("decisions", ()) if found["target"]), None)

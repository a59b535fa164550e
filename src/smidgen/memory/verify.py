"""The proof of a store: its journal, replayed into nothing, gives its tables; and its repair if not."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import DataError, SmidgenError
from smidgen.files import atomic_file
from smidgen.memory import tables
from smidgen.memory.journal import Damaged, Entry, journal_path, merge, read_lines
from smidgen.memory.replay import INPUT_FIELDS, Replayed, replay

TIMEOUT = 30.0
"""Seconds to wait for a process that is writing."""


@dataclass(frozen=True)
class Report:
    """What a store holds and what is wrong with it.

    Attributes:
        entries: entries of the journal that prove each other.
        inputs: inputs that were received.
        decided: inputs with a decision, which was applied exactly once.
        pending: inputs without one.
        memories: memories that are stored.
        faults: sentences; empty if the journal, replayed, gives the tables, and every page is whole.
    """

    entries: int
    inputs: int
    decided: int
    pending: int
    memories: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """A store that was made anew from a journal.

    Attributes:
        path: its database.
        entries: entries that were restored.
        lost: entries that exist but follow on one that is damaged in every copy.
        memories: memories that it holds.
    """

    path: Path
    entries: int
    lost: int
    memories: int


_Held = tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]


def verify(path: Path) -> Report:
    """Check every page, both copies of the journal, and that the journal gives the tables.

    Only reads, and may be called while other processes write.

    Raises:
        DataError: there is no store at the path, nor what is left of one.
    """
    _check_exists(path)
    faults: list[str] = []
    in_tables: list[Entry] = []
    held: _Held | None = None
    file = journal_path(path)
    try:
        with _snapshot(path) as connection:
            faults += _page_faults(connection)
            in_tables += _table_entries(connection)
            held = _held(connection)
    except (sqlite3.Error, Damaged) as error:
        faults.append(f"the database cannot be read whole ({error})")
    except SmidgenError as error:
        if not file.exists():
            raise
        faults.append(str(error))
    in_file = list(read_lines(file))
    faults += _chain_faults(in_tables, "the table of entries") + _chain_faults(in_file, str(file))
    if len(in_file) < len(in_tables):
        faults.append(f"{file} has {len(in_file):,} of {len(in_tables):,} entries")
    chain = merge([in_file, in_tables])
    both = min(len(chain), len(in_tables))  # the file may be ahead, and the next writer follows it
    if in_tables[:both] != chain[:both]:
        faults.append("the table of entries and the journal's file differ")
    elif held is not None and both == len(in_tables):
        faults += _differences(held, replay(chain[:both]))
    state = replay(chain)
    faults += state.faults
    inputs = len(state.inputs)
    return Report(
        len(chain), inputs, state.decided, inputs - state.decided, len(state.memories), tuple(faults)
    )


def restore(path: Path, out: Path) -> Restored:
    """Make a store anew from what the copies of a journal prove together.

    Args:
        path: a store, whole or damaged, or the file of a journal alone.
        out: the database to make.

    Raises:
        DataError: there is no journal, or `out` exists.
        WorkError: the disk is full; nothing is left behind.
    """
    _check_exists(path)
    is_journal = path.suffix == ".jsonl"
    copies = [list(read_lines(path if is_journal else journal_path(path)))]
    if not is_journal:
        copies.append(_readable_entries(path))
    chain = merge(copies)
    if not chain:
        raise DataError(
            f"{path} has no journal that begins whole; expected a store or its .journal.jsonl file"
        )
    lines = b"".join(entry.line for entry in chain)
    journal = journal_path(out)
    if out.exists() or (journal.exists() and journal.read_bytes() != lines):
        raise DataError(f"{out} or its journal exists already; name a file that does not")
    with atomic_file(out) as partial:
        _fill(partial, chain)
        with atomic_file(journal) as partial_journal:
            partial_journal.write_bytes(lines)
    known = max(len(copies[0]), *(entry.number for copy in copies for entry in copy if entry is not None))
    return Restored(out, len(chain), known - len(chain), len(replay(chain).memories))


def _check_exists(path: Path) -> None:
    if not path.exists() and not journal_path(path).exists():
        raise DataError(f"there is no memory store at {path}; check the path")


@contextmanager
def _snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Copy a database into memory, page by page, where checks may write and nobody else does."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    with closing(tables.connect(path, readonly=True, timeout=TIMEOUT)) as source:
        with tables.sentences(path):
            if tables.is_new(source, path):
                raise DataError(f"{path} is empty, not a memory store; check the path")
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            source.backup(copy)
            copy.row_factory = sqlite3.Row
            yield copy


def _page_faults(connection: sqlite3.Connection) -> list[str]:
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
    faults = [] if found == ["ok"] else [f"the database is damaged: {fault}" for fault in found]
    for index in ("by_words", "by_trigrams"):
        try:
            connection.execute(f"INSERT INTO {index}({index}, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            faults.append(f"the index {index} is not that of the memories ({error})")
    return faults


def _table_entries(connection: sqlite3.Connection) -> Iterator[Entry]:
    for row in connection.execute("SELECT * FROM entry ORDER BY number"):
        yield tables.entry_from(row)


def _readable_entries(path: Path) -> list[Entry | None]:
    """The entries of a database's table as far as its pages can be read, in either direction."""
    found: dict[int, Entry] = {}
    for order in ("ASC", "DESC"):
        try:
            with _snapshot(path) as connection:
                for row in connection.execute(f"SELECT * FROM entry ORDER BY number {order}"):
                    with suppress(Damaged):
                        found[row["number"]] = tables.entry_from(row)
        except (SmidgenError, sqlite3.Error):
            continue  # what was read until then counts
    return [found[number] for number in sorted(found)]


def _chain_faults(entries: Iterable[Entry | None], where: str) -> list[str]:
    previous = None
    for number, entry in enumerate(entries, start=1):
        if entry is None or not entry.follows(previous):
            return [f"entry {number} of {where} is damaged, changed or missing"]
        previous = entry
    return []


def _held(connection: sqlite3.Connection) -> _Held:
    """The memories and inputs of the tables, in the form of a replay's."""
    memories = {
        tables.memory_id(row["number"]): {name: row[name] for name in tables.MEMORY_FIELDS}
        for row in connection.execute("SELECT * FROM memory")
    }
    rows = connection.execute(f"SELECT id, {', '.join(INPUT_FIELDS)} FROM input")
    return memories, {name: dict(zip(INPUT_FIELDS, values, strict=True)) for name, *values in rows}


def _differences(held: _Held, state: Replayed) -> list[str]:
    """Where the tables are not what the journal adds up to."""
    return [
        f"{what} '{name}' is not what the journal says"
        for what, stored, told in (("memory", held[0], state.memories), ("input", held[1], state.inputs))
        for name in sorted(stored.keys() | told.keys(), key=str)  # a damaged page may hold anything
        if stored.get(name) != told.get(name)
    ]


def _fill(path: Path, chain: list[Entry]) -> None:
    """Make the tables of a journal in a new database."""
    with tables.sentences(path), closing(tables.connect(path, readonly=False, timeout=TIMEOUT)) as connection:
        tables.create(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        end = 0
        for entry in chain:
            end += len(entry.line)
            tables.record(connection, entry, end)
        connection.execute("COMMIT")

"""The tables of a store in SQLite, and sentences for what goes wrong with them.

`entry` is the journal, which triggers keep append-only; `input` and `memory` are what its entries add up to,
and `by_words` and `by_trigrams` index the memories. The trigram tokenizer needs SQLite 3.34 (December 2020).
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smidgen.errors import DataError, SmidgenError, UserError, WorkError
from smidgen.memory.journal import Damaged, Entry, entry_of, journal_path
from smidgen.memory.terms import words

APPLICATION_ID = 0x736D6D65  # "smme"
SCHEMA_VERSION = 1
_NOT_WRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
SMALLEST_PAGE = 512
"""Bytes; SQLite takes a shorter file for an empty database and would write over it."""
NEEDED_SQLITE = (3, 34, 0)

SCHEMA = """
CREATE TABLE entry (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, input TEXT, body TEXT NOT NULL,
    hash TEXT NOT NULL, file_end INTEGER NOT NULL
);
CREATE TRIGGER entry_stays BEFORE UPDATE ON entry
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER entry_remains BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TABLE input (
    id TEXT PRIMARY KEY, received INTEGER NOT NULL, decided INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    latest INTEGER NOT NULL
);
CREATE INDEX input_pending ON input (received) WHERE decided IS NULL;
CREATE TABLE memory (
    number INTEGER PRIMARY KEY, text TEXT NOT NULL, category TEXT, created TEXT NOT NULL,
    updated TEXT NOT NULL, words TEXT NOT NULL
);
CREATE INDEX memory_text ON memory (text);
CREATE VIRTUAL TABLE by_words USING fts5(
    words, content='memory', content_rowid='number', tokenize='unicode61 remove_diacritics 0'
);
CREATE VIRTUAL TABLE by_trigrams USING fts5(
    words, content='memory', content_rowid='number', tokenize='trigram'
);
CREATE VIRTUAL TABLE by_words_terms USING fts5vocab(by_words, row);
CREATE VIRTUAL TABLE by_trigrams_terms USING fts5vocab(by_trigrams, row);
CREATE TRIGGER memory_added AFTER INSERT ON memory BEGIN
    INSERT INTO by_words(rowid, words) VALUES (new.number, new.words);
    INSERT INTO by_trigrams(rowid, words) VALUES (new.number, new.words);
END;
CREATE TRIGGER memory_removed AFTER DELETE ON memory BEGIN
    INSERT INTO by_words(by_words, rowid, words) VALUES ('delete', old.number, old.words);
    INSERT INTO by_trigrams(by_trigrams, rowid, words) VALUES ('delete', old.number, old.words);
END;
"""
MEMORY_FIELDS = ("text", "category", "created", "updated")
"""What the journal says of a memory before and after a change."""


def connect(path: Path, *, readonly: bool, timeout: float) -> sqlite3.Connection:
    """Open a database; transactions are begun by hand, and threads may share it under a lock of theirs."""
    if sqlite3.sqlite_version_info < NEEDED_SQLITE:
        raise WorkError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and a memory store needs 3.34 or newer; use a "
            "newer Python"
        )
    if not readonly:
        return _connect(path, "mode=rwc", timeout)
    connection = _connect(path, "mode=ro", timeout)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _NOT_WRITABLE and not path.with_name(f"{path.name}-wal").exists():
            # Even readers of a log need to write beside it. There is none, so nobody has the store open.
            connection.close()
            return _connect(path, "mode=ro&immutable=1", timeout)
        # any other error is met again by who asks for more
    return connection


def _connect(path: Path, options: str, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


def is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a database is empty; one that is not is a store that this version can read.

    Raises:
        DataError: it is none, or belongs to another program or to a newer smidgen.
    """
    if path.exists() and 0 < path.stat().st_size < SMALLEST_PAGE:
        raise DataError(f"{path} is not a memory store (file is not a database); give another path")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return True
    if application != APPLICATION_ID:
        raise DataError(f"{path} is a database of another program, not a memory store; give another path")
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{path} was written by a newer smidgen (its tables have version {version}, this one knows "
            f"{SCHEMA_VERSION}); update smidgen"
        )
    return False


def begin_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to write-ahead logging, so that readers and the writer do not wait for each other.

    The switch does not wait for other processes by itself, unlike transactions.
    """
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, unless another process was faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if is_new(connection, path):
            statement = ""
            for line in SCHEMA.splitlines(keepends=True):
                statement += line
                if sqlite3.complete_statement(statement):
                    connection.execute(statement)
                    statement = ""
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def entry_from(row: sqlite3.Row) -> Entry:
    """The entry that a row of the table `entry` holds.

    Raises:
        Damaged: it holds none.
    """
    values = {name: row[name] for name in ("number", "time", "kind", "input", "hash")}
    try:
        return entry_of(values | {"body": json.loads(row["body"])})
    except (TypeError, ValueError):
        raise Damaged(f"entry {row['number']} of its journal has no body") from None


def memory_row(connection: sqlite3.Connection, number: int) -> dict[str, Any] | None:
    """What is stored of a memory, as the journal would say it; None if there is none."""
    row = connection.execute(f"SELECT {', '.join(MEMORY_FIELDS)} FROM memory WHERE number = ?", (number,))
    found = row.fetchone()
    return dict(found) if found else None


def record(connection: sqlite3.Connection, entry: Entry, file_end: int) -> None:
    """Put an entry into the tables: the journal's own row, its input, and the memories that it changes."""
    body = json.dumps(entry.body, ensure_ascii=True)
    connection.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
        (entry.number, entry.time, entry.kind, entry.input, body, entry.hash, file_end),
    )
    match entry.kind:
        case "received":
            connection.execute(
                "INSERT INTO input (id, received, latest) VALUES (?, ?, ?)",
                (entry.input, entry.number, entry.number),
            )
        case "decided":
            connection.execute(
                "UPDATE input SET decided = ?, latest = ? WHERE id = ?",
                (entry.number, entry.number, entry.input),
            )
        case "deferred" | "stale":
            connection.execute(
                "UPDATE input SET attempts = attempts + 1, latest = ? WHERE id = ?",
                (entry.number, entry.input),
            )
    for change in entry.body.get("changes", ()):
        _change(connection, number_of(change["id"]), change["after"])


def _change(connection: sqlite3.Connection, number: int, after: Mapping[str, Any] | None) -> None:
    connection.execute("DELETE FROM memory WHERE number = ?", (number,))
    if after is not None:
        values = [after[name] for name in MEMORY_FIELDS]
        connection.execute(
            "INSERT INTO memory VALUES (?, ?, ?, ?, ?, ?)", (number, *values, " ".join(words(after["text"])))
        )


def memory_id(number: int) -> str:
    """The id of the memory that the entry with this number made."""
    return f"m{number}"


def number_of(memory: str) -> int:
    """The number in a memory's id; 0, which no memory has, for any other text."""
    digits = memory[1:]
    is_id = memory.startswith("m") and digits.isascii() and digits.isdecimal() and len(digits) < 19
    return int(digits) if is_id else 0


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into errors of one sentence."""
    try:
        yield
    except (sqlite3.Error, Damaged) as error:
        raise _described(path, error) from error


def _described(path: Path, error: sqlite3.Error | Damaged) -> SmidgenError:
    code = getattr(error, "sqlite_errorcode", None) or 0
    restore = f"`smidgen memory verify {path} --restore NEW.db` restores it from its journal"
    match code & 0xFF:  # without what extended codes add
        case sqlite3.SQLITE_FULL:
            return WorkError(
                f"{path} could not be written: no space left on the disk, and nothing of this was stored; "
                "free some space and try again"
            )
        case sqlite3.SQLITE_IOERR:
            return WorkError(
                f"{path} could not be read or written ({error}), and nothing of this was stored; check the "
                "disk and try again"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return WorkError(f"{path} has been in use by another process for too long; try again later")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return UserError(f"{path} could not be used ({error}); make it and its folder writable")
        case sqlite3.SQLITE_NOTADB if not journal_path(path).exists():
            return DataError(f"{path} is not a memory store ({error}); give another path")
        case _:
            return WorkError(f"{path} is damaged ({error}); {restore}")

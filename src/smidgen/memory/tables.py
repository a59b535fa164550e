"""The tables of a store in SQLite, and sentences for what goes wrong with them.

`entry` is the journal, which triggers keep append-only; `input` and `memory` are what its entries add up to, and
`by_words` and `by_trigrams` index the memories. The trigram tokenizer needs SQLite 3.34 (December 2020).
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smidgen.errors import DataError, SmidgenError, UserError, WorkError
from smidgen.memory.journal import Entry
from smidgen.memory.terms import words

APPLICATION_ID = 0x736D6D65  # "smme"
SCHEMA_VERSION = 1
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
    number INTEGER PRIMARY KEY, text TEXT NOT NULL, category TEXT, created TEXT NOT NULL, updated TEXT NOT NULL,
    words TEXT NOT NULL
);
CREATE INDEX memory_text ON memory (text);
CREATE VIRTUAL TABLE by_words USING fts5(words, content='memory', content_rowid='number');
CREATE VIRTUAL TABLE by_trigrams USING fts5(text, content='memory', content_rowid='number', tokenize='trigram');
CREATE TRIGGER memory_added AFTER INSERT ON memory BEGIN
    INSERT INTO by_words(rowid, words) VALUES (new.number, new.words);
    INSERT INTO by_trigrams(rowid, text) VALUES (new.number, new.text);
END;
CREATE TRIGGER memory_removed AFTER DELETE ON memory BEGIN
    INSERT INTO by_words(by_words, rowid, words) VALUES ('delete', old.number, old.words);
    INSERT INTO by_trigrams(by_trigrams, rowid, text) VALUES ('delete', old.number, old.text);
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
    mode = "ro" if readonly else "rwc"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
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
        DataError: it belongs to another program, or to a newer smidgen.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return True
    if application != APPLICATION_ID:
        raise DataError(
            f"{path} is a database of another program, not a memory store; give another path and one is made there"
        )
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
    """The entry that a row of the table `entry` holds."""
    return Entry(row["number"], row["time"], row["kind"], row["input"], json.loads(row["body"]), row["hash"])


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
    except SmidgenError:
        raise
    except sqlite3.Error as error:
        raise _described(path, error) from error


def _described(path: Path, error: sqlite3.Error) -> SmidgenError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # without the extended part
    restore = f"`smidgen memory verify {path} --restore NEW.db` restores it from its journal"
    match code:
        case sqlite3.SQLITE_FULL:
            return WorkError(
                f"{path} could not be written: no space left on the disk; nothing of this was stored, so free "
                "some space and try again"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return WorkError(f"{path} has been in use by another process for too long; try again later")
        case sqlite3.SQLITE_CORRUPT:
            return WorkError(f"{path} is damaged ({error}); {restore}")
        case sqlite3.SQLITE_NOTADB:
            return DataError(f"{path} is not a memory store ({error}); if it was one, {restore}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return UserError(
                f"{path} could not be opened ({error}); check that it and its folder can be written"
            )
        case _:
            return WorkError(f"{path} could not be read or written ({error}); if it stays so, {restore}")

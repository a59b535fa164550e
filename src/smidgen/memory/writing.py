"""One transaction of a store: the database and the journal's file change together, or neither does.

The order is: lock the database (`BEGIN IMMEDIATE`), take over what the file has more, change the tables,
append to the file and flush it to the disk, commit. The entry counts from the flush on. Killed before it,
nothing happened; killed after it, the next writer takes the entry over. If the commit fails, as on a full
disk, the line is cut off again while the lock is still held.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smidgen.errors import DataError
from smidgen.files import append_line, atomic_file, flush
from smidgen.memory.journal import Entry, entry_after, journal_path, read_lines
from smidgen.memory.tables import entry_from, record

Clock = Callable[[], str]


class Writer:
    """What a transaction writes: entries, put into the tables at once and into the file at its end.

    Attributes:
        file: the journal's file.
        time: when the transaction began, which is when its entries were made.
        last: the last entry; None in a new store.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._connection, self._path = connection, path
        self.file, self.time = journal_path(path), clock()
        row = connection.execute("SELECT * FROM entry ORDER BY number DESC LIMIT 1").fetchone()
        self.last = entry_from(row) if row else None
        self._end = row["file_end"] if row else 0
        self._lines = b""

    def append(self, kind: str, input_id: str | None, body: Mapping[str, Any]) -> Entry:
        """Make the next entry and put it into the tables."""
        entry = entry_after(self.last, time=self.time, kind=kind, input_id=input_id, body=body)
        self._lines += entry.line
        record(self._connection, entry, self._end + len(self._lines))
        self.last = entry
        return entry

    def catch_up(self) -> None:
        """Make file and tables the same journal, where a process was killed or the file was lost.

        Raises:
            DataError: they contradict each other.
        """
        size = self.file.stat().st_size if self.file.exists() else 0
        if size > self._end:
            self._follow_file()
        elif size < self._end:
            self._write_file_anew()

    def commit(self) -> None:
        """Write the new entries to the file, then commit; on failure, neither has them."""
        if self._lines:
            append_line(self.file, self._lines, durable=True)
            if not self._end:  # the name of the new file has to be on the disk too
                flush(self.file.parent)
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._lines:
                os.truncate(self.file, self._end)
            raise

    def _follow_file(self) -> None:
        found = list(read_lines(self.file, start=self._end))
        if self.last is None and len(found) > 1:
            raise DataError(
                f"{self._path} is empty, but its journal {self.file} has {len(found):,} entries; "
                f"`smidgen memory verify {self._path} --restore NEW.db` restores the memories, or move the "
                "journal away to begin anew"
            )
        for entry in found:
            if entry is None or not entry.follows(self.last):
                raise self._contradiction()
            self._end += len(entry.line)
            record(self._connection, entry, self._end)
            self.last = entry

    def _write_file_anew(self) -> None:
        chain: list[Entry] = []
        for row in self._connection.execute("SELECT * FROM entry ORDER BY number"):
            entry = entry_from(row)
            if not entry.follows(chain[-1] if chain else None):
                raise self._contradiction()
            chain.append(entry)
        lines = b"".join(entry.line for entry in chain)
        if self.file.exists():
            whole, newline, _ = self.file.read_bytes().rpartition(b"\n")
            if not lines.startswith(whole + newline):
                raise self._contradiction()
        with atomic_file(self.file) as partial:
            partial.write_bytes(lines)

    def _contradiction(self) -> DataError:
        return DataError(
            f"{self._path} and its journal {self.file} do not belong together or one is damaged; `smidgen "
            f"memory verify {self._path}` says where, and with `--restore NEW.db` restores what they prove"
        )


@contextmanager
def writing(connection: sqlite3.Connection, path: Path, clock: Clock) -> Iterator[Writer]:
    """Begin a transaction, and commit it if the block succeeds."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        writer = Writer(connection, path, clock)
        writer.catch_up()
        yield writer
        writer.commit()
    except BaseException:
        connection.rollback()
        raise

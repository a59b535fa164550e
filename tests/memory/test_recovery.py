"""Killed, on a full disk, or with a file lost: what was received is there, and nothing twice or by half."""

import os
import re
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from smidgen.data.memories import Decision
from smidgen.errors import DataError, UserError, WorkError
from smidgen.memory import Store, tables, verify
from smidgen.memory.journal import entry_after, journal_path


def decide(store: Store, input_id: str, text: str) -> None:
    store.received(input_id, text)
    store.apply(input_id, [Decision("ADD")], candidates=store.candidates(text), model="m", version="1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with one memory."""
    path = tmp_path / "memory.db"
    with Store.open(path) as store:
        decide(store, "a", "My sister lives in Graz.")
    return path


def state(path: Path) -> tuple:
    with Store.open(path) as store:
        found = store.memories(), store.pending(), store.entries()
    assert verify(path).faults == ()
    return found


def crash_before_commit(path: Path, action: Callable[[Store], object]) -> None:
    """Leave a store as a process does that is killed between the flush of the file and the commit."""
    before = path.with_name("before.db")
    shutil.copy(path, before)
    with Store.open(path) as store:
        action(store)
    os.replace(before, path)


def test_an_entry_in_the_file_counts(path: Path):
    crash_before_commit(path, lambda store: store.received("b", "She moved."))
    report = verify(path)
    assert (report.faults, report.inputs, report.pending) == ((), 2, 1)  # the next writer takes it over
    _, pending, entries = state(path)
    assert [found.id for found in pending] == ["b"] and len(entries) == 4


def test_a_decision_in_the_file_is_applied_once(path: Path):
    crash_before_commit(path, lambda store: decide(store, "b", "The rent is 840."))
    memories, pending, _ = state(path)
    assert [found.text for found in memories] == ["My sister lives in Graz.", "The rent is 840."]
    with Store.open(path) as store:
        again = store.apply("b", [Decision("ADD")], model="m", version="1")
    assert again.state == "already" and pending == [] and state(path)[0] == memories


def test_an_open_store_takes_over_what_another_left(path: Path):
    with Store.open(path) as store:
        last = store.entries()[-1]
        following = entry_after(last, time="2026", kind="received", input_id="b", body={"text": "She moved."})
        with journal_path(path).open("ab") as file:
            file.write(following.line)
        assert not store.received("b", "She moved.")
    assert [found.id for found in state(path)[1]] == ["b"]


def test_a_torn_line_is_no_entry(path: Path):
    with journal_path(path).open("ab") as file:
        file.write(b'{"body":{"text":"She mo')
    assert verify(path).faults == ()
    with Store.open(path) as store:
        assert store.received("b", "She moved.")
    assert len(state(path)[2]) == 4


@pytest.mark.parametrize("size", [0, 10, None])
def test_a_journal_that_was_lost_or_cut_is_written_anew(path: Path, size: int | None):
    file = journal_path(path)
    whole = file.read_bytes()
    if size is None:
        file.unlink()
    else:
        os.truncate(file, len(whole) - size if size else 0)
    assert any("of 3 entries" in fault for fault in verify(path).faults)
    state(path)
    assert file.read_bytes() == whole


def test_files_that_contradict_each_other_are_refused(path: Path, tmp_path: Path):
    with Store.open(tmp_path / "other.db") as store:
        decide(store, "x", "Something else, which is quite a lot longer than the text of the first store.")
    mine = journal_path(path).read_bytes()
    for wrong in (journal_path(tmp_path / "other.db").read_bytes(), mine[:200] + b"\n", mine + b"{}\n"):
        journal_path(path).write_bytes(wrong)
        with pytest.raises(
            DataError, match="do not belong together or one is damaged; `smidgen memory verify"
        ):
            Store.open(path)
        assert journal_path(path).read_bytes() == wrong and verify(path).faults


def test_a_table_that_does_not_prove_itself_is_not_copied(path: Path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER entry_stays")
        connection.execute("UPDATE entry SET time = '' WHERE number = 2")
    journal_path(path).unlink()
    with pytest.raises(DataError, match="do not belong together or one is damaged"):
        Store.open(path)
    assert not journal_path(path).exists()


def test_an_empty_database_beside_a_journal_is_refused(path: Path):
    path.unlink()
    with pytest.raises(
        DataError, match=r"is empty, but its journal .* has 3 entries; `smidgen memory verify"
    ):
        Store.open(path)


@contextmanager
def no_more_pages(store: Store) -> Iterator[None]:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    store._connection.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def no_larger_files(store: Store) -> Iterator[None]:
    """The journal's file cannot take the line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal_path(store.path).stat().st_size + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def a_log_that_cannot_grow(store: Store) -> Iterator[None]:
    """The journal's file takes the line, the commit fails, and the line has to go again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = store.path.with_name(store.path.name + "-wal")
    assert log.stat().st_size > journal_path(store.path).stat().st_size + 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("full", "sentence"),
    [
        (
            no_more_pages,
            "could not be written: no space left on the disk, and nothing of this was stored; free",
        ),
        (no_larger_files, r"journal.jsonl could not be written: (file too large|no space left)"),
        (
            a_log_that_cannot_grow,
            r"could not be read or written \(disk I/O error\), and nothing of this was stored",
        ),
    ],
)
def test_on_a_full_disk_nothing_is_stored_by_half(path: Path, full: Callable, sentence: str):
    with Store.open(path) as store:
        for number in range(12):  # enough for a log that is longer than the journal
            decide(store, f"before-{number}", f"Memory number {number}.")
        store.received("b", "text " * 2_000)
        before, file = store.entries(), journal_path(path).read_bytes()
        with full(store), pytest.raises(WorkError, match=sentence):
            decide(store, "b", "text " * 2_000)
        assert store.entries() == before and journal_path(path).read_bytes() == file
        assert [found.id for found in store.pending()] == ["b"] and verify(path).faults == ()
        decide(store, "b", "text " * 2_000)  # there is space again
    assert state(path)[1] == []


@pytest.mark.parametrize("size", [1, 511, 512, 5000])
def test_another_file_is_refused(tmp_path: Path, size: int):
    content = b"x" * size
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for readonly in (True, False):
        with pytest.raises(
            DataError, match=r"is not a memory store \(file is not a database\); give another"
        ):
            Store.open(path, readonly=readonly)
    assert path.read_bytes() == content and [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_database_of_another_program_is_refused(tmp_path: Path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE memory (text)")
    before = path.read_bytes()
    with pytest.raises(
        DataError, match="is a database of another program, not a memory store; give another path"
    ):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_store_is_refused(path: Path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(
        DataError, match=r"was written by a newer smidgen \(its tables have version 2, this one"
    ):
        Store.open(path)


def test_nothing_is_made_where_there_is_nothing(tmp_path: Path):
    for options in ({"readonly": True}, {"create": False}):
        with pytest.raises(DataError, match=r"there is no memory store at .*; check the path"):
            Store.open(tmp_path / "memory.db", **options)
    with pytest.raises(DataError, match=r"is a folder; name the file of a memory store, such as memory\.db"):
        Store.open(tmp_path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(DataError, match="is empty, not a memory store; check the path"):
        Store.open(tmp_path / "empty.db", readonly=True)
    assert [file.name for file in tmp_path.iterdir()] == ["empty.db"]
    Store.open(tmp_path / "empty.db").close()  # an empty file becomes a store
    assert verify(tmp_path / "empty.db").entries == 1


def test_a_store_that_is_read_only_is_not_written(path: Path):
    with Store.open(path, readonly=True) as store:
        assert [found.text for found in store.memories()] == ["My sister lives in Graz."]
        with pytest.raises(
            UserError, match=re.escape("could not be used (attempt to write a readonly database)")
        ):
            store.received("b", "text")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom the modes of files concern."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_store_in_a_folder_that_cannot_be_written_is_read(path: Path):
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(path.parent, Path(name) / "store")) / path.name
        for file, mode in ((Path(name), 0o755), *((file, 0o444) for file in copy.parent.iterdir())):
            file.chmod(mode)
        copy.parent.chmod(0o555)
        with unprivileged():
            with Store.open(copy, readonly=True) as store:
                assert [found.text for found in store.memories()] == ["My sister lives in Graz."]
            assert verify(copy).faults == ()
            with pytest.raises(UserError, match=r"could not be used .*; make it and its folder writable"):
                Store.open(copy)
        copy.parent.chmod(0o755)


def test_a_store_whose_making_was_killed_is_made(tmp_path: Path):
    path = tmp_path / "memory.db"
    with closing(tables.connect(path, readonly=False, timeout=1)) as connection:
        tables.create(connection, path)  # and killed before its first entry
    decided = state(path)
    assert [entry.kind for entry in decided[2]] == ["created"]


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 33, 0))
    with pytest.raises(WorkError, match=r"this Python has SQLite .*, and a memory store needs 3.34 or newer"):
        Store.open(path)

"""What is damaged or changed is found, and made anew from the journal."""

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.tools.store_faults import damage, damage_both

from smidgen.data.memories import Decision
from smidgen.errors import DataError, WorkError
from smidgen.memory import Store, restore, verify
from smidgen.memory.journal import Entry, entry_after, journal_path
from smidgen.memory.replay import replay


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of some pages: memories, an update, a deferred input and an undo."""
    path = tmp_path_factory.mktemp("made") / "memory.db"
    with Store.open(path) as store:
        for number in range(25):
            text = f"Memory number {number} of {number % 7} in Graz, {'very ' * 20}long."
            store.received(f"i{number}", text)
            offered = store.candidates(text, 2)
            decision = Decision("UPDATE", target=offered[0].id) if number % 5 == 4 else Decision("ADD")
            last = store.apply(f"i{number}", [decision], candidates=offered, model="m", version="1")
        store.undo(last.entry)
        store.received("left", "我妹妹")
        store.defer("left", "no decision in 500 ms")
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parent, tmp_path / "store")
    return tmp_path / "store" / "memory.db"


def everything(path: Path) -> tuple:
    with Store.open(path) as store:
        return store.memories(), store.pending(), store.entries()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER entry_stays")
        connection.execute("DROP TRIGGER entry_remains")
        for statement in statements:
            connection.execute(statement)


def test_a_whole_store_is_proved(path: Path):
    report = verify(path)
    assert report.faults == ()
    assert (report.inputs, report.decided, report.pending, report.memories) == (26, 25, 1, 20)
    assert report.entries == len(everything(path)[2])


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE memory SET text = 'other' WHERE number = 3", "memory 'm3' is not what the journal says"),
        ("DELETE FROM memory WHERE number = 3", "memory 'm3' is not what the journal says"),
        ("INSERT INTO memory SELECT 999, text, '', '', '', '' FROM memory LIMIT 1", "memory 'm999' is not"),
        ("UPDATE input SET decided = NULL WHERE id = 'i3'", "input 'i3' is not what the journal says"),
        ("UPDATE input SET attempts = 7 WHERE id = 'left'", "input 'left' is not what the journal says"),
        ("DELETE FROM input WHERE id = 'i3'", "input 'i3' is not what the journal says"),
        (
            "UPDATE memory SET words = 'other' WHERE number = 3",
            "the index by_words is not that of the memories",
        ),
        (
            "INSERT INTO by_trigrams(by_trigrams) VALUES ('delete-all')",
            "the index by_trigrams is not that of",
        ),
        (
            "UPDATE entry SET body = '{}' WHERE number = 9",
            "entry 9 of the table of entries is damaged, changed",
        ),
        ("UPDATE entry SET body = 'x' WHERE number = 9", r"cannot be read whole \(entry 9 .* has no body"),
        (
            "DELETE FROM entry WHERE number = 9",
            "entry 9 of the table of entries is damaged, changed or missing",
        ),
    ],
)
def test_what_was_changed_is_found_and_restored(path: Path, statement: str, fault: str, tmp_path: Path):
    expected = everything(path)
    change(path, statement)
    faults = verify(path).faults
    assert any(re.search(fault, found) for found in faults), faults
    restored = restore(path, tmp_path / "new.db")
    assert (restored.entries, restored.lost) == (len(expected[2]), 0)
    assert everything(restored.path) == expected and verify(restored.path).faults == ()


@pytest.mark.parametrize("how", ["changed", "missing", "no entry"])
def test_a_damaged_line_of_the_file_is_found_and_restored(path: Path, how: str, tmp_path: Path):
    expected, file = everything(path), journal_path(path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[8] = {"changed": lines[8].replace(b"Graz", b"Linz"), "missing": b"", "no entry": b"#\n"}[how]
    file.write_bytes(b"".join(lines))
    assert any(f"entry 9 of {file} is damaged, changed or missing" in fault for fault in verify(path).faults)
    assert restore(path, tmp_path / "new.db").lost == 0
    assert everything(tmp_path / "new.db") == expected


def test_an_entry_that_is_damaged_in_both_copies_is_said_to_be_lost(path: Path, tmp_path: Path):
    count, file = len(everything(path)[2]), journal_path(path)
    change(path, "UPDATE entry SET hash = '' WHERE number = 9")
    file.write_bytes(file.read_bytes().replace(b'"number":9,', b'"number":8,'))
    restored = restore(path, tmp_path / "new.db")
    assert (restored.entries, restored.lost) == (8, count - 8) and verify(restored.path).faults == ()


def test_damaged_pages_are_found_and_restored(path: Path, tmp_path: Path):
    counts = damage(path, tmp_path, pages=8, seed=1)
    assert counts["pages"] == counts["found"] + counts["unused"] and counts["found"] >= 5
    damage_both(path, tmp_path, times=2)


def test_a_damaged_page_is_said_with_what_to_do(path: Path):
    with path.open("r+b") as file:
        file.write(bytes(4096))
    with pytest.raises(
        WorkError, match=r"is damaged \(file is not a database\); `smidgen memory verify .* --restore"
    ):
        Store.open(path)


def test_a_journal_alone_is_enough(path: Path, tmp_path: Path):
    expected = everything(path)
    path.unlink()
    assert any("there is no file" in fault for fault in verify(path).faults)
    restore(journal_path(path), tmp_path / "new.db")
    restore(path, path)  # where it was, its journal being there
    assert everything(path) == everything(tmp_path / "new.db") == expected


def test_restoring_overwrites_nothing(path: Path, tmp_path: Path):
    before = path.read_bytes(), journal_path(path).read_bytes()
    with pytest.raises(DataError, match="or its journal exists already; name a file that does not"):
        restore(path, path)
    other = tmp_path / "other.db"
    journal_path(other).write_text("mine")
    with pytest.raises(DataError, match="or its journal exists already"):
        restore(path, other)
    assert (path.read_bytes(), journal_path(path).read_bytes()) == before and not other.exists()


def test_what_is_no_store_cannot_be_restored(tmp_path: Path):
    for function in (verify, lambda path: restore(path, tmp_path / "new.db")):
        with pytest.raises(DataError, match=r"there is no memory store at .*; check the path"):
            function(tmp_path / "missing.db")
    (tmp_path / "notes.db").write_bytes(b"notes " * 1_000)
    with pytest.raises(DataError, match="is not a memory store"):
        verify(tmp_path / "notes.db")
    (tmp_path / "notes.db").write_bytes(b"")
    with pytest.raises(DataError, match="is empty, not a memory store"):
        verify(tmp_path / "notes.db")
    (tmp_path / "notes.db").unlink()
    (tmp_path / "notes.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="has no journal that begins whole; expected a store or its"):
        restore(tmp_path / "notes.jsonl", tmp_path / "new.db")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.jsonl"]


FACTS = {"text": "t", "category": None, "created": "", "updated": ""}


def entries_of(*rows: tuple[str, str | None, dict]) -> list[Entry]:
    chain: list[Entry] = []
    for kind, input_id, body in (("created", None, {}), *rows):
        last = chain[-1] if chain else None
        chain.append(entry_after(last, time="", kind=kind, input_id=input_id, body=body))
    return chain


def changes(memory: str, before: dict | None, after: dict | None) -> dict:
    return {"changes": [{"id": memory, "before": before, "after": after}], "candidates": []}


RECEIVED = ("received", "a", {"text": "t"})
ADDED = ("decided", "a", changes("m3", None, FACTS))


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([RECEIVED, RECEIVED], "entry 3 receives input 'a' a second time"),
        ([ADDED], "entry 2 is about input 'a', which was not received"),
        ([RECEIVED, ADDED, ("decided", "a", {})], "entry 4 is about input 'a', decided already in 3"),
        ([RECEIVED, ADDED, ("deferred", "a", {})], "entry 4 is about input 'a', decided already in 3"),
        (
            [RECEIVED, ("decided", "a", changes("m9", None, FACTS))],
            "entry 3 changes memory m9, which was not offered",
        ),
        (
            [RECEIVED, ("decided", "a", changes("m3", FACTS, None))],
            "entry 3 changes memory m3, which was not what",
        ),
        (
            [RECEIVED, ADDED, ("undone", "a", {"entry": 3} | changes("m3", FACTS, FACTS))],
            "does not undo entry 3",
        ),
        ([RECEIVED, ("undone", "a", {"entry": 2} | changes("m3", None, FACTS))], "does not undo entry 2"),
        ([("created", None, {})], "entry 2 is created; only the first one is created"),
    ],
)
def test_what_no_store_would_have_done_is_found(rows: list, fault: str):
    faults = replay(entries_of(*rows)).faults
    assert any(fault in found for found in faults), faults


def test_a_journal_adds_up():
    state = replay(entries_of(RECEIVED, ADDED, ("received", "b", {"text": "u"}), ("deferred", "b", {})))
    assert state.faults == [] and state.memories == {"m3": FACTS} and state.decided == 1
    assert state.inputs["b"] == {"received": 4, "decided": None, "attempts": 1, "latest": 5}

"""The journal is a chain: what is changed, missing or put in between does not follow."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.memory.journal import Damaged, Entry, entry_after, entry_of, journal_path, merge, read_lines

texts = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "\0", "\u2028", "\n"])


def chain_of(bodies: list) -> list[Entry]:
    chain: list[Entry] = []
    for body in bodies:
        last = chain[-1] if chain else None
        chain.append(entry_after(last, time="2026-01-01", kind="received", input_id="i", body={"text": body}))
    return chain


def write(path: Path, entries: list[Entry]) -> None:
    path.write_bytes(b"".join(entry.line for entry in entries))


@given(st.lists(texts, max_size=5))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, bodies: list[str]):
    path, chain = tmp_path_factory.mktemp("journal") / "j.jsonl", chain_of(bodies)
    write(path, chain)
    assert list(read_lines(path)) == chain == merge([read_lines(path)])


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"time": "2027"},
        {"kind": "stale"},
        {"input": "j"},
        {"body": {"text": "B"}},
        {"hash": "0" * 64},
    ],
)
def test_a_changed_entry_does_not_follow(change: dict):
    first, second, third = chain_of(["a", "b", "c"])
    changed = replace(second, **change)
    assert second.follows(first) and third.follows(second)
    assert not changed.follows(first) or not third.follows(changed)
    assert merge([[first, changed, third]]) == [first]


def test_what_is_left_out_or_put_in_does_not_follow():
    first, second, third = chain_of(["a", "b", "c"])
    assert not third.follows(first) and not second.follows(None) and first.follows(None)
    other = chain_of(["x", "b"])[1]
    assert not other.follows(first)


def test_damaged_copies_restore_each_other():
    chain = chain_of(list("abcdef"))
    one = [entry if i not in (1, 4) else None for i, entry in enumerate(chain)]
    two = [replace(entry, time="") if i in (0, 3) else entry for i, entry in enumerate(chain)]
    assert merge([one, two]) == chain
    assert merge([one]) == chain[:1] and merge([two]) == [] == merge([])
    assert merge([one, [*two[:4], None]]) == chain[:4]  # where both are damaged, it ends


def test_an_incomplete_last_line_is_none(tmp_path: Path):
    path, chain = tmp_path / "j.jsonl", chain_of(["a", "b"])
    path.write_bytes(chain[0].line + chain[1].line[:-1])
    assert list(read_lines(path)) == chain[:1]
    assert list(read_lines(path, start=len(chain[0].line))) == []
    assert list(read_lines(tmp_path / "missing")) == []


@pytest.mark.parametrize("line", [b"[]", b"{", b"\xff", b"[" * 100_000, b'{"number": 1}', b"1"])
def test_a_line_that_is_no_entry_is_none(tmp_path: Path, line: bytes):
    path, chain = tmp_path / "j.jsonl", chain_of(["a"])
    path.write_bytes(line + b"\n" + chain[0].line)
    assert list(read_lines(path)) == [None, *chain]


@pytest.mark.parametrize("change", [{"number": "1"}, {"body": []}, {"input": 3}, {"more": 1}])
def test_fields_have_types(change: dict):
    with pytest.raises(Damaged, match=r"entry 1 of its journal is no entry"):
        entry_of(json.loads(chain_of(["a"])[0].line) | change)


def test_the_file_lies_beside_the_database():
    assert journal_path(Path("a/memory.db")) == Path("a/memory.db.journal.jsonl")

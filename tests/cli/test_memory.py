"""`smidgen memory`: what is printed, and with which exit code."""

import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code
from smidgen.data.memories import Decision
from smidgen.memory import Store
from smidgen.memory.journal import journal_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "memory.db"
    with Store.open(path) as store:
        for number, text in enumerate(
            ["My sister lives in Graz.", "Die Krankenversicherung kostet 120 Euro."]
        ):
            store.received(f"i{number}", text)
            decisions = [Decision("SAVE", "fact"), Decision("ADD", kind="new")]
            store.apply(f"i{number}", decisions, model="rules", version="1")
        store.received("left", "\ud800 \x1b[31m red")
        store.defer("left", "no decision in 500 ms")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = exit_code(["memory", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_memories_are_listed_and_searched(path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "list", path)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["id", "m3", "m5"]
    _, out, _ = run(capsys, "search", path, "Versicherung", "--json")
    assert [found["id"] for found in json.loads(out)["memories"]] == ["m5"]
    _, out, _ = run(capsys, "search", path, "Graz Euro", "--limit", 1)
    assert len(out.splitlines()) == 2
    code, out, err = run(capsys, "search", path, "zzz")
    assert (code, out, err) == (0, "", "nothing found\n")


def test_the_journal_and_pending_inputs_are_listed(path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "list", path, "--journal")
    assert code == 0 and "i0 decided: SAVE fact, ADD new (rules)" in out and "store made" in out
    _, out, _ = run(capsys, "list", path, "--pending")
    assert "no decision in 500 ms" in out and "\x1b" not in out  # a terminal would obey it
    _, out, _ = run(capsys, "list", path, "--pending", "--json")
    assert json.loads(out)["pending"][0]["text"] == "\ud800 \x1b[31m red"
    _, out, _ = run(capsys, "list", path, "--journal", "--json")
    assert len(json.loads(out)["entries"]) == 7
    code, _, err = run(capsys, "list", path, "--journal", "--pending")
    assert code == 2 and "--journal and --pending list two things; give one of them" in err


def test_an_undo_is_said_and_stored(path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, "undo", path, 3)
    assert code == 0 and "entry 8 undoes entry 3, memory m3" in err
    _, out, _ = run(capsys, "undo", path, 8, "--json")
    assert json.loads(out) == {"undone": 8, "entry": 9, "memory": "m3"}
    code, _, err = run(capsys, "undo", path, 2)
    assert code == 2 and "entry 2 is received and changed no memory" in err
    assert "undone" in run(capsys, "list", path, "--journal")[1]


def test_memories_are_exported(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "memories.jsonl"
    assert run(capsys, "export", path, "--out", out)[0] == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [list(row) for row in rows] == [["id", "text", "category", "created", "updated"]] * 2
    assert json.loads(run(capsys, "export", path, "--out", out, "--json")[1])["memories"] == 2


def test_a_store_is_verified_and_restored(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "verify", path, "--json")
    assert code == 0 and json.loads(out) == {
        "entries": 7, "inputs": 3, "decided": 2, "pending": 1, "memories": 2, "faults": [], "restored": None
    }  # fmt: skip
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))
    code, out, err = run(capsys, "verify", path)
    assert code == 1 and "damaged" in out + err
    assert f"{path} is not whole, for the reasons above; `smidgen memory verify {path} --restore" in err
    code, _, err = run(capsys, "list", path)
    assert code == 1 and "--restore NEW.db` restores it from its journal" in err
    code, _, err = run(capsys, "verify", path, "--restore", tmp_path / "new.db")
    assert code == 0 and "7 entries restored, 2 memories" in err
    assert run(capsys, "verify", tmp_path / "new.db")[0] == 0
    lines = journal_path(path).read_bytes().splitlines(keepends=True)
    journal_path(path).write_bytes(b"".join([*lines[:3], b"#\n", *lines[4:]]))
    code, _, err = run(capsys, "verify", path, "--restore", tmp_path / "less.db")
    assert code == 1 and "4 entries of" in err and "every copy of the journal is damaged before them" in err


@pytest.mark.parametrize("command", ["list", "search", "undo", "export", "verify"])
def test_what_is_no_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str):
    more = {"search": ["tea"], "undo": [3], "export": ["--out", tmp_path / "out.jsonl"]}.get(command, [])
    code, out, err = run(capsys, command, tmp_path / "none.db", *more)
    assert (code, out) == (2, "") and "there is no memory store at" in err and err.count("\n") == 1
    (tmp_path / "notes.txt").write_text("notes " * 1_000)
    code, out, err = run(capsys, command, tmp_path / "notes.txt", *more)
    assert (code, out) == (2, "") and "is not a memory store" in err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

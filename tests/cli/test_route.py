"""`smidgen route`, on an engine that follows a script."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.router.scripted import Scripted, first_choice

from smidgen.cli.app import exit_code
from smidgen.errors import DataError
from smidgen.memory import Store


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    engine = Scripted()
    monkeypatch.setattr("smidgen.router.router.open_engine", lambda options: engine)
    return engine


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def printed(capsys) -> tuple[list[dict], str]:
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_lines_in_lines_out(tmp_path, capsys):
    file = write(
        tmp_path / "in.jsonl",
        {"id": "a", "text": "I like tea."},
        {"id": "b", "fact": "x", "candidates": [{"id": "m17", "text": "y"}]},
        {"id": "c", "text": "x", "task": "classify"},
    )
    intents = write(tmp_path / "intents.json", {"weather": "a forecast"})
    assert exit_code(["route", file, "--json", "--latency", "--intents", intents]) == 0
    (*found, latency), err = printed(capsys)
    assert [(line["id"], line["status"], line["task"]) for line in found] == [
        ("a", "decided", "memorize"),
        ("b", "decided", "arbitrate"),
        ("c", "decided", "classify"),
    ]
    assert [line["decisions"][0]["action"] for line in found] == ["SKIP", "ADD", "weather"]
    assert latency["latency"]["all"]["decided"] == 3 and latency["latency"]["cold_start"] > 0
    assert "3 decided, 0 deferred, 0 failed, 0 bad, 0 known" in err and "all, with cold start: p50" in err


def test_bad_lines_are_named_and_the_others_go_on(tmp_path, capsys):
    file = write(tmp_path / "in.jsonl", {"id": "a", "text": "x"}, "{", {"id": "b", "text": "\ud800 y"})
    assert exit_code(["route", file, "--json"]) == 2
    found, err = printed(capsys)
    assert [line["status"] for line in found] == ["decided", "bad", "decided"]
    assert "error: line 2: it is not JSON" in err and "1 bad line, as said above" in err
    assert found[2]["note"] == "half characters (lone surrogates) were replaced"


def test_a_table_for_people(tmp_path, capsys):
    file = write(tmp_path / "in.jsonl", {"id": "a", "text": f"I like\x1b[31m tea {'x' * 900}"}, "{")
    assert exit_code(["route", file]) == 2
    out, _ = capsys.readouterr()
    (line,) = out.splitlines()
    assert line.startswith("a             SKIP ") and " ms  I like [31m tea" in line and "\x1b" not in line
    assert line.endswith("characters of text were shortened to 800, beginning and end)")


def test_questions_that_fail_are_said(tmp_path, capsys, engine):
    engine.say = lambda request: (
        DataError("too long") if "x" in request.sample.messages[-1].content else first_choice(request)
    )
    assert exit_code(["route", write(tmp_path / "in.jsonl", {"text": "x"}, {"text": "y"}), "--json"]) == 1
    found, err = printed(capsys)
    assert [line["status"] for line in found] == ["failed", "decided"] and found[0]["reason"] == "too long"
    assert "1 questions failed" in err


def test_a_store_gets_what_is_saved(tmp_path, capsys, engine):
    engine.say = lambda request: (
        '{"decision":"SAVE","category":"fact"}'
        if "Mia" in str(request.sample.messages) and request.sample.id.startswith("memorize")
        else first_choice(request)
    )
    store = tmp_path / "memory.db"
    file = write(tmp_path / "in.jsonl", {"text": "Mia lives in Graz."}, {"text": "what time is it?"})
    for states in (["applied", "applied"], [None, None]):
        assert exit_code(["route", file, "--json", "--store", str(store)]) == 0
        found, _ = printed(capsys)
        assert [line.get("stored", {}).get("state") for line in found] == states
    with Store.open(store) as opened:
        assert [memory.text for memory in opened.memories()] == ["Mia lives in Graz."]


def test_standard_input_and_one_text(tmp_path, capsys, monkeypatch):
    with open(write(tmp_path / "in.jsonl", {"id": 1, "text": "x"})) as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        assert exit_code(["route", "-", "--json"]) == 0
    assert [line["id"] for line in printed(capsys)[0]] == ["1"]
    assert exit_code(["route", "--text", "I like tea.", "--json"]) == 0
    assert [line["status"] for line in printed(capsys)[0]] == ["decided"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "give a file of JSON lines, - for standard input, or --text, and only one of them"),
        (["-", "--text", "x"], "and only one of them"),
        (["none.jsonl"], "there is no file none.jsonl; expected lines of JSON"),
        (["."], ". is a folder; expected a file of lines of JSON"),
        (["--text", "x", "--intents", "none.json"], "there is no file none.json"),
        (["--text", "x", "--budget", "0"], "Must be > 0"),
        (["-x"], "Unknown option"),
    ],
)
def test_bad_arguments(capsys, arguments, fault):
    assert exit_code(["route", *arguments]) == 2
    assert fault in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_stream_ends_at_once_and_its_inputs_are_decided_or_pending(tmp_path):
    store = tmp_path / "memory.db"
    model = ["--model", "smidgen:nano", "--engine", "mlx", "--budget", "60"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smidgen", "route", "-", "--json", "--store", str(store), *model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("".join(f'{{"id": "{i}", "text": "Mia lives in house {i}."}}\n' for i in range(3)))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == "0"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (130, "error: interrupted")
    with Store.open(store) as opened:
        decided = {entry.input for entry in opened.entries() if entry.kind == "decided"}
        assert "0" in decided and len(decided) + len(opened.pending()) <= 3

"""Requests become lists of arguments, and no text of a request becomes an option."""

from pathlib import Path

import pytest
from tests.studio.conftest import make_run

from smidgen.cli.app import app
from smidgen.errors import ConfigError, DataError
from smidgen.studio.commands import COMMANDS, EXPORTS, command, question, recipe_command
from smidgen.studio.workspace import Workspace

TEXT = "--model=/etc/passwd"
REQUESTS = {
    "check": {"file": "rows.jsonl"},
    "show": {"file": "rows.jsonl", "task": "judge", "template": "verdict"},
    "split": {"file": "rows.jsonl", "task": "judge"},
    "compare": {"first": "done/before", "second": "done/after"},
    "route": {"text": TEXT, "store": "memory.db"},
    "memory": {"store": "memory.db"},
    "export": {"run": "done", "format": "gguf-q8"},
}
QUESTIONS = {
    "judge": {"prompt": TEXT, "a": "-a", "b": "--b\nx", "run": "done"},
    "chat": {"messages": [TEXT], "run": "done", "trained": False},
}


@pytest.fixture
def workspace(root: Path) -> Workspace:
    (root / "memory.db").write_bytes(b"")
    return Workspace(root)


def test_every_command_has_a_request():
    assert REQUESTS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_command_line_understands_every_command(
    kind: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace.root)
    arguments = command(workspace, kind, REQUESTS[kind]).arguments
    app.parse_args(list(arguments))


@pytest.mark.parametrize("kind", ["plan", "run", "check", "show"])
def test_the_command_line_understands_commands_on_recipes(kind: str):
    app.parse_args(list(recipe_command(kind, "x", "made.toml").arguments))


@pytest.mark.parametrize("format", EXPORTS)
def test_every_export_is_one_of_the_command_line(
    format: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace.root)
    found = command(workspace, "export", {"run": "done", "format": format})
    app.parse_args(list(found.arguments))
    assert f"--out=done-{format}" in found.arguments


def test_texts_stay_texts(workspace: Workspace):
    assert f"--text={TEXT}" in command(workspace, "route", REQUESTS["route"]).arguments
    asked = question(workspace, "judge", QUESTIONS["judge"])
    assert not [word for word in asked.model.arguments if TEXT in word or "--b" in word.split("=")]
    assert (asked.body["prompt"], asked.body["b"]) == (TEXT, "--b\nx")


@pytest.mark.parametrize("given", [{}, {"run": "done"}, {"run": "whole"}])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_command_line_understands_every_server(
    kind: str, given: dict, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    (make_run(workspace.root, "whole", {}) / "best/adapters.safetensors").unlink()
    monkeypatch.chdir(workspace.root)
    for trained in (False, True):
        asked = question(workspace, kind, {**QUESTIONS[kind], "run": "", "trained": trained, **given})
        app.parse_args(list(asked.model.arguments))


def test_the_models_of_a_run_and_the_bundled_one(workspace: Workspace):
    def asked(**given: object) -> tuple[str, tuple[str, ...]]:
        found = question(workspace, "chat", {"messages": ["x"], **given})
        words = [word for word in found.model.arguments if word.startswith(("--model", "--adapter"))]
        return found.body["model"], tuple(words)

    both = ("--model=base/model", "--adapter=specialist=runs/done/best")
    assert asked(run="done") == ("specialist", both)
    assert asked(run="done", trained=False) == ("base", both)
    assert asked() == ("base", ("--model=smidgen:nano",))
    (workspace.runs / "done/best/adapters.safetensors").unlink()  # a whole model needs no adapter
    assert asked(run="done") == ("base", ("--model=runs/done/best",))
    assert asked(run="done", trained=False) == ("base", ("--model=base/model",))


@pytest.mark.parametrize(
    ("kind", "changes", "error", "why"),
    [
        ("rm", {}, ConfigError, "the studio has no command 'rm'"),
        ("check", {"file": "../secret.jsonl"}, DataError, "not inside the workspace"),
        ("check", {"file": 3}, DataError, "'file' is empty; fill it in"),
        ("check", {"task": "--recipe"}, ConfigError, "'--recipe' is not the name of a task"),
        ("split", {"task": ""}, DataError, "'task' is empty"),
        ("show", {"template": "/etc/passwd"}, ConfigError, "the template '/etc/passwd' is unknown"),
        ("route", {"text": " "}, DataError, "'text' is empty; fill it in"),
        ("route", {"text": "x" * 60_001}, DataError, "more than 60,000 characters; shorten it"),
        ("route", {"text": "a\0"}, DataError, "has a zero byte"),
        ("route", {"run": "none"}, DataError, "there is no run 'none'"),
        ("route", {"store": "../x.db"}, DataError, "not inside the workspace"),
        ("memory", {"store": "none.db"}, DataError, "there is no file 'none.db'"),
        ("export", {"format": "exe"}, ConfigError, "the export 'exe' is unknown"),
        ("export", {"run": "../done"}, DataError, "hidden or not a plain path|not inside|there is no run"),
    ],
)
def test_what_is_wrong_is_refused(
    kind: str, changes: dict, error: type[Exception], why: str, workspace: Workspace
):
    with pytest.raises(error, match=why):
        command(workspace, kind, REQUESTS.get(kind, {}) | changes)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "why"),
    [
        ("rm", {}, ConfigError, "the studio has no question 'rm'"),
        (
            "judge",
            {"template": "x.toml"},
            ConfigError,
            "the template 'x.toml' compares no pairs; expected rubric",
        ),
        ("judge", {"template": "grade"}, ConfigError, "the template 'grade' compares no pairs"),
        ("judge", {"b": ""}, DataError, "'b' is empty; fill it in"),
        ("judge", {"run": "none"}, DataError, "there is no run 'none'"),
        ("chat", {"messages": "Hello"}, DataError, "is no list that ends with a question"),
        ("chat", {"messages": ["Hello", "Hi."]}, DataError, "is no list that ends with a question"),
        ("chat", {"messages": ["Hello", "", "?"]}, DataError, "'message' is empty; fill it in"),
        ("chat", {"messages": [{"role": "system"}]}, DataError, "'message' is empty; fill it in"),
    ],
)
def test_questions_that_are_wrong_are_refused(
    kind: str, changes: dict, error: type[Exception], why: str, workspace: Workspace
):
    with pytest.raises(error, match=why):
        question(workspace, kind, QUESTIONS.get(kind, {}) | changes)


def test_a_run_that_has_not_trained_has_no_model(workspace: Workspace):
    (workspace.runs / "new").mkdir()
    with pytest.raises(DataError, match="the run 'new' has no trained model yet"):
        question(workspace, "chat", {"messages": ["x"], "run": "new"})

"""Requests become lists of arguments, and no text of a request becomes an option."""

from pathlib import Path

import pytest

from smidgen.cli.app import app
from smidgen.errors import ConfigError, DataError
from smidgen.studio.commands import COMMANDS, EXPORTS, command, recipe_command
from smidgen.studio.workspace import Workspace

TEXT = "--model=/etc/passwd"
REQUESTS = {
    "check": {"file": "rows.jsonl"},
    "show": {"file": "rows.jsonl", "task": "judge", "template": "verdict"},
    "split": {"file": "rows.jsonl", "task": "judge"},
    "compare": {"first": "done/before", "second": "done/after"},
    "judge": {"prompt": TEXT, "a": "-a", "b": "--b\nx", "run": "done"},
    "route": {"text": TEXT, "store": "memory.db"},
    "memory": {"store": "memory.db"},
    "generate": {"prompt": TEXT, "run": "done", "trained": False},
    "export": {"run": "done", "format": "gguf-q8"},
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
    found = command(workspace, "judge", REQUESTS["judge"])
    assert f"--prompt={TEXT}" in found.arguments and "--b=--b\nx" in found.arguments
    assert "--model=base/model" in found.arguments and "--adapter=runs/done/best" in found.arguments


def test_the_base_of_a_run_and_the_bundled_model(workspace: Workspace):
    assert "--adapter=runs/done/best" not in command(workspace, "generate", REQUESTS["generate"]).arguments
    assert "--model=smidgen:nano" in command(workspace, "generate", {"prompt": "x"}).arguments


def test_a_whole_model_needs_no_adapter(workspace: Workspace):
    (workspace.runs / "done/best/adapters.safetensors").unlink()
    found = command(workspace, "generate", {"prompt": "x", "run": "done"})
    assert "--model=runs/done/best" in found.arguments


@pytest.mark.parametrize(
    ("kind", "changes", "error", "why"),
    [
        ("rm", {}, ConfigError, "the studio has no command 'rm'"),
        ("check", {"file": "../secret.jsonl"}, DataError, "not inside the workspace"),
        ("check", {"file": 3}, DataError, "'file' is empty; fill it in"),
        ("check", {"task": "--recipe"}, ConfigError, "'--recipe' is not the name of a task"),
        ("split", {"task": ""}, DataError, "'task' is empty"),
        ("show", {"template": "/etc/passwd"}, ConfigError, "the template '/etc/passwd' is unknown"),
        ("judge", {"template": "x.toml"}, ConfigError, "the template 'x.toml' is unknown"),
        ("judge", {"prompt": " "}, DataError, "'prompt' is empty; fill it in"),
        ("judge", {"prompt": "x" * 60_001}, DataError, "more than 60,000 characters; shorten it"),
        ("judge", {"prompt": "a\0"}, DataError, "has a zero byte"),
        ("judge", {"run": "none"}, DataError, "there is no run 'none'"),
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


def test_a_run_that_has_not_trained_has_no_model(workspace: Workspace):
    (workspace.runs / "new").mkdir()
    with pytest.raises(DataError, match="the run 'new' has no trained model yet"):
        command(workspace, "generate", {"prompt": "x", "run": "new"})

"""The commands that a request may start, as lists of arguments.

A request names files, runs and texts; which options there are is decided here. Files are paths of the
workspace that were resolved. A text is joined to its option with `=`, so that none is read as an option.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from smidgen.errors import ConfigError, DataError, did_you_mean
from smidgen.studio.run_folders import base_of, evaluation_folder, run_folder
from smidgen.studio.workspace import Workspace

DEFAULT_BASE = "smidgen:nano"
LONGEST_TEXT = 60_000
"""Characters of one argument; the system takes 131,072 bytes."""
ADAPTER = "adapters.safetensors"
PAIR_TEMPLATES = ("rubric", "scores", "verdict")
TEMPLATES = (*PAIR_TEMPLATES, "single", "grade")
IDLE_SECONDS = 300.0
"""How long a model that nobody asks stays loaded."""
MARGIN_SECONDS = 30.0
"""How much later its server ends by itself, so that none ends between a question and its answer."""
EXPORTS = {
    "gguf-q8": ("gguf", "Q8_0"),
    "gguf-f16": ("gguf", "F16"),
    "peft": ("peft", ""),
    "mlx": ("mlx", ""),
    "fused": ("fused", ""),
}


BASE, SPECIALIST = "base", "specialist"
"""The names of a run's models in the server that both are asked through."""


class Command(NamedTuple):
    """A command: its kind, what it works on, and its arguments."""

    kind: str
    subject: str
    arguments: tuple[str, ...]


class Question(NamedTuple):
    """A question to a model that stays loaded.

    Attributes:
        model: the command that serves the model.
        changed: when weights of the workspace that it loads changed last, in nanoseconds since 1970.
        path: the endpoint of its server.
        body: the body of the request, which asks for a stream.
    """

    model: Command
    changed: int
    path: str
    body: Mapping[str, Any]


def command(workspace: Workspace, kind: str, given: Mapping[str, Any]) -> Command:
    """Return the command of a request.

    Raises:
        ConfigError: there is no such command, or it lacks something.
        DataError: a file or a run is not in the workspace.
    """
    if kind not in COMMANDS:
        raise ConfigError(f"the studio has no command '{kind[:40]}'.{did_you_mean(kind, COMMANDS)}")
    return COMMANDS[kind](workspace, given)


def question(workspace: Workspace, kind: str, given: Mapping[str, Any]) -> Question:
    """Return the question of a request: `chat`, or `judge`.

    Raises:
        ConfigError: there is no such question, or it lacks something.
        DataError: a run is not in the workspace, or has no model yet.
    """
    asked = {"chat": _chat, "judge": _judge}
    if kind not in asked:
        raise ConfigError(f"the studio has no question '{kind[:40]}'.{did_you_mean(kind, asked)}")
    path, body = asked[kind](given)
    run = str(given.get("run") or "")
    best = run_folder(workspace, run) / "best" if run else None
    model, *adapter = _model(workspace, given)
    name = SPECIALIST if adapter else BASE
    if best is not None and (best / ADAPTER).is_file():  # the base can be asked in the same server
        adapter = [f"--adapter={SPECIALIST}={workspace.relative(best)}"]
    arguments = (
        "serve", model, f"--name={BASE}", *adapter, "--port=0", "--batch-size=4", "--grace=1",
        f"--idle={IDLE_SECONDS + MARGIN_SECONDS:g}", "--json",
    )  # fmt: skip
    folders = [best, workspace.root / model.partition("=")[2]]
    changed = max((_changed(folder) for folder in folders if folder is not None), default=0)
    served = Command("serve", run or DEFAULT_BASE, arguments)
    return Question(served, changed, path, {"model": name, "stream": True, **body})


def recipe_command(kind: str, name: str, path: str) -> Command:
    """Return a command on a recipe: `plan`, `run`, or what `data` says of its rows."""
    arguments = {
        "plan": ("plan", path, "--json"),
        "run": ("run", path, "--json"),
        "check": ("data", "check", "--recipe", path, "--json"),
        "show": ("data", "show", "--recipe", path, "--rows", "2", "--json"),
    }
    return Command(kind, name, arguments[kind])


def _check(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    return Command("check", _text(given, "file"), ("data", "check", *_rows(workspace, given), "--json"))


def _show(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    task = str(given.get("task") or "")
    template = str(given.get("template") or "")
    if template and template not in TEMPLATES:
        raise ConfigError(f"the template '{template[:40]}' is unknown; expected {', '.join(TEMPLATES)}")
    asked = (f"--template={template}",) if task == "judge" and template else ()
    arguments = ("data", "show", *_rows(workspace, given), "--rows", "2", *asked, "--json")
    return Command("show", _text(given, "file"), arguments)


def _split(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    task, file = _rows(workspace, {**given, "task": _text(given, "task")})
    out = workspace.relative(workspace.free_name(f"{PurePath(file).stem}-split.jsonl"))
    return Command("split", file, ("data", "split", task, file, f"--out={out}", "--json"))


def _compare(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    places = [_text(given, key) for key in ("first", "second")]
    folders = [workspace.relative(evaluation_folder(workspace, place)) for place in places]
    return Command("compare", " and ".join(places), ("compare", *folders, "--json"))


def _route(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    store = given.get("store")
    opened = (f"--store={workspace.relative(workspace.path(str(store)))}",) if store else ()
    arguments = (
        "route", f"--text={_text(given, 'text')}", *_model(workspace, given), *opened, "--budget=60",
        "--json",
    )  # fmt: skip
    return Command("route", str(given.get("run") or "base"), arguments)


def _memory(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    store = workspace.relative(workspace.file(_text(given, "store")))
    return Command("memory", store, ("memory", "list", store, "--journal", "--json"))


def _export(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    run, chosen = _text(given, "run"), _text(given, "format")
    folder = run_folder(workspace, run)
    if chosen not in EXPORTS:
        raise ConfigError(f"the export '{chosen[:40]}' is unknown; expected {', '.join(EXPORTS)}")
    name, dtype = EXPORTS[chosen]
    out = workspace.free_name(f"{run}-{chosen}")
    arguments = (
        "export", name, *_model(workspace, given), f"--out={workspace.relative(out)}",
        f"--run={workspace.relative(folder)}", *([f"--dtype={dtype}"] if dtype else []), "--json",
    )  # fmt: skip
    return Command("export", f"{run} as {chosen}", arguments)


def _chat(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    turns = given.get("messages")
    if not isinstance(turns, list) or not len(turns) % 2:
        raise DataError("'messages' is no list that ends with a question; use the studio's own page")
    messages = [
        {"role": "assistant" if i % 2 else "user", "content": _text({"message": turn}, "message")}
        for i, turn in enumerate(turns)
    ]
    body = {
        "messages": messages,
        "max_tokens": 200,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    return "/chat/completions", body


def _judge(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    template = str(given.get("template") or "rubric")
    if template not in PAIR_TEMPLATES:
        raise ConfigError(
            f"the template '{template[:40]}' compares no pairs; expected {', '.join(PAIR_TEMPLATES)}"
        )
    texts = {key: _text(given, key) for key in ("prompt", "a", "b")}
    return "/judge", {**texts, "template": template, "max_tokens": 256}


COMMANDS: Mapping[str, Callable[[Workspace, Mapping[str, Any]], Command]] = {
    "check": _check,
    "show": _show,
    "split": _split,
    "compare": _compare,
    "route": _route,
    "memory": _memory,
    "export": _export,
}


def _text(given: Mapping[str, Any], key: str) -> str:
    """Return a text of a request.

    Raises:
        DataError: it is missing, empty, too long, or has a zero byte.
    """
    value = given.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"'{key}' is empty; fill it in")
    if len(value) > LONGEST_TEXT or "\0" in value:
        raise DataError(f"'{key}' has a zero byte or more than {LONGEST_TEXT:,} characters; shorten it")
    return value


def _rows(workspace: Workspace, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the task, if one is named, and the file of rows."""
    file = workspace.relative(workspace.file(_text(given, "file")))
    task = str(given.get("task") or "")
    if task and not task.isalpha():
        raise ConfigError(f"'{task[:40]}' is not the name of a task; choose one of the list")
    return (task, file) if task else (file,)


def _model(workspace: Workspace, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of the base model of a run, or of what the run made of it (`trained`)."""
    run = given.get("run")
    if not run:
        return (f"--model={DEFAULT_BASE}",)
    folder = run_folder(workspace, str(run))
    base, best = base_of(folder) or DEFAULT_BASE, folder / "best"
    if not given.get("trained", True):
        return (f"--model={base}",)
    if (best / ADAPTER).is_file():
        return (f"--model={base}", f"--adapter={workspace.relative(best)}")
    if not best.is_dir():
        raise DataError(f"the run '{run}' has no trained model yet; let it train first")
    return (f"--model={workspace.relative(best)}",)


def _changed(folder: Path) -> int:
    """Return when weights right in a folder changed last; 0 if there are none, or they are being replaced."""
    times = [0]
    with contextlib.suppress(OSError, ValueError):  # it need not be a path
        times += [path.stat().st_mtime_ns for path in folder.glob("*.safetensors")]
    return max(times)

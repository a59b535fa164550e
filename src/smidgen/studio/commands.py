"""The commands that a request may start, as lists of arguments.

A request names files, runs and texts; which options there are is decided here. Files are paths of the
workspace that were resolved. A text is joined to its option with `=`, so that none is read as an option.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from smidgen.errors import ConfigError, DataError, did_you_mean
from smidgen.studio.run_folders import base_of, evaluation_folder, run_folder
from smidgen.studio.workspace import Workspace

DEFAULT_BASE = "smidgen:nano"
LONGEST_TEXT = 60_000
"""Characters of one argument; the system takes 131,072 bytes."""
TEMPLATES = ("rubric", "scores", "single", "verdict", "grade")
EXPORTS = {
    "gguf-q8": ("gguf", "Q8_0"),
    "gguf-f16": ("gguf", "F16"),
    "peft": ("peft", ""),
    "mlx": ("mlx", ""),
    "fused": ("fused", ""),
}


class Command(NamedTuple):
    """A command: its kind, what it works on, and its arguments."""

    kind: str
    subject: str
    arguments: tuple[str, ...]


def command(workspace: Workspace, kind: str, given: Mapping[str, Any]) -> Command:
    """Return the command of a request.

    Raises:
        ConfigError: there is no such command, or it lacks something.
        DataError: a file or a run is not in the workspace.
    """
    if kind not in COMMANDS:
        raise ConfigError(f"the studio has no command '{kind[:40]}'.{did_you_mean(kind, COMMANDS)}")
    return COMMANDS[kind](workspace, given)


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


def _judge(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    texts = [f"--{key}={_text(given, key)}" for key in ("prompt", "a", "b")]
    template = str(given.get("template") or "rubric")
    if template not in TEMPLATES:
        raise ConfigError(f"the template '{template[:40]}' is unknown; expected {', '.join(TEMPLATES)}")
    model = _model(workspace, given)
    arguments = ("judge", *texts, *model, f"--template={template}", "--max-tokens=256", "--stream")
    return Command("judge", str(given.get("run") or "base"), arguments)


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


def _generate(workspace: Workspace, given: Mapping[str, Any]) -> Command:
    prompt, run = _text(given, "prompt"), str(given.get("run") or "base")
    arguments = ("generate", f"--prompt={prompt}", *_model(workspace, given), "--max-tokens=200")
    return Command("generate", run, arguments)


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


COMMANDS: Mapping[str, Callable[[Workspace, Mapping[str, Any]], Command]] = {
    "check": _check,
    "show": _show,
    "split": _split,
    "compare": _compare,
    "judge": _judge,
    "route": _route,
    "memory": _memory,
    "generate": _generate,
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
    if (best / "adapters.safetensors").is_file():
        return (f"--model={base}", f"--adapter={workspace.relative(best)}")
    if not best.is_dir():
        raise DataError(f"the run '{run}' has no trained model yet; let it train first")
    return (f"--model={workspace.relative(best)}",)

"""Reading run folders: which runs there are, how far they are, and what they write while they run."""

import asyncio
import json
import os
import platform
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

from smidgen.errors import DataError
from smidgen.files import read_json
from smidgen.studio.jobs import Jobs
from smidgen.studio.workspace import Workspace

RunState = Literal["running", "done", "failed", "stopped"]
FOLLOWED = ("events", "metrics")
"""The files that grow while a run goes on, without their ending."""
LOOK_EVERY = 0.4
"""Seconds between two looks at them."""
HELD = "process "
NOTHING: dict[str, Any] = {
    "evaluations": [], "exports": [], "adapter": False, "best": False, "report": False,
}  # fmt: skip
"""What a run has made that has no folder yet."""


def run_names(workspace: Workspace) -> list[str]:
    """Return the names of the run folders, the one that changed last first."""
    if not workspace.runs.is_dir():
        return []
    folders = [
        folder
        for folder in workspace.runs.iterdir()
        if not folder.name.startswith((".", "-")) and not folder.is_symlink() and _is_run(folder)
    ]
    return [folder.name for folder in sorted(folders, key=_changed, reverse=True)]


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of a run.

    Raises:
        DataError: there is no such run in the workspace.
    """
    folder = workspace.path(f"runs/{name}")
    if folder.parent != workspace.runs or not folder.is_dir():
        raise DataError(f"there is no run '{name}' in the workspace; choose one that is listed")
    return folder


def summary(workspace: Workspace, jobs: Jobs, name: str) -> dict[str, Any]:
    """Return the state of a run, what it made so far, and the last sentence of the studio's job on it."""
    folder = run_folder(workspace, name)
    job = next((job for job in jobs.all() if job.kind == "run" and job.subject == name), None)
    recipe = _recipe_of(folder)
    return {
        "name": name,
        "state": state_of(folder, jobs, name),
        "changed": _changed(folder),
        "job": job.summary() if job else None,
        "task": recipe.get("task"),
        "method": recipe.get("train", {}).get("method"),
        "base": base_of(folder),
        "template": recipe.get("settings", {}).get("template"),
        "description": recipe.get("description", ""),
        "evaluations": evaluations(folder),
        "adapter": (folder / "best" / "adapters.safetensors").is_file(),
        "best": (folder / "best").is_dir(),
        "exports": sorted(path.name for path in (folder / "exports").glob("*")),
        "report": (folder / "report.json").is_file(),
    }


def state_of(folder: Path, jobs: Jobs, name: str) -> RunState:
    """Return whether a run is going on, in whatever process, and else how it ended."""
    if jobs.running("run", name) or is_held(folder):
        return "running"
    last = next((job for job in jobs.all() if job.kind == "run" and job.subject == name), None)
    if last is not None and last.state == "failed":
        return "failed"
    provenance = folder / "provenance.json"
    has_ended = provenance.is_file() and read_json(provenance).get("finished")
    return "done" if has_ended else "stopped"


def is_held(folder: Path) -> bool:
    """Whether a living process of this machine has locked a run folder.

    The owner's name in the lock file is read: trying the lock could make a command fail that takes it now.
    """
    try:
        owner = (folder / ".lock").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    number, _, machine = owner.removeprefix(HELD).partition(" on ")
    return number.isdigit() and machine == platform.node() and psutil.pid_exists(int(number))


def base_of(folder: Path) -> str | None:
    """Return the base model of a run."""
    return _recipe_of(folder).get("model", {}).get("base")


def evaluations(folder: Path) -> list[str]:
    """Return the names of the finished evaluations of a run."""
    return sorted(path.parent.name for path in folder.glob("evaluations/*/evaluation.json"))


def evaluation_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of an evaluation that is named `run/evaluation`.

    Raises:
        DataError: there is none.
    """
    run, _, evaluation = name.partition("/")
    folder = workspace.path(f"runs/{run}/evaluations/{evaluation}")
    if folder.parent.parent != run_folder(workspace, run) or not (folder / "evaluation.json").is_file():
        raise DataError(
            f"there is no finished evaluation '{name}' in the workspace; choose one that is listed"
        )
    return folder


def report_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the report of a run.

    Raises:
        DataError: it has none yet.
    """
    path = run_folder(workspace, name) / "report.json"
    if not path.is_file():
        raise DataError(f"the run '{name}' has no report yet; let it run to its end")
    return read_json(path)


async def follow(folder: Path, is_going_on: Callable[[], bool]) -> AsyncIterator[dict[str, Any]]:
    """Yield the rows of a run's growing files from their start, in batches, until the run ends.

    A file that becomes shorter was begun anew, because its stage started over or resumed from a checkpoint; a
    batch with `restart` then says so and carries the file from its start.

    Args:
        folder: the run folder, which may not exist yet.
        is_going_on: asked after every look; a last look follows its no.
    """
    places = {name: Tail(folder / f"{name}.jsonl") for name in FOLLOWED}
    while True:
        goes_on = is_going_on()
        for name, tail in places.items():
            restart, rows = tail.read()
            if rows or restart:
                yield {"file": name, "restart": restart, "rows": rows}
        if not goes_on:
            return
        await asyncio.sleep(LOOK_EVERY)


class Going:
    """Whether a run goes on: a job of the studio, or any process that holds the folder."""

    def __init__(self, folder: Path, jobs: Jobs, name: str) -> None:
        self._folder, self._jobs, self._name = folder, jobs, name

    def __call__(self) -> bool:
        """Ask again."""
        return self._jobs.running("run", self._name) is not None or is_held(self._folder)


class Tail:
    """The complete lines of a growing file of JSON lines that were not read yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._inode = path, 0, 0

    def read(self) -> tuple[bool, list[Any]]:
        """Return whether the file was begun anew since the last call, and its new rows."""
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                restart = self._offset > 0 and (facts.st_size < self._offset or facts.st_ino != self._inode)
                self._offset, self._inode = (0 if restart else self._offset), facts.st_ino
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return False, []
        self._offset += len(whole) + len(newline)
        return restart, list(_rows(whole.split(b"\n")))


def _rows(lines: Sequence[bytes]) -> list[Any]:
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # an empty line, or one that a killed process left
            continue
    return rows


def _recipe_of(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file() or (folder / "events.jsonl").is_file()


def _changed(folder: Path) -> float:
    """Return when something was last written in a run folder, in seconds since 1970."""
    files = [folder, *(folder / name for name in ("events.jsonl", "report.json"))]
    return max(path.stat().st_mtime for path in files if path.exists())

"""Reading run folders: which runs there are, how far they are, and what they write while they run."""

import asyncio
import contextlib
import json
import os
import platform
import signal
import tomllib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import psutil

from smidgen.errors import DataError, UserError
from smidgen.files import read_json
from smidgen.studio.jobs import Jobs
from smidgen.studio.workspace import Workspace, is_shown

RunState = Literal["running", "done", "failed", "stopped"]
FOLLOWED = ("events", "metrics")
"""The files that grow while a run goes on, without their ending."""
LOOK_EVERY = 0.4
"""Seconds between two looks at them."""
MOST_READ = 1 << 20
"""Bytes of a growing file that are read at one look; a browser takes a long file in such pieces, too."""
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
        if is_shown(folder.name) and not folder.is_symlink() and _is_run(folder)
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
        "method": _table(recipe, "train").get("method"),
        "base": base_of(folder),
        "template": _table(recipe, "settings").get("template"),
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
    try:
        has_ended = read_json(own(folder, "provenance.json")).get("finished")
    except (OSError, UserError, AttributeError):  # missing, or damaged, which must not hide all other runs
        has_ended = None
    return "done" if has_ended else "stopped"


def is_held(folder: Path) -> bool:
    """Whether a living process of this machine has locked a run folder."""
    return holder(folder) is not None


def holder(folder: Path) -> psutil.Process | None:
    """Return the living process of this machine that has locked a run folder.

    The owner's name in the lock file is read: trying the lock could make a command fail that takes it now. A
    killed process leaves its name, and the system gives its number to another; so the file has to be open.
    """
    lock = folder / ".lock"
    try:
        owner = lock.read_text(encoding="utf-8").strip()
        number, _, machine = owner.removeprefix(HELD).partition(" on ")
        if not number.isdigit() or machine != platform.node():
            return None
        process = psutil.Process(int(number))
        opened = {Path(file.path) for file in process.open_files()}
        return process if lock.resolve() in opened else None
    except (OSError, ValueError, psutil.Error):
        return None


def interrupt(folder: Path) -> bool:
    """Interrupt the process that holds a run folder, if there is one."""
    if (process := holder(folder)) is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        process.send_signal(signal.SIGINT)
    return True


def base_of(folder: Path) -> str | None:
    """Return the base model of a run."""
    return _table(_recipe_of(folder), "model").get("base")


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
    path = own(run_folder(workspace, name), "report.json")
    if not path.is_file():
        raise DataError(f"the run '{name}' has no report yet; let it run to its end")
    return read_json(path)


def follow(folder: Path, is_going_on: Callable[[], bool]) -> AsyncGenerator[dict[str, Any], None]:
    """Return the rows of a run's growing files from their start, in batches, until the run ends.

    A file that becomes shorter was begun anew, because its stage started over or resumed from a checkpoint; a
    batch with `restart` then says so and carries the file from its start.

    Args:
        folder: the run folder, which may not exist yet.
        is_going_on: asked after every look; a last look follows its no.

    Raises:
        DataError: one of the files is a link out of the folder.
    """
    return _batches({name: Tail(own(folder, f"{name}.jsonl")) for name in FOLLOWED}, is_going_on)


async def _batches(
    places: Mapping[str, "Tail"], is_going_on: Callable[[], bool]
) -> AsyncGenerator[dict[str, Any], None]:
    while True:
        goes_on, has_more = is_going_on(), False
        for name, tail in places.items():
            restart, rows = tail.read()
            has_more = has_more or tail.has_more
            if rows or restart:
                yield {"file": name, "restart": restart, "rows": rows}
        if not goes_on and not has_more:
            return
        await asyncio.sleep(0 if has_more else LOOK_EVERY)


class Going:
    """Whether a run goes on: a job of the studio, or any process that holds the folder."""

    def __init__(self, folder: Path, jobs: Jobs, name: str) -> None:
        self._folder, self._jobs, self._name = folder, jobs, name

    def __call__(self) -> bool:
        """Ask again."""
        return self._jobs.running("run", self._name) is not None or is_held(self._folder)


class Tail:
    """The complete lines of a growing file of JSON lines that were not read yet.

    Attributes:
        has_more: whether the last call of `read` left lines for the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._inode, self.has_more = path, 0, 0, False

    def read(self) -> tuple[bool, list[Any]]:
        """Return whether the file was begun anew since the last call, and its new rows, or some of them."""
        self.has_more = False
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                restart = self._offset > 0 and (facts.st_size < self._offset or facts.st_ino != self._inode)
                self._offset, self._inode = (0 if restart else self._offset), facts.st_ino
                file.seek(self._offset)
                piece = file.read(MOST_READ)
                if b"\n" not in piece:  # one line that is longer
                    piece += file.readline()
                self.has_more = file.tell() < facts.st_size
                whole, newline, _ = piece.rpartition(b"\n")
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


def own(folder: Path, name: str) -> Path:
    """Return a file of a run folder, which was resolved.

    Raises:
        DataError: it is a link that leads out of the folder.
    """
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder):
        raise DataError(f"{name} of the run '{folder.name}' is a link out of its folder; remove it")
    return path


def _recipe_of(folder: Path) -> dict[str, Any]:
    try:
        path = own(folder, "config.toml")
        facts = path.stat()
        return _recipe_in(path, facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError, UserError):
        return {}


@lru_cache(maxsize=4096)
def _recipe_in(path: Path, changed: int, bytes: int) -> dict[str, Any]:
    """Read a recipe once for each of its versions; an overview of many runs asks for all of them."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _table(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a table of a recipe that was not checked."""
    found = recipe.get(name)
    return found if isinstance(found, Mapping) else {}


def _is_run(folder: Path) -> bool:
    return (folder / "config.toml").is_file() or (folder / "events.jsonl").is_file()


def _changed(folder: Path) -> float:
    """Return when something was last written in a run folder, in seconds since 1970; 0 if it was removed."""
    times = [0.0]
    for path in (folder, *(folder / name for name in ("events.jsonl", "report.json"))):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)

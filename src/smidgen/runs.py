"""Run folders: the resolved recipe of a run, its provenance, its logs and its finished stages.

runs/<name>/
├── config.toml        the recipe with every default written out
├── provenance.json    versions, machine, git revision, command, seeds, data hashes, start and end
├── metrics.jsonl      one line per step, appended
├── evaluations/*/     records.jsonl, one line per evaluated sample, appended, and evaluation.json
├── stages/<name>.json inputs and outputs of a finished stage, so that it is skipped next time
└── checkpoints/ best/ report.html report.json …
"""

import datetime
import fcntl
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from smidgen.errors import ConfigError, WorkError
from smidgen.files import (
    append_jsonl,
    content_hash,
    contents,
    read_json,
    read_jsonl,
    sha256_json,
    sweep,
    write_json,
    write_jsonl,
    write_text,
)

_DISTRIBUTIONS = ("smidgen", "mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "scipy")


class Run:
    """One run folder. Creating the object does not touch the disk.

    Attributes:
        folder: path of the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.folder.name

    def path(self, name: str) -> Path:
        """The path of the file or folder `name` of this run."""
        return self.folder / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of this run atomically."""
        write_text(self.path(name), text)
        return self.path(name)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of this run atomically."""
        write_json(self.path(name), value)
        return self.path(name)

    def append_jsonl(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one row to a JSONL file of this run."""
        append_jsonl(self.path(name), row)

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """Read the rows of a JSONL file of this run, ignoring an incomplete last line."""
        return read_jsonl(self.path(name))

    def keep_jsonl(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that fail `keep`, such as those logged after the checkpoint to resume from."""
        rows = self.read_jsonl(name)
        kept = [row for row in rows if keep(row)]
        if len(kept) < len(rows):
            write_jsonl(self.path(name), kept)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process. The lock ends with the process, so it is never stale.

        Raises:
            WorkError: another process has locked the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path(".lock").open("a+") as file:  # not "w": the owner's name must survive until we own it
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise WorkError(
                    f"{self.folder} is in use by {owner}; wait for it, or choose another name"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            sweep(self.folder)
            yield
            file.truncate(0)

    def stage_record(self, name: str) -> dict[str, Any] | None:
        """The record of inputs and outputs of the finished stage `name`, or None if it never finished."""
        path = self.path(f"stages/{name}.json")
        return read_json(path) if path.exists() else None

    def stage_is_done(self, name: str, inputs_hash: str) -> bool:
        """Whether the stage finished on the same inputs and its outputs are unchanged."""
        record = self.stage_record(name)
        if record is None or record["inputs"] != inputs_hash:
            return False
        outputs = record["outputs"]
        sizes_agree = all(_size(self.path(path)) == output["bytes"] for path, output in outputs.items())
        return sizes_agree and all(
            content_hash(self.path(path)) == output["sha256"] for path, output in outputs.items()
        )

    def finish_stage(self, name: str, inputs_hash: str, outputs: Iterable[str], seconds: float) -> None:
        """Record that a stage is done.

        Args:
            name: name of the stage.
            inputs_hash: hash of everything that the stage's result depends on.
            outputs: files and folders that it wrote, relative to the run folder.
            seconds: wall-clock seconds it took.
        """
        record = {
            "inputs": inputs_hash,
            "outputs": {
                path: {"sha256": content_hash(self.path(path)), "bytes": _size(self.path(path))}
                for path in outputs
            },
            "seconds": seconds,
            "finished": now(),
        }
        self.write_json(f"stages/{name}.json", record)

    def outputs_hash(self, name: str) -> str:
        """Return a hash of a finished stage's outputs, an input of the stages after it."""
        record = self.stage_record(name)
        assert record is not None, f"stage {name} of {self.folder} is not finished"
        return sha256_json({path: output["sha256"] for path, output in record["outputs"].items()})

    def start(self, *, seeds: Mapping[str, int], data: Mapping[str, str], **facts: Any) -> None:
        """Write the provenance of a run that starts or resumes.

        Args:
            seeds: every seed, by its purpose.
            data: hash of every dataset, by its role.
            facts: anything else that the result depends on, such as the device.
        """
        earlier = self._provenance()
        starts = [*earlier["earlier_starts"], earlier["started"]] if earlier else []
        self.write_json(
            "provenance.json", provenance(seeds=seeds, data=data) | facts | {"earlier_starts": starts}
        )

    def finish(self) -> None:
        """Record the time at which the run finished."""
        started = self._provenance()
        assert started is not None, f"{self.folder} was never started"
        self.write_json("provenance.json", started | {"finished": now()})

    def _provenance(self) -> dict[str, Any] | None:
        path = self.path("provenance.json")
        return read_json(path) if path.exists() else None


def refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run with settings other than those it was started with.

    Args:
        folder: the run folder.
        before: the settings that the run was started with, by name.
        now: the settings to resume with; only these are compared.

    Raises:
        ConfigError: some differ; the message lists them.
    """
    changed = [
        f"{name} was {before.get(name)!r} and is now {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"{folder} contains a run with other settings: {'; '.join(changed)}. "
            "Restore them to resume it, or name another run folder"
        )


def provenance(
    *, seeds: Mapping[str, int], data: Mapping[str, str], command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Collect what is needed to reproduce a run. Imports none of the packages whose versions it reports."""
    return {
        "command": list(sys.argv if command is None else command),
        "started": now(),
        "finished": None,
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "git": git_revision(Path.cwd()),
        "seeds": dict(seeds),
        "data": dict(data),
    }


def versions() -> dict[str, str | None]:
    """Return the installed versions of smidgen and the packages its results depend on; None if missing."""
    return {name: _version(name) for name in _DISTRIBUTIONS}


def cpu_name() -> str:
    """Return the model name of the processor."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Return the commit checked out in `folder` and whether it has changes, or None outside a repository."""
    revision = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if not revision:
        return None
    return {"revision": revision, "changed": bool(_output("git", "-C", str(folder), "status", "--porcelain"))}


def now() -> str:
    """Return the current UTC time, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Return what a short command prints, or an empty string if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of the contents of a folder; None if it does not exist."""
    if not path.exists():
        return None
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in contents(path))

"""The folder of converted models: bounded, and safe to share between processes.

A file that is used is locked (shared) until its process ends. When the folder is larger than its bound, the
files that were not used for longest are removed, never one that is locked.
"""

import fcntl
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from smidgen.errors import ConfigError

BOUND = "SMIDGEN_CACHE_GB"
"""Environment variable: how large the folder may become, in units of 10⁹ bytes."""
DEFAULT_GB = 20.0
"""A model of 8 billion weights as F16, or some forty of half a billion as Q8_0."""
ABANDONED = 600.0
"""Seconds: a conversion writes all the time, so a partial file that is older has nobody who writes it."""

_held: dict[Path, BinaryIO] = {}


@dataclass(frozen=True)
class CacheFacts:
    """What a folder of converted models holds.

    Attributes:
        folder: where it is.
        files: how many converted models.
        bytes: of everything in it.
        bound_bytes: how large it may become.
    """

    folder: Path
    files: int
    bytes: int
    bound_bytes: int


def bound_bytes() -> int:
    """Return how large the folder may become.

    Raises:
        ConfigError: the environment variable is not a number of 0 or more.
    """
    given = os.environ.get(BOUND) or str(DEFAULT_GB)
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(
            f"the environment variable {BOUND} is {given!r}; expected a number of gigabytes, 0 or more, as 20"
        )
    return int(number * 1e9)


def cache_facts(folder: Path) -> CacheFacts:
    """Return what a folder holds; it need not be there."""
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    sizes = {file: _size(file) for file in files}
    return CacheFacts(folder, len(_models(folder)), sum(sizes.values()), bound_bytes())


def converted(file: Path, make: Callable[[], object]) -> Path:
    """Return a converted model, made if it is not there, and lock it for this process.

    Args:
        file: where it stands in the folder.
        make: writes it there, whole or not at all.

    Raises:
        ConfigError: as `bound_bytes`.
    """
    bound = bound_bytes()
    sweep_partials(file.parent)
    while not _hold(file):
        make()
    _trim(file.parent, bound)
    return file


def sweep_partials(folder: Path) -> None:
    """Remove what killed conversions have left."""
    for partial in folder.glob(".*.partial"):
        pid = partial.name.split(".")[-2]
        age = time.time() - _modified(partial)
        if partial.is_file() and age > ABANDONED and not (pid.isdecimal() and _is_alive(int(pid))):
            partial.unlink(missing_ok=True)


def _hold(file: Path) -> bool:
    """Lock a file and note that it is used; False if it is not there."""
    if file not in _held:
        try:
            opened = file.open("rb")
        except FileNotFoundError:
            return False
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(opened, fcntl.LOCK_SH)
        _held[file] = opened
    if not _is_still(file, _held[file]):
        _held.pop(file).close()  # removed, here before the lock or by hand
        return file.exists() and _hold(file)
    with suppress(OSError):  # it may be another user's
        os.utime(file)
    return True


def _is_still(file: Path, opened: BinaryIO) -> bool:
    """Whether an open file is the one of its name."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _trim(folder: Path, bound: int) -> None:
    models = sorted(_models(folder), key=_modified)
    total = sum(_size(model) for model in models)
    for model in models:
        if total <= bound:
            return
        size = _size(model)
        if _remove_unused(model):
            total -= size


def _remove_unused(model: Path) -> bool:
    """Remove a file unless a process uses it."""
    try:
        with model.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            model.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # it is in use, or may not be removed
        return False
    return True


def _models(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.gguf") if not file.name.startswith(".")]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

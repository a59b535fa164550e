"""The cache folder of converted models: limited in size and safe to share between processes.

A file in use is locked (shared) until its process ends. When the folder exceeds its limit, the least recently
used files are removed, except locked ones.
"""

import fcntl
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smidgen.errors import ConfigError

BOUND = "SMIDGEN_CACHE_GB"
"""Environment variable: size limit of the folder, in units of 10⁹ bytes."""
DEFAULT_GB = 20.0
"""Fits a model of 8 billion weights in F16, or about forty of half a billion in Q8_0."""
ABANDONED = 600.0
"""Seconds since the last write after which a partial file is abandoned; a conversion writes constantly."""

_held: dict[Path, int] = {}


@dataclass(frozen=True)
class CacheFacts:
    """Contents of a folder of converted models.

    Attributes:
        folder: path of the folder.
        files: number of converted models.
        bytes: total size of everything in it.
        bound_bytes: size limit.
    """

    folder: Path
    files: int
    bytes: int
    bound_bytes: int


def bound_bytes() -> int:
    """Return the size limit of the folder.

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
            f"the environment variable {BOUND} is {given!r}; expected a number of gigabytes such as 20, at "
            "least 0"
        )
    return int(number * 1e9)


def cache_facts(folder: Path) -> CacheFacts:
    """Return the contents of a folder, which need not exist."""
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    sizes = {file: _size(file) for file in files}
    return CacheFacts(folder, len(_models(folder)), sum(sizes.values()), bound_bytes())


def converted(file: Path, make: Callable[[], object]) -> Path:
    """Return a converted model, made if it does not exist, and lock it for this process.

    Args:
        file: its path in the folder.
        make: writes the file atomically.

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
    """Remove the partial files of killed conversions."""
    for partial in folder.glob(".*.partial"):
        pid = partial.name.split(".")[-2]
        age = time.time() - _modified(partial)
        if partial.is_file() and age > ABANDONED and not (pid.isdecimal() and _is_alive(int(pid))):
            partial.unlink(missing_ok=True)


def _hold(file: Path) -> bool:
    """Lock a file and update its last use; return False if it does not exist."""
    if file not in _held:
        try:
            opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # a descriptor, which may stay open at exit
        except FileNotFoundError:
            return False
        with suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(opened, fcntl.LOCK_SH)
        _held[file] = opened
    if not _is_still(file, _held[file]):
        os.close(_held.pop(file))  # removed by another process before we had the lock, or by the user
        return file.exists() and _hold(file)
    with suppress(OSError):  # it may belong to another user
        os.utime(file)
    return True


def _is_still(file: Path, opened: int) -> bool:
    """Return whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(opened), file.stat())
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
    """Remove a file unless a process is using it; return whether it is gone."""
    try:
        with model.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            model.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # in use, or no permission to remove it
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

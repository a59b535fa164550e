"""The folder for what can be made again, and the hashes of large files that are kept in it.

Hashing the weights of a model takes as long as reading them. A hash is therefore kept with what the file
system says of the file (size, times, inode), and used as long as that is the same. Times have a granularity:
a file that was changed within the last two seconds may change once more without a trace, so its hash is not
kept.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

CACHED_BYTES = 1 << 20
"""Smaller files are hashed each time; that takes a millisecond."""
MOST_HASHES = 1024
GRANULARITY = 2.0
"""Seconds; FAT counts in these, other file systems are finer."""


def cache_dir() -> Path:
    """Return the folder for what can be made again: `SMIDGEN_CACHE`, else `smidgen` in the user's cache."""
    if given := os.environ.get("SMIDGEN_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smidgen"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, without reading a large file that is known."""
    before = os.stat(path)
    if before.st_size < CACHED_BYTES:
        return _hashed(path)
    key, facts = os.path.realpath(path), _facts(before)
    known = _read(_file()).get(key)
    if known is not None and known[:-1] == facts:
        return str(known[-1])
    digest = _hashed(path)
    after = os.stat(path)
    newest = max(after.st_mtime, after.st_ctime)
    if _facts(after) == facts and newest + GRANULARITY < time.time():
        with suppress(OSError):  # the cache folder may be read-only or full
            _keep(key, [*facts, digest])
    return digest


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file() -> Path:
    return cache_dir() / "hashes.json"


def _facts(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _read(file: Path) -> dict[str, list[int | str]]:
    """The whole entries of a file of hashes; none if it is not there or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {key: entry for key, entry in found.items() if _is_entry(entry)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 6:
        return False
    *facts, digest = entry
    is_digest = isinstance(digest, str) and len(digest) == 64 and not digest.strip("0123456789abcdef")
    return is_digest and all(type(fact) is int for fact in facts)


def _keep(key: str, entry: list[int | str]) -> None:
    """Add an entry as the newest; the oldest beyond `MOST_HASHES` go.

    Of two processes that write at once one may lose its entry, which is then made again.
    """
    file = _file()
    found = _read(file)
    found.pop(key, None)
    found[key] = entry
    kept = dict(list(found.items())[-MOST_HASHES:])
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}.partial")
    try:
        partial.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)

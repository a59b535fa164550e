"""The cache folder, and the hashes of large files that are stored in it.

Hashing the weights of a model takes as long as reading them. A hash is therefore stored with the file's
metadata (size, times, inode) and reused while that is unchanged. Timestamps have a limited resolution: a file
that changed within the last two seconds may change again under the same timestamp, so its hash is not stored.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

CACHED_BYTES = 1 << 20
"""Smaller files are hashed every time; that takes about a millisecond."""
MAX_HASHES = 1024
GRANULARITY = 2.0
"""Seconds: the timestamp resolution of FAT; other file systems have a finer one."""


def cache_dir() -> Path:
    """Return the cache folder: `SMIDGEN_CACHE` if set, else `smidgen` in the user's cache folder."""
    if given := os.environ.get("SMIDGEN_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smidgen"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal; the hash of a large unchanged file is cached."""
    before = os.stat(path)
    if before.st_size < CACHED_BYTES:
        return _hash(path)
    key, facts = os.path.realpath(path), _metadata(before)
    known = _read_entries(_hashes_file()).get(key)
    if known is not None and known[:-1] == facts:
        return str(known[-1])
    digest = _hash(path)
    after = os.stat(path)
    newest = max(after.st_mtime, after.st_ctime)
    if _metadata(after) == facts and newest + GRANULARITY < time.time():
        with suppress(OSError):  # the cache folder may be read-only or full
            _store(key, [*facts, digest])
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes_file() -> Path:
    return cache_dir() / "hashes.json"


def _metadata(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _read_entries(file: Path) -> dict[str, list[int | str]]:
    """Read the valid entries of a file of hashes; none if it is missing or damaged."""
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


def _store(key: str, entry: list[int | str]) -> None:
    """Add an entry as the newest; the oldest beyond `MAX_HASHES` are dropped.

    If two processes write at once, one entry may be lost and is recomputed later.
    """
    file = _hashes_file()
    found = _read_entries(file)
    found.pop(key, None)
    found[key] = entry
    kept = dict(list(found.items())[-MAX_HASHES:])
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}.partial")
    try:
        partial.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)

"""Atomic writes, append-only JSONL, and content hashes.

Files are written under a temporary name in the same folder and then renamed, so that a reader, or a process
that was killed, sees the old content or the new but never a mixture. Any package may import this module.
"""

import codecs
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from smidgen.cache import sha256_of
from smidgen.errors import ConfigError, DataError, SmidgenError, WorkError

# Native writers report a full disk without an errno; with fewer free bytes than this, it is assumed full.
_FULL_BELOW = 1 << 20
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_WRITE_ERRNOS = (*_FULL_ERRNOS, errno.EFBIG, errno.EIO)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; the file written there replaces `path` if the block succeeds.

    Raises:
        WorkError: the disk is full or `path` is not writable; nothing is left behind.
    """
    partial = _temporary_path(path, "partial")
    try:
        with _as_work_errors(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            flush(partial)
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # it was renamed, or could not be created
            partial.unlink()


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder next to `path` that is renamed to `path` if the block succeeds.

    Args:
        path: the final folder.
        replace: replace an existing folder; only for folders that smidgen itself created.

    Raises:
        ConfigError: `path` exists, is not an empty folder, and `replace` is false.
        WorkError: the disk is full or `path` is not writable; nothing is left behind.
    """
    if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} already exists and is not empty; name another folder or remove it first")
    partial, old = _temporary_path(path, "partial"), _temporary_path(path, "old")
    try:
        with _as_work_errors(path, partial):
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    flush(file)
            _swap(partial, path, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clean up the temporary files of killed processes in a folder that this process has locked."""
    for old in folder.rglob(".*.old"):
        place = old.with_name(old.name[1:].rsplit(".", 2)[0])
        if place.exists():
            shutil.rmtree(old)
        else:  # killed between the two renames of a replacement
            os.replace(old, place)
    sweep_partials(folder)


def sweep_partials(folder: Path, process: int | None = None) -> None:
    """Remove what killed processes, or the one with this number, were writing anywhere in a folder."""
    for partial in folder.rglob(f".*.{process or '*'}.partial"):
        with suppress(OSError):  # it is gone already
            (shutil.rmtree if partial.is_dir() else Path.unlink)(partial)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(decode_text(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file: {error}") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON, atomically."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(jsonable(row), ensure_ascii=False) + "\n" for row in rows)


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row as one line of JSON, as `append_line` does."""
    append_line(path, json.dumps(jsonable(row), ensure_ascii=False).encode() + b"\n")


def append_line(path: Path, line: bytes, *, durable: bool = False) -> None:
    """Append a line with its newline, after removing an incomplete last one left by a killed process.

    If `durable`, the line is on the disk, not only with the operating system, before this returns.

    Raises:
        WorkError: the line could not be written, for example on a full disk; the file is unchanged.
    """
    with _as_work_errors(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _append_whole(descriptor, line, durable=durable)
        finally:
            os.close(descriptor)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `append_jsonl` wrote, ignoring an incomplete last line; empty for a missing file.

    Raises:
        DataError: a complete line is not JSON.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")  # what follows the last newline is incomplete
    rows = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        try:
            rows.extend([json.loads(line)] if line.strip() else [])
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}); fix or remove that line") from None
    return rows


def read_text(path: Path, what: str) -> str:
    """Read a text file that the user named.

    Raises:
        DataError: it is missing or is not UTF-8 text; `what` names the expected content.
    """
    try:
        return decode_text(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"there is no {what} at {path}; expected a text file") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name the {what}, a text file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable UTF-8 file: {error}") from None


def decode_text(data: bytes) -> str:
    r"""Decode a user's text file as UTF-8, or as UTF-16 if its byte order mark says so.

    The byte order mark is dropped and line endings become `\n`. Some editors on Windows write UTF-16.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def jsonable(value: Any) -> Any:
    """Convert a value to JSON types; numbers that are not finite become None, since JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    scalar = getattr(value, "item", None)  # numpy scalars are not Python numbers
    if callable(scalar):
        return jsonable(scalar())
    return str(value)


def is_url(name: str) -> bool:
    """Whether a name is the URL of a server rather than a local path."""
    return name.startswith(("http://", "https://"))


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON; the order of keys does not matter."""
    text = json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; hashes of large unchanged files are cached."""
    return sha256_of(path)


def contents(folder: Path) -> list[Path]:
    """List the files under a folder, sorted, without README.md, which only describes the others."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "README.md")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Lock a file for this process, creating it if needed; the lock is released when the process ends.

    Raises:
        WorkError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkError(
                f"{path} is in use by another process; wait for it, or choose another name"
            ) from None
        yield


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of the `contents` of a folder."""
    if path.is_file():
        return sha256_file(path)
    files = contents(path)
    return sha256_json([[file.relative_to(path).as_posix(), sha256_file(file)] for file in files])


def _temporary_path(path: Path, ending: str) -> Path:
    """Return a hidden name next to `path` that no other process uses."""
    whole = Path(os.path.abspath(path))  # `.` and `..` have no file name of their own
    return whole.with_name(f".{whole.name}.{os.getpid()}.{ending}")


def flush(file: Path) -> None:
    """Flush a file's bytes or a folder's names to disk; no rename may become durable before its content."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(partial: Path, path: Path, old: Path) -> None:
    """Rename `partial` to `path`; the old folder is removed only after the rename succeeded."""
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(partial, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _append_whole(descriptor: int, line: bytes, *, durable: bool) -> None:
    """Append a line after the last complete one; on failure, leave only complete lines in the file."""
    size = _cut_torn_line(descriptor)
    try:
        if os.write(descriptor, line) < len(line):  # a disk that fills up accepts part of a write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _cut_torn_line(descriptor: int) -> int:
    """Remove an incomplete last line from an open file and return the remaining size."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole


@contextmanager
def _as_work_errors(path: Path, partial: Path) -> Iterator[None]:
    """Turn errors raised while `path` is written through `partial` into a `WorkError` of one sentence."""
    try:
        yield
    except SmidgenError:
        raise
    except OSError as error:
        if not _is_about(error, path, partial):
            raise
        raise WorkError(_describe_write_error(path, error)) from error
    except Exception as error:
        if not _disk_is_full(path):
            raise
        raise WorkError(_describe_write_error(path, OSError(errno.ENOSPC, str(error)))) from error


def _is_about(error: OSError, path: Path, partial: Path) -> bool:
    """Whether an error is about the file being written, not about one that was read in the meantime."""
    if error.errno in _WRITE_ERRNOS:
        return True
    named = str(error.filename or "")
    return partial.name in named or Path(named) in (path, *path.parents)


def _disk_is_full(path: Path) -> bool:
    """Whether the disk of the nearest existing folder above `path` is full."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(parent).free < _FULL_BELOW


def _describe_write_error(path: Path, error: OSError) -> str:
    """Describe an error of the operating system and what to do about it."""
    if error.errno in _FULL_ERRNOS:
        return f"{path} could not be written: no space left on the disk; free some space and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: permission denied; choose a writable folder"
    reason = (error.strerror or str(error)).lower()
    return f"{path} could not be written: {reason}; fix that or choose another path, and run again"

"""Files that are whole or not there, lines that are appended, and fingerprints of content.

Whatever smidgen writes is written beside its place and renamed into it: a reader, or a run that was killed,
finds the old content or the new, never half of either. Any room may import this module.
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

# Writers in other languages report a full disk without its number; below so many free bytes we believe that.
_FULL_BELOW = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_WRITING = (*_FULL, errno.EFBIG, errno.EIO)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; the file written there takes its place when the block ends well.

    Raises:
        WorkError: the disk is full or the place cannot be written; nothing is left behind.
    """
    partial = _beside(path, "partial")
    try:
        with _plain_write_errors(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _flush(partial)
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # it was renamed, or never could be made
            partial.unlink()


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place when the block ends well.

    Args:
        path: where the folder is to stand.
        replace: whether a folder that stands there goes away; only for folders that smidgen itself made.

    Raises:
        ConfigError: something stands at `path` and `replace` was not given.
        WorkError: the disk is full or the place cannot be written; nothing is left behind.
    """
    if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} already exists and is not empty; name another folder or remove it first")
    partial, old = _beside(path, "partial"), _beside(path, "old")
    try:
        with _plain_write_errors(path, partial):
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _flush(file)
            _swap(partial, path, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Tidy what killed processes left half-done in a folder that this process holds alone."""
    for old in folder.rglob(".*.old"):
        place = old.with_name(old.name[1:].rsplit(".", 2)[0])
        if place.exists():
            shutil.rmtree(old)
        else:  # killed between the two renames of a replacement
            os.replace(old, place)
    for partial in folder.rglob(".*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

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
    """Append one row as one line of JSON; a line torn by an earlier kill is cut off first.

    Raises:
        WorkError: the line did not fit on the disk; the file is left as it was.
    """
    line = json.dumps(jsonable(row), ensure_ascii=False).encode() + b"\n"
    with _plain_write_errors(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _append_whole(descriptor, line)
        finally:
            os.close(descriptor)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `append_jsonl` wrote; empty when there is none, without a torn last line.

    Raises:
        DataError: a line in the middle is not JSON.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        try:
            rows.extend([json.loads(line)] if line.strip() else [])
        except ValueError as error:
            raise DataError(
                f"{path}, line {number} is not JSON ({error}); mend or remove that line"
            ) from None
    return rows


def read_text(path: Path, what: str) -> str:
    """The text of a file that a user named.

    Raises:
        DataError: it is missing or is no UTF-8 text; `what` says what it was to be.
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
    """The text of a file that a user wrote, its lines ended by line feeds alone.

    A byte order mark is dropped; it tells UTF-16, which some editors on Windows write, from UTF-8.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def jsonable(value: Any) -> Any:
    """The value in JSON's own types; a number that is not finite becomes None, which JSON has a name for."""
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
    scalar = getattr(value, "item", None)  # numpy's numbers are not Python's
    if callable(scalar):
        return jsonable(scalar())
    return str(value)


def is_url(name: str) -> bool:
    """Whether a name is the URL of a server, and so no place on this machine."""
    return name.startswith(("http://", "https://"))


def sha256_json(value: Any) -> str:
    """Fingerprint of a value: the same for equal values, whatever the order of their keys."""
    text = json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Fingerprint of a file's bytes; a large file that has not changed is not read again."""
    return sha256_of(path)


def contents(folder: Path) -> list[Path]:
    """The files under a folder, sorted, without a README.md, which tells of the rest and decides nothing."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "README.md")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a file, made if it is not there, for this process alone; the lock dies with the process.

    Raises:
        WorkError: another process holds it.
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
    """Fingerprint of a file, or of what `contents` finds in a folder with its names."""
    if path.is_file():
        return sha256_file(path)
    files = contents(path)
    return sha256_json([[file.relative_to(path).as_posix(), sha256_file(file)] for file in files])


def _beside(path: Path, ending: str) -> Path:
    """A hidden name next to `path` that no other process uses."""
    whole = Path(os.path.abspath(path))  # `.` and `..` have no name to write beside
    return whole.with_name(f".{whole.name}.{os.getpid()}.{ending}")


def _flush(file: Path) -> None:
    """Make sure that a file's bytes are on the disk before its name is."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(partial: Path, path: Path, old: Path) -> None:
    """Put `partial` in the place of `path`, whose old folder goes away only when that went well."""
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(partial, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _append_whole(descriptor: int, line: bytes) -> None:
    """Append a line to an open file after its last whole one, or leave only whole lines there."""
    size = _cut_torn_line(descriptor)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _cut_torn_line(descriptor: int) -> int:
    """Cut a torn last line off an open file and return the size that is left."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole


@contextmanager
def _plain_write_errors(path: Path, partial: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is written by way of `partial` into one sentence."""
    try:
        yield
    except SmidgenError:
        raise
    except OSError as error:
        if not _concerns(error, path, partial):
            raise
        raise WorkError(_write_sentence(path, error)) from error
    except Exception as error:
        if not _disk_is_full(path):
            raise
        raise WorkError(_write_sentence(path, OSError(errno.ENOSPC, str(error)))) from error


def _concerns(error: OSError, path: Path, partial: Path) -> bool:
    """Whether an error is about what is being written, and not about a file that was read meanwhile."""
    if error.errno in _OF_WRITING:
        return True
    named = str(error.filename or "")
    return partial.name in named or Path(named) in (path, *path.parents)


def _disk_is_full(path: Path) -> bool:
    """Whether the nearest existing folder above `path` has no room left."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(parent).free < _FULL_BELOW


def _write_sentence(path: Path, error: OSError) -> str:
    """What failed and what to do, for an error of the operating system."""
    if error.errno in _FULL:
        return f"{path} could not be written: no space is left on its disk; free some space and start again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: permission denied; choose a folder that you may write to"
    reason = (error.strerror or str(error)).lower()
    return f"{path} could not be written: {reason}; mend that or choose another place, and start again"

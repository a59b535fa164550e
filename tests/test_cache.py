"""Hashes of large files are kept, and never used of a file that has changed."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from smidgen import cache
from smidgen.cache import CACHED_BYTES, MAX_HASHES, cache_dir, sha256_of
from smidgen.files import content_hash, sha256_file

LATER = 10.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes.json"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock shows a time at which all files are old enough."""
    now = time.time
    monkeypatch.setattr(cache.time, "time", lambda: now() + LATER)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed."""
    found, hashed = [], cache._hash

    def note(path: Path) -> str:
        found.append(path)
        return hashed(path)

    monkeypatch.setattr(cache, "_hash", note)
    return found


def large(folder: Path, name: str = "large", byte: bytes = b"a") -> Path:
    file = folder / name
    file.write_bytes(byte * CACHED_BYTES)
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.usefixtures("later")
def test_a_known_file_is_not_read_again(tmp_path: Path, reads: list[Path]):
    file = large(tmp_path)
    assert [sha256_of(file) for _ in range(3)] == [digest(file)] * 3
    assert sha256_file(file) == content_hash(file) == digest(file)
    assert len(reads) == 1
    link = tmp_path / "link"
    link.symlink_to(file)
    assert sha256_of(link) == digest(file) and len(reads) == 1


@pytest.mark.usefixtures("later")
def test_small_files_are_not_kept(tmp_path: Path, own_cache: Path, reads: list[Path]):
    file = tmp_path / "small"
    file.write_bytes(b"a" * (CACHED_BYTES - 1))
    assert sha256_of(file) == sha256_of(file) == digest(file)
    assert len(reads) == 2 and not own_cache.exists()


def rewritten(file: Path) -> None:
    times = file.stat()
    large(file.parent, file.name, b"b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(file: Path) -> None:
    other, times = large(file.parent, "other", b"b"), file.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, file)


def longer(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"a")


def newer(file: Path) -> None:
    large(file.parent, file.name, b"b")


@pytest.mark.parametrize("change", [rewritten, replaced, longer, newer])
@pytest.mark.usefixtures("later")
def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[Path], change: Callable[[Path], None]):
    file = large(tmp_path)
    first = sha256_of(file)
    change(file)
    assert sha256_of(file) == digest(file) != first
    assert len(reads) == 2


def test_a_file_that_may_change_without_a_trace_is_not_kept(
    tmp_path: Path, own_cache: Path, reads: list[Path]
):
    file = large(tmp_path)
    assert sha256_of(file) == sha256_of(file) == digest(file)
    assert len(reads) == 2 and not own_cache.exists()


@pytest.mark.usefixtures("later")
def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    file, hashed = large(tmp_path), cache._hash

    def interrupted(path: Path) -> str:
        found = hashed(path)
        longer(path)
        return found

    monkeypatch.setattr(cache, "_hash", interrupted)
    sha256_of(file)
    assert not own_cache.exists()


WRONG = ["{", "[]", "3", "null", "\udcff", "[" * 100_000, '{"x": 3}']


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
@pytest.mark.usefixtures("later")
def test_a_damaged_cache_is_ignored_and_mended(
    tmp_path: Path, own_cache: Path, reads: list[Path], content: str
):
    file = large(tmp_path)
    own_cache.parent.mkdir()
    own_cache.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert sha256_of(file) == sha256_of(file) == digest(file)
    assert len(reads) == 1


@pytest.mark.parametrize("wrong", ["0" * 63, "x" * 64, 5, None])
@pytest.mark.usefixtures("later")
def test_a_damaged_entry_is_ignored(tmp_path: Path, own_cache: Path, wrong: object):
    file = large(tmp_path)
    sha256_of(file)
    entries = json.loads(own_cache.read_text())
    for entry in entries.values():
        entry[-1] = wrong
    own_cache.write_text(json.dumps(entries))
    assert sha256_of(file) == digest(file)


@pytest.mark.usefixtures("later")
def test_the_oldest_entries_go(
    tmp_path: Path, own_cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "MAX_HASHES", 2)
    assert MAX_HASHES > 2
    files = [large(tmp_path, name) for name in "abc"]
    for file in files:
        sha256_of(file)
    assert [Path(key).name for key in json.loads(own_cache.read_text())] == ["b", "c"]
    sha256_of(files[2])
    assert len(reads) == 3


@pytest.mark.usefixtures("later")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "a file" / "cache"))
    file = large(tmp_path)
    assert sha256_of(file) == digest(file)


def _hash_all(folder: str) -> list[str]:
    cache.GRANULARITY = -LATER
    return [sha256_of(file) for file in sorted(Path(folder).iterdir()) for _ in range(3)]


def test_processes_that_write_at_once_leave_a_whole_cache(tmp_path: Path, own_cache: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    files = [large(folder, name, name.encode()) for name in "abcd"]
    with get_context("spawn").Pool(3) as pool:
        found = pool.map(_hash_all, [str(folder)] * 6)
    assert all(hashes == [digest(file) for file in files for _ in range(3)] for hashes in found)
    kept = json.loads(own_cache.read_text())
    assert {entry[-1] for entry in kept.values()} <= {digest(file) for file in files}
    assert [file.name for file in own_cache.parent.iterdir()] == ["hashes.json"]


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("SMIDGEN_CACHE", raising=False)
    assert cache_dir() == Path("/x/smidgen")
    monkeypatch.setenv("SMIDGEN_CACHE", "/y")
    assert cache_dir() == Path("/y")

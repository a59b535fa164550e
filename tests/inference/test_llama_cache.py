"""The folder of converted models stays within its bound, and nothing in use is removed from it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.cli.doctor import examine
from smidgen.errors import ConfigError
from smidgen.inference import llama_cache
from smidgen.inference.llama_cache import ABANDONED, cache_facts, converted, sweep_partials

DEAD = 2**22 - 3  # beyond what a kernel hands out unless it is told to


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test holds is let go of behind it."""
    held = {}
    monkeypatch.setattr(llama_cache, "_held", held)
    yield
    for opened in held.values():
        os.close(opened)


def release() -> None:
    """As the end of a process does."""
    for opened in llama_cache._held.values():
        os.close(opened)
    llama_cache._held.clear()


def convert(folder: Path, name: str, num_bytes: int = 400, age: float = 0.0) -> Path:
    file = folder / f"{name}.gguf"
    folder.mkdir(exist_ok=True)
    assert converted(file, lambda: file.write_bytes(b"x" * num_bytes)) == file
    os.utime(file, times=(time.time() - age,) * 2)
    return file


def names(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.gguf")}


def test_a_file_is_made_once(tmp_path: Path):
    file, made = tmp_path / "a.gguf", []

    def make() -> None:
        made.append(file.write_bytes(b"x"))

    for _ in range(3):
        converted(file, make)
    release()
    converted(file, make)
    assert len(made) == 1
    file.unlink()
    converted(file, make)
    assert len(made) == 2


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "0.000001")  # 1000 bytes
    for age, name in ((300, "old"), (200, "older"), (100, "new")):
        release()
        convert(tmp_path, name, 300, age)
    release()
    convert(tmp_path, "old", age=0)  # used once more
    release()
    convert(tmp_path, "newest", 300)
    assert names(tmp_path) == {"old", "new", "newest"}
    release()
    convert(tmp_path, "huge", 5000)
    assert names(tmp_path) == {"huge"}


def test_what_this_process_uses_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "0")
    convert(tmp_path, "a", age=500)
    convert(tmp_path, "b")
    assert names(tmp_path) == {"a", "b"}
    release()
    convert(tmp_path, "c")
    assert names(tmp_path) == {"c"}


def test_what_another_process_uses_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "0")
    file = convert(tmp_path, "a", age=500)
    release()
    code = (
        "import sys; from pathlib import Path; from smidgen.inference.llama_cache import converted\n"
        f"converted(Path({str(file)!r}), lambda: 1 / 0); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        convert(tmp_path, "b")
        assert names(tmp_path) == {"a", "b"}
        other.communicate()
    convert(tmp_path, "c")
    assert names(tmp_path) == {"b", "c"}


def test_a_file_that_was_removed_while_it_was_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, flock, made = tmp_path / "a.gguf", llama_cache.fcntl.flock, []
    file.write_bytes(b"old")

    def removed_before(opened, operation: int) -> None:
        if not made and file.exists():
            file.unlink()
        flock(opened, operation)

    monkeypatch.setattr(llama_cache.fcntl, "flock", removed_before)
    converted(file, lambda: made.append(file.write_bytes(b"new")))
    assert file.read_bytes() == b"new" and len(made) == 1


def test_partial_files_of_killed_conversions_are_swept(tmp_path: Path):
    old = time.time() - ABANDONED - 1
    swept, kept = tmp_path / f".a.gguf.{DEAD}.partial", tmp_path / f".b.gguf.{os.getpid()}.partial"
    fresh = tmp_path / f".c.gguf.{DEAD}.partial"  # another machine may write it
    for file in (swept, kept, fresh):
        file.write_bytes(b"x")
    for file in (swept, kept):
        os.utime(file, times=(old, old))
    sweep_partials(tmp_path)
    assert set(tmp_path.iterdir()) == {kept, fresh}
    os.utime(fresh, times=(old, old))
    convert(tmp_path, "d")
    assert not fresh.exists() and kept.exists()


def test_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "1.5")
    convert(tmp_path / "gguf", "a", 400)
    (tmp_path / "gguf" / "tokenizer-x").mkdir()
    (tmp_path / "gguf" / "tokenizer-x" / "tokenizer.json").write_bytes(b"x" * 30)
    facts = cache_facts(tmp_path / "gguf")
    assert (facts.files, facts.bytes, facts.bound_bytes) == (1, 430, 1_500_000_000)
    assert cache_facts(tmp_path / "none").bytes == 0
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path))
    shown = examine()["cache"]
    assert shown == {"folder": tmp_path / "gguf", "files": 1, "bytes": 430, "bound_bytes": 1_500_000_000}
    monkeypatch.delenv("SMIDGEN_CACHE_GB")
    assert cache_facts(tmp_path).bound_bytes == 20_000_000_000


@pytest.mark.parametrize("bound", ["much", "-1", "inf", "nan"])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", bound)
    match = f"environment variable SMIDGEN_CACHE_GB is '{bound}'; expected a number of gigabytes"
    with pytest.raises(ConfigError, match=match):
        converted(tmp_path / "a.gguf", lambda: None)

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.files import (
    append_jsonl,
    append_line,
    atomic_file,
    atomic_folder,
    content_hash,
    jsonable,
    read_json,
    read_jsonl,
    read_text,
    sha256_file,
    sha256_json,
    sweep,
    sweep_partials,
    write_json,
    write_jsonl,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


class Interrupted(BaseException):
    """As a Ctrl-C in the middle of writing."""


def test_text_is_written_where_no_folder_was(tmp_path: Path):
    write_text(tmp_path / "a" / "b.txt", "ü")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ü"
    assert names(tmp_path / "a") == ["b.txt"]


@given(value=JSON)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path: Path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(Interrupted), atomic_file(path) as partial:
        partial.write_text("half")
        raise Interrupted
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_a_folder_in_the_place_of_a_text_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"is a folder; name the rubric, a text file"):
        read_text(tmp_path, "rubric")


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(WorkError, match=r"report\.json could not be written: no space left.*free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_a_file_system_that_really_refuses(tmp_path: Path):
    # The kernel itself stops the write: a limit on the size of a file, in a process of its own.
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from smidgen.files import append_jsonl, write_text; from smidgen.errors import WorkError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "folder = Path(sys.argv[1]); append_jsonl(folder / 'rows.jsonl', {'n': 1})\n"
        "for write in (lambda: write_text(folder / 'big.txt', 'x' * 5000),\n"
        "              lambda: append_jsonl(folder / 'rows.jsonl', {'n': 'x' * 5000})):\n"
        "    try: write()\n"
        "    except WorkError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert names(tmp_path) == ["rows.jsonl"]
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"n": 1}]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match=r"could not be written: .*choose another path"):
        write_text(tmp_path / "file" / "report.json", "{}")


def test_a_foreign_writer_on_a_full_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(WorkError, match="no space left"), atomic_folder(tmp_path / "model"):
        raise RuntimeError("[write] Unable to write 4096 bytes to file.")
    assert names(tmp_path) == []


def test_another_error_while_writing_stays_what_it_is(tmp_path: Path):
    with pytest.raises(RuntimeError, match="a fault"), atomic_folder(tmp_path / "model"):
        raise RuntimeError("a fault")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "copy"):
        Path("/nowhere/else").read_text()
    assert names(tmp_path) == []


def test_a_folder_appears_whole(tmp_path: Path):
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["config.json"]


def test_a_folder_that_holds_something_is_not_replaced_unasked(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ConfigError, match="mine already exists and is not empty"),
        atomic_folder(tmp_path / "mine"),
    ):
        pass
    assert names(tmp_path / "mine") == ["thesis.txt"]


def test_an_empty_folder_may_be_filled(tmp_path: Path):
    (tmp_path / "model").mkdir()
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "a").write_text("a")
    assert names(tmp_path / "model") == ["a"]


def test_a_folder_is_replaced_when_asked(tmp_path: Path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "best", replace=True) as partial:
            (partial / content).write_text(content)
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == ["two"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with atomic_folder(tmp_path / "best") as partial:
        (partial / "old").write_text("old")
    rename = os.replace

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            disk_full()
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(WorkError, match="no space left"),
        atomic_folder(tmp_path / "best", replace=True) as partial,
    ):
        (partial / "new").write_text("new")
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == ["old"]


def test_sweeping_takes_what_a_killed_process_left(tmp_path: Path):
    (tmp_path / ".model.123.partial").mkdir()
    (tmp_path / ".report.json.123.partial").write_text("half")
    (tmp_path / ".best.123.old").mkdir()
    (tmp_path / ".done.123.old").mkdir()
    (tmp_path / "done").mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == ["best", "done"]


def test_what_one_killed_process_left_goes_and_what_others_write_stays(tmp_path: Path):
    (tmp_path / ".model.123.partial").mkdir()
    (tmp_path / ".model.123.partial" / "weights").write_text("half")
    (tmp_path / ".report.json.123.partial").write_text("half")
    (tmp_path / ".model.1234.partial").write_text("another's")
    (tmp_path / "model.123.partial").write_text("a user's")
    sweep_partials(tmp_path, 123)
    assert names(tmp_path) == [".model.1234.partial", "model.123.partial"]


@given(rows=ROWS, torn=st.binary(max_size=9).filter(lambda b: b"\n" not in b))
def test_rows_survive_a_torn_last_line(tmp_path_factory: pytest.TempPathFactory, rows: list, torn: bytes):
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    for row in rows:
        append_jsonl(path, row)
    with path.open("ab") as file:
        file.write(torn)
    assert read_jsonl(path) == rows
    append_jsonl(path, {"after": "the kill"})
    assert read_jsonl(path) == [*rows, {"after": "the kill"}]


def test_rows_written_at_once_are_the_rows_appended(tmp_path: Path):
    rows = [{"step": step, "loss": step / 3} for step in range(3)]
    write_jsonl(tmp_path / "a", rows)
    for row in rows:
        append_jsonl(tmp_path / "b", row)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_line_that_cannot_be_flushed_is_not_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "rows.jsonl"
    append_line(path, b"first\n", durable=True)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WorkError, match=r"rows\.jsonl could not be written: input/output error"):
        append_line(path, b"second\n", durable=True)
    append_line(path, b"third\n")  # it need not be
    assert path.read_bytes() == b"first\nthird\n"


def test_no_file_has_no_rows(tmp_path: Path):
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_damaged_line_is_named(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2 is not JSON"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_json_that_is_missing_or_damaged_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no file .*none\.json; check the path"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not a readable JSON file"):
        read_json(tmp_path / "bad.json")


def test_values_of_other_kinds_become_json():
    value = {
        "path": Path("a"),
        "many": (1, {2}),
        3: np.float32(0.5),
        "bad": float("nan"),
        "big": float("inf"),
    }
    assert jsonable(value) == {"path": "a", "many": [1, [2]], "3": 0.5, "bad": None, "big": None}
    json.dumps(jsonable(value), allow_nan=False)


@given(value=st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_change_a_fingerprint(value: dict):
    assert sha256_json(value) == sha256_json(dict(reversed(value.items())))


def test_a_fingerprint_sees_every_byte_and_name(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("one")
    before = content_hash(tmp_path / "model")
    assert before == content_hash(tmp_path / "model")
    (tmp_path / "model" / "a").write_text("two")
    changed = content_hash(tmp_path / "model")
    (tmp_path / "model" / "a").rename(tmp_path / "model" / "b")
    assert len({before, changed, content_hash(tmp_path / "model")}) == 3
    assert content_hash(tmp_path / "model" / "b") == sha256_file(tmp_path / "model" / "b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_users_text_may_have_a_byte_order_mark_and_carriage_returns(tmp_path: Path, encoding: str):
    file = tmp_path / "rubric.txt"
    file.write_bytes("Grade é:\r\n1 to 5".encode(encoding))
    assert read_text(file, "rubric") == "Grade é:\n1 to 5"
    file.write_bytes('{"a":\r\n"é"}'.encode(encoding))
    assert read_json(file) == {"a": "é"}
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a readable UTF-8 file"):
        read_text(tmp_path / "bad.txt", "rubric")

"""Nothing outside the workspace is named, read or written."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import ConfigError, DataError
from smidgen.studio.workspace import Workspace


def test_a_workspace_is_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere is not a folder; name the folder"):
        Workspace(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../secret.jsonl", "not inside the workspace"),
        ("linked/secret.jsonl", "not inside the workspace"),
        ("link.jsonl", "not inside the workspace"),
        ("/etc/passwd", "not inside the workspace"),
        ("runs/../../secret.jsonl", "not inside the workspace"),
        (".", "not inside the workspace"),
        (".hidden.jsonl", "is hidden"),
        ("runs/../made.toml", "is hidden or not a plain path"),
        ("-rows.jsonl", "begins with a hyphen"),
        ("runs/--model=x", "begins with a hyphen"),
        ("", "empty or has a zero byte"),
        ("a\0b", "empty or has a zero byte"),
    ],
)
def test_other_paths_are_refused(root: Path, name: str, why: str):
    with pytest.raises(DataError, match=why):
        Workspace(root).path(name)


@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "runs", "linked", "link.jsonl", "rows.jsonl", "/", "~", "-x", "", "a b"]),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_is_accepted_is_inside(tmp_path_factory: pytest.TempPathFactory, parts: list[str]):
    root = tmp_path_factory.getbasetemp() / "any"
    if not root.exists():
        root.mkdir()
        (root / "linked").symlink_to(root.parent)
        (root / "link.jsonl").symlink_to("/etc/passwd")
    try:
        found = Workspace(root).path("/".join(parts))
    except DataError:
        return
    assert found.resolve().is_relative_to(root.resolve()) and found != root


def test_a_missing_file_is_said_to_be_missing(root: Path):
    with pytest.raises(DataError, match=r"there is no file 'none\.csv' in the workspace"):
        Workspace(root).file("none.csv")


def test_only_visible_files_of_the_workspace_are_offered(root: Path):
    (root / "deep").mkdir()
    (root / "deep" / "more.CSV").write_text("a\n")
    (root / "memory.db.journal.jsonl").write_text("{}\n")
    names = [file.path for file in Workspace(root).files((".jsonl", ".csv"))]
    assert sorted(names) == ["deep/more.CSV", "rows.jsonl"]


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        ("new.csv", "new.csv"),
        ("rows.jsonl", "rows-2.jsonl"),
        ("link.jsonl", "link-2.jsonl"),
        ("../../up.csv", "up.csv"),
        ("C:\\data\\win.csv", "win.csv"),
        ("--model.csv", "model.csv"),
        (".env.csv", "env.csv"),
        ("a;rm -rf $(x).csv", "a-rm -rf -x-.csv"),
    ],
)
def test_a_dropped_file_replaces_none(root: Path, dropped: str, kept: str):
    assert Workspace(root).free_name(dropped) == root.resolve() / kept


def test_a_name_of_nothing_is_refused(root: Path):
    with pytest.raises(DataError, match=r"'\.\.' cannot be the name of a file"):
        Workspace(root).free_name("..")


def test_the_draft_is_not_written_through_a_link(root: Path):
    with Workspace(root).draft("a = 1") as first, Workspace(root).draft("a = 2") as second:
        assert [first.read_text(), second.read_text()] == ["a = 1", "a = 2"]
        assert first.parent == second.parent == root.resolve() / ".studio"
    assert not any((root / ".studio").iterdir())
    (root / ".studio").rmdir()
    (root / ".studio").symlink_to(root.parent)
    with pytest.raises(DataError, match=r"\.studio is a link; remove it"), Workspace(root).draft(""):
        pass


def test_a_name_that_is_not_text_is_not_shown(root: Path):
    (root / "new\nline '\".jsonl").write_text("{}\n")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.jsonl")).write_text("{}\n")
    shown = [file.path for file in Workspace(root).files((".jsonl",))]
    assert sorted(shown) == ["new\nline '\".jsonl", "rows.jsonl"]
    json.dumps(shown, ensure_ascii=False).encode()

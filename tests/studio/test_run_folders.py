"""Run folders as they are read while other processes write them."""

import asyncio
import os
import platform
from pathlib import Path

import pytest
from tests.studio.conftest import make_run, write_lines

from smidgen.errors import DataError
from smidgen.runs import Run
from smidgen.studio import run_folders
from smidgen.studio.comparison import compared_rows
from smidgen.studio.jobs import Jobs
from smidgen.studio.workspace import Workspace


def test_a_run_that_another_process_holds_is_running(root: Path):
    workspace, jobs = Workspace(root), Jobs(root)
    folder = workspace.runs / "done"
    assert run_folders.state_of(folder, jobs, "done") == "done"
    with Run(folder).lock():
        assert run_folders.state_of(folder, jobs, "done") == "running"
    assert run_folders.state_of(folder, jobs, "done") == "done"
    (folder / ".lock").write_text(f"process 999999999 on {platform.node()}")  # it was killed
    assert run_folders.state_of(folder, jobs, "done") == "done"
    (folder / ".lock").write_text(f"process {os.getpid()} on {platform.node()}")  # its number was given anew
    assert run_folders.state_of(folder, jobs, "done") == "done" and not run_folders.interrupt(folder)
    (folder / ".lock").write_text(f"process {os.getpid()} on another-machine")
    assert not run_folders.is_held(folder)


def test_a_run_has_ended_when_it_says_so(root: Path):
    folder, jobs = root / "runs/done", Jobs(root)
    (folder / "report.json").unlink()  # `smidgen train` writes none
    assert run_folders.state_of(folder, jobs, "done") == "done"
    (folder / "provenance.json").write_text('{"finished": null}')
    assert run_folders.state_of(folder, jobs, "done") == "stopped"
    (folder / "provenance.json").unlink()
    assert run_folders.state_of(folder, jobs, "done") == "stopped"


def test_a_workspace_without_runs(tmp_path: Path):
    assert run_folders.run_names(Workspace(tmp_path)) == []


def test_runs_are_listed_and_other_folders_are_not(root: Path):
    make_run(root, "second", {})
    (root / "runs" / "empty").mkdir()
    (root / "runs" / "elsewhere").symlink_to(root / "runs" / "done")
    os.utime(root / "runs" / "second" / "events.jsonl", (2e9, 2e9))
    assert run_folders.run_names(Workspace(root)) == ["second", "done"]
    with pytest.raises(DataError, match="there is no run 'done/best'"):
        run_folders.run_folder(Workspace(root), "done/best")


def test_a_tail_reads_whole_lines_once_and_notices_a_new_start(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tail = run_folders.Tail(path)
    assert tail.read() == (False, [])
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert tail.read() == (False, [{"step": 1}, {"step": 2}])
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert tail.read() == (False, [{"step": 3}])
    assert tail.read() == (False, [])
    path.write_text('{"step": 1}\n')
    assert tail.read() == (True, [{"step": 1}])
    path.unlink()
    path.write_text('{"step": 7}\nnot json\n')
    assert tail.read()[1] == [{"step": 7}] or tail.read() == (False, [])


def test_following_ends_with_the_run_and_misses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folders, "LOOK_EVERY", 0.0)
    folder, looks = root / "runs" / "done", iter([True, True, False])
    (folder / "events.jsonl").unlink()

    def going() -> bool:
        goes_on = next(looks)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 9}\n')
        return goes_on

    async def work() -> list[dict]:
        return [event async for event in run_folders.follow(folder, going)]

    events = asyncio.run(work())
    assert [row["step"] for event in events for row in event["rows"]] == [1, 2, 3, 9, 9, 9]


def test_comparisons_that_cannot_be_made(root: Path):
    folder = make_run(root, "other", {"after": [1.0]}) / "evaluations" / "after"
    before = root / "runs/done/evaluations/before"
    with pytest.raises(DataError, match="the change 'odd' is unknown; expected worse, better, wrong, right"):
        compared_rows(before, folder, change="odd")
    (folder / "records.jsonl").write_text('{"id": "else"}\n')
    with pytest.raises(DataError, match="have no row in common"):
        compared_rows(before, folder)


def test_pages_of_rows(root: Path):
    many = make_run(root, "many", {"before": [1.0] * 40, "after": [0.0] * 40}) / "evaluations"
    first = compared_rows(many / "before", many / "after")
    second = compared_rows(many / "before", many / "after", skip=len(first["rows"]))
    ids = [row["id"] for page in (first, second) for row in page["rows"]]
    assert first["total"] == 40 and ids == [f"r{i}" for i in range(40)]


def test_a_long_file_comes_in_pieces(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folders, "MOST_READ", 64)
    folder = root / "runs" / "done"
    rows = [{"step": step, "text": "x" * (200 if step == 7 else 3)} for step in range(50)]
    write_lines(folder / "metrics.jsonl", rows)

    async def work() -> list[dict]:
        return [event async for event in run_folders.follow(folder, lambda: False)]

    events = [event for event in asyncio.run(work()) if event["file"] == "metrics"]
    assert [row for event in events for row in event["rows"]] == rows
    assert max(len(event["rows"]) for event in events) < 5 and not any(event["restart"] for event in events)


def test_a_run_that_vanishes_is_not_missed(root: Path):
    assert run_folders._changed(root / "runs" / "gone") == 0.0

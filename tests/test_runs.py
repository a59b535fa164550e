import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.errors import WorkError
from smidgen.files import read_json, sha256_json
from smidgen.runs import Run, git_revision, provenance

HOLD = """
import sys, time; from pathlib import Path; from smidgen.runs import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "nano-judge")


@pytest.fixture
def holder(run: Run):
    """Another process that holds the run folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def finish(run: Run, name: str = "train", inputs: str = "abc") -> None:
    run.write_text("best/weights", "w" * 10)
    run.write_json("report.json", {"accuracy": 1.0})
    run.finish_stage(name, inputs, ["best", "report.json"], seconds=1.5)


def test_a_run_is_named_after_its_folder_and_makes_nothing_yet(run: Run):
    assert run.name == "nano-judge"
    assert not run.folder.exists()


def test_files_are_written_into_the_folder(run: Run):
    assert run.write_text("config.toml", "a = 1").read_text() == "a = 1"
    run.append_jsonl("metrics.jsonl", {"step": 1})
    run.append_jsonl("metrics.jsonl", {"step": 2})
    run.keep_jsonl("metrics.jsonl", lambda row: row["step"] <= 1)
    assert run.read_jsonl("metrics.jsonl") == [{"step": 1}]


def test_a_finished_stage_is_done_for_the_same_inputs_only(run: Run):
    assert not run.stage_is_done("train", "abc")
    finish(run)
    assert run.stage_is_done("train", "abc")
    assert not run.stage_is_done("train", "abd")
    assert not run.stage_is_done("evaluate", "abc")


@pytest.mark.parametrize("content", ["w" * 9 + "v", "w" * 11])
def test_a_stage_whose_output_changed_is_not_done(run: Run, content: str):
    finish(run)
    run.path("best/weights").write_text(content)
    assert not run.stage_is_done("train", "abc")


def test_a_stage_whose_output_is_gone_is_not_done(run: Run):
    finish(run)
    run.path("report.json").unlink()
    assert not run.stage_is_done("train", "abc")


def test_outputs_have_a_fingerprint_for_the_next_stage(run: Run):
    finish(run)
    before = run.outputs_hash("train")
    finish(run, inputs="other inputs, same outputs")
    assert run.outputs_hash("train") == before
    run.write_text("best/weights", "v")
    run.finish_stage("train", "abc", ["best"], seconds=0.1)
    assert run.outputs_hash("train") != before


def test_two_processes_do_not_share_a_folder(run: Run, holder: subprocess.Popen):
    with (
        pytest.raises(WorkError, match=rf"is in use by process {holder.pid} on .*; wait for it, or choose"),
        run.lock(),
    ):
        pass


def test_a_killed_process_leaves_no_lock(run: Run, holder: subprocess.Popen):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    (run.folder / ".best.1.partial").mkdir()
    with run.lock():
        assert not (run.folder / ".best.1.partial").exists()


def test_a_lock_can_be_taken_again(run: Run):
    for _ in range(2):
        with run.lock():
            assert str(os.getpid()) in run.path(".lock").read_text()


def test_provenance_tells_how_to_make_it_again(run: Run):
    run.start(seeds={"train": 3}, data={"train": sha256_json([1])}, device="cpu")
    first = read_json(run.path("provenance.json"))
    assert first["finished"] is None
    assert first["seeds"] == {"train": 3}
    assert first["device"] == "cpu"
    assert first["command"] == sys.argv
    assert {"smidgen", "mlx", "mlx-lm", "transformers", "numpy"} <= set(first["versions"])
    run.finish()
    assert read_json(run.path("provenance.json"))["finished"] >= first["started"]


def test_starting_again_keeps_the_earlier_starts(run: Run):
    for _ in range(3):
        run.start(seeds={}, data={})
    assert len(read_json(run.path("provenance.json"))["earlier_starts"]) == 2


def test_a_version_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.runs._DISTRIBUTIONS", ("smidgen", "no-such-distribution"))
    assert provenance(seeds={}, data={})["versions"]["no-such-distribution"] is None


def test_the_commit_is_known_in_a_repository_only(tmp_path: Path):
    assert git_revision(tmp_path) is None
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    revision = git_revision(tmp_path)
    assert revision is not None and len(revision["revision"]) == 40 and not revision["changed"]
    (tmp_path / "new").write_text("")
    assert (git_revision(tmp_path) or {})["changed"]

"""What a child process does to its row: it works, says why not, or is killed."""

import sys
from pathlib import Path

import pytest

from smidgen.pipeline import trial_process
from smidgen.pipeline.events import StepEvent
from smidgen.pipeline.trial_process import Ended, train_trial


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> tuple[Ended, list[StepEvent]]:
    monkeypatch.setattr(trial_process, "_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(trial_process, "POLL_SECONDS", 0.02)
    work = train_trial(
        tmp_path / "trial.toml", tmp_path, tmp_path / "trial.log", share=1.0, label="1/1 trial"
    )
    steps = []
    while True:
        try:
            steps.append(next(work))
        except StopIteration as stop:
            return stop.value, steps


def test_steps_time_and_memory_of_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = f"""
import json, pathlib, time
block = b"x" * 50_000_000
folder = pathlib.Path({str(tmp_path / "trial")!r}); folder.mkdir()
with (folder / "events.jsonl").open("w") as file:
    for stage, step in (("data", 1), ("train", 3)):
        row = dict(kind="step", stage=stage, step=step, total=9, is_new=True, tokens=5, values=dict(loss=1.5))
        print(json.dumps(row), file=file)
    print(json.dumps(dict(kind="message", stage="train", text="x")), file=file)
    file.write('{{"kind": "st')
    file.flush(); time.sleep(0.3)
"""
    ended, steps = run(tmp_path, monkeypatch, code)
    assert (ended.fault, ended.out_of_memory) == ("", False)
    assert ended.seconds > 0.3 and 50_000_000 < ended.peak_bytes < 2_000_000_000
    assert steps == [StepEvent("1/1 trial", 3, 9, tokens=5, values={"loss": 1.5})]


@pytest.mark.parametrize(
    ("code", "fault", "memory"),
    [
        (
            "import sys; sys.exit('warning: x\\nerror: step 3: the loss is nan')",
            "step 3: the loss is nan",
            False,
        ),
        ("import sys; sys.exit('error: smidgen failed (MemoryError)')", "smidgen failed (MemoryError)", True),
        ("import sys; sys.exit('error: [malloc] Unable to allocate 9 bytes')", "[malloc] Unable", True),
        ("import os; os.kill(os.getpid(), 9)", "the system ended the process, as it does when memory", True),
        ("import sys; sys.exit(3)", "the process ended with the code 3 and said nothing", False),
    ],
)
def test_why_a_child_failed(tmp_path: Path, monkeypatch, code: str, fault: str, memory: bool):
    (tmp_path / "trial.log").write_text("error: of an earlier attempt\n")
    ended, _ = run(tmp_path, monkeypatch, code)
    assert ended.fault.startswith(fault) and ended.out_of_memory == memory


def test_a_child_does_not_outlive_its_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial_process, "POLL_SECONDS", 0.02)
    code = f"""
import json, os, pathlib, time
folder = pathlib.Path({str(tmp_path / "trial")!r}); folder.mkdir()
row = dict(kind="step", stage="train", step=os.getpid(), total=9, is_new=True, tokens=5, values={{}})
(folder / "events.jsonl").write_text(json.dumps(row) + chr(10))
time.sleep(60)
"""
    monkeypatch.setattr(trial_process, "_command", lambda *_: [sys.executable, "-c", code])
    work = train_trial(tmp_path / "trial.toml", tmp_path, tmp_path / "trial.log", share=0.5, label="x")
    child = next(work).step  # type: ignore[union-attr]
    work.close()
    assert not Path(f"/proc/{child}").exists() or sys.platform == "darwin"

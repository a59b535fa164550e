"""What reaches a tracker, whatever happens to the run and to the tracker."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import parse_recipe
from smidgen.errors import ConfigError
from smidgen.files import append_jsonl, write_json, write_jsonl
from smidgen.pipeline import tracking
from smidgen.pipeline.events import Event, MessageEvent, StageEvent, StepEvent
from smidgen.pipeline.tracking import Tracking
from smidgen.runs import Run
from smidgen.tracking.tracked import Logged, TrackedRun

RECIPE = {"name": "r", "task": "judge", "track": {"to": ["tensorboard", "wandb"], "project": "p"}}
STARTED, SKIPPED, FINISHED = (StageEvent("train", state) for state in ("started", "skipped", "finished"))


class Fake:
    """A tracker that keeps what it gets, for all runs of a test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[int] = []
        self.summary: dict[str, float] = {}
        self.runs: list[TrackedRun] = []
        self.fails = self.closed = False
        self.fails_after: int | None = None

    def __call__(self, run: TrackedRun) -> "Fake":
        if self.fails:
            raise OSError("no  network")
        self.runs.append(run)
        self.id, self.step = run.id or f"{self.name}-{len(self.runs)}", run.step
        return self

    def log(self, rows: Sequence[Logged]) -> None:
        if self.step == self.fails_after:
            raise OSError("no network")
        self.steps += [row.step for row in rows]
        self.step = max([self.step, *self.steps[-1:]])

    def summarise(self, values: Mapping[str, float]) -> None:
        self.summary |= values

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    found = {name: Fake(name) for name in ("tensorboard", "wandb")}
    monkeypatch.setattr(tracking, "TRACKERS", found)
    monkeypatch.setattr(tracking, "check_trackers", lambda names: None)
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.0)
    return found


def row(step: int) -> dict[str, Any]:
    names = ("epoch", "loss", "trained_tokens", "tokens", "learning_rate", "grad_norm", "seconds")
    return {"step": step, **dict.fromkeys(names, 1.0), "validation_loss": None}


def go(folder: Path, events: Sequence[Event], recipe: Mapping[str, Any] = RECIPE) -> list[str]:
    """Follow the events of one attempt; a step event logs its step first."""
    followed, said = Tracking(parse_recipe(dict(recipe), source="test"), Run(folder)), []
    for event in events:
        if isinstance(event, StepEvent):
            append_jsonl(folder / "metrics.jsonl", row(event.step))
        said += [warning.text for warning in followed.follow(event) if isinstance(warning, MessageEvent)]
    followed.close()
    return said


def steps(first: int, last: int) -> list[Event]:
    return [StepEvent("train", step, 9) for step in range(first, last + 1)]


def evaluate(folder: Path, stage: str, value: float) -> StageEvent:
    metric = {"value": value, "low": 0.1, "high": None}
    found = {"metrics": {"accuracy": metric}, "baselines": {"random": metric}}
    write_json(folder / f"evaluations/{stage}/evaluation.json", found)
    return StageEvent(stage, "finished")


def test_steps_that_run_again_after_a_resume_are_sent_once(fakes: dict[str, Fake], tmp_path: Path):
    assert go(tmp_path, [STARTED, *steps(1, 7)]) == []
    write_jsonl(tmp_path / "metrics.jsonl", map(row, range(1, 6)))  # the checkpoint was of step 5
    assert go(tmp_path, [STARTED, *steps(6, 9), FINISHED]) == []
    for name, fake in fakes.items():
        assert fake.steps == list(range(1, 10)) and fake.closed
        assert [run.id for run in fake.runs] == [None, f"{name}-1"]
        assert fake.runs[0].project == "p" and fake.runs[0].config["task"] == "judge"


@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_fails_is_told_once_and_gets_what_it_lacks_later(
    at_once: bool, fakes: dict[str, Fake], tmp_path: Path
):
    assert go(tmp_path, [STARTED, *steps(1, 2)]) == []
    fakes["wandb"].fails = at_once
    fakes["wandb"].fails_after = None if at_once else 2
    assert go(tmp_path, [STARTED, *steps(3, 5)]) == [
        "warning: wandb failed and gets nothing more of this run (OSError: no network); the run goes on, and "
        "the same command sends what is missing"
    ]
    assert fakes["wandb"].steps == [1, 2] and fakes["tensorboard"].steps == [1, 2, 3, 4, 5]
    fakes["wandb"].fails, fakes["wandb"].fails_after = False, None
    assert go(tmp_path, [SKIPPED]) == []
    assert fakes["wandb"].steps == fakes["tensorboard"].steps == [1, 2, 3, 4, 5]


def test_evaluations_are_figures_of_the_whole_run(fakes: dict[str, Fake], tmp_path: Path):
    before = evaluate(tmp_path, "before", 0.25)
    go(tmp_path, [before, STARTED, *steps(1, 2), FINISHED, evaluate(tmp_path, "after", 0.75)])
    assert fakes["wandb"].summary == {
        "before/accuracy": 0.25, "before/accuracy_low": 0.1,
        "before/baseline_random": 0.25, "before/baseline_random_low": 0.1,
        "after/accuracy": 0.75, "after/accuracy_low": 0.1,
        "after/baseline_random": 0.75, "after/baseline_random_low": 0.1,
    }  # fmt: skip


def test_without_a_tracker_nothing_is_read_or_written(tmp_path: Path):
    assert go(tmp_path, [STARTED, *steps(1, 2), FINISHED], {"name": "r", "task": "judge"}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_missing_package_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorboard", object())
    with pytest.raises(ConfigError, match=r"track\.to contains wandb, .* `pip install 'smidgen\[wandb\]'`"):
        go(tmp_path, [STARTED])

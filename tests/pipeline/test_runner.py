"""The one rule of resumption, on stages that only count."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import parse_recipe
from smidgen.errors import ConfigError, WorkError
from smidgen.pipeline import runner
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import MessageEvent, StageEvent, result_of
from smidgen.pipeline.stage import Stage
from smidgen.runs import Run


class Counted:
    """Two stages, the second of which reads what the first writes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        recipe = parse_recipe({"name": "count", "task": "answers"}, source="test")
        self.context = RunContext(recipe, Run(folder))
        self.done: list[str] = []
        self.setting, self.fails = 1, False
        stages = [self.stage("first"), self.stage("second", needs=("first",), inputs=self.second_inputs)]
        monkeypatch.setattr(runner, "stages_of", lambda _: stages)
        monkeypatch.setattr(runner, "check", lambda _: None)

    def second_inputs(self, _: RunContext) -> Mapping[str, Any]:
        return {"setting": self.setting}

    def stage(self, name: str, **parts: Any) -> Stage:
        def work(context: RunContext):
            context.run.write_text(f"{name}.scratch", "half")
            if self.fails and name == "second":
                raise WorkError("the disk is full")
            self.done.append(name)
            context.run.write_text(f"{name}.txt", f"{name} {self.setting}")
            yield MessageEvent(name, "worked")

        scratch, outputs = (f"{name}.scratch",), (f"{name}.txt",)
        return Stage(name, work, lambda *_: 0.0, Budgets.reading, outputs=outputs, scratch=scratch, **parts)

    def go(self, **options: Any) -> list[str]:
        self.done = []
        self.events = list(runner.run_recipe(self.context, **options))
        return self.done


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path / "count", monkeypatch)


def test_finished_stages_are_skipped(counted: Counted):
    assert counted.go() == ["first", "second"]
    assert counted.go() == []
    assert [event.state for event in counted.events if isinstance(event, StageEvent)] == ["skipped"] * 2


def test_a_changed_input_repeats_its_stage_and_says_so(counted: Counted):
    counted.go()
    counted.setting = 2
    assert counted.go() == ["second"]
    said = [event.text for event in counted.events if isinstance(event, MessageEvent)]
    assert said[0] == "its settings or inputs changed, so it starts over"


def test_a_failed_stage_keeps_its_scratch_for_the_same_inputs_only(counted: Counted):
    counted.fails = True
    with pytest.raises(WorkError, match="the disk is full"):
        counted.go()
    scratch = counted.context.run.path("second.scratch")
    assert scratch.exists()
    scratch.write_text("more")
    with pytest.raises(WorkError):
        counted.go()
    counted.fails, counted.setting = False, 2
    assert counted.go() == ["second"]


def test_a_lost_output_is_made_again_with_all_that_reads_it(counted: Counted):
    counted.go()
    counted.context.run.path("first.txt").unlink()
    assert counted.go() == ["first"], "the same bytes again, so the second need not run"
    counted.context.run.path("first.txt").write_text("damaged")
    assert counted.go() == ["first"]


def test_from_a_stage_and_only_some(counted: Counted):
    counted.go()
    assert counted.go(from_stage="second") == ["second"]
    assert counted.go(only=("first",)) == []
    with pytest.raises(
        ConfigError, match=r"there is no stage 'secnd'\. Did you mean 'second'\? Known: first, second"
    ):
        result_of(runner.run_recipe(counted.context, from_stage="secnd"))


def test_two_processes_do_not_share_a_folder(counted: Counted):
    with (
        counted.context.run.lock(),
        pytest.raises(WorkError, match=r"count is in use by process \d+ on .*; wait for it, or choose"),
    ):
        counted.go()

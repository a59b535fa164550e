import pytest

from smidgen.cli.console import follow
from smidgen.pipeline import events
from smidgen.pipeline.events import EventLog, MessageEvent, MetricEvent, StageEvent, StepEvent
from smidgen.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def test_every_kind_of_event_is_a_row_with_its_time(run: Run):
    log = EventLog(run)
    for event in (
        StageEvent("train", "started"),
        StepEvent("train", 1, 2, values={"loss": 3.0}),
        MetricEvent("after", {"accuracy": 0.5}),
        MessageEvent("data", "two rows are alike"),
    ):
        log.write(event)
    rows = run.read_jsonl("events.jsonl")
    assert [row["kind"] for row in rows] == ["stage", "step", "metric", "message"]
    assert all(row["time"].endswith("+00:00") for row in rows)
    assert rows[1]["values"] == {"loss": 3.0} and rows[2]["metrics"] == {"accuracy": 0.5}


def test_fast_steps_are_thinned_and_the_last_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 100.0, 100.2, 101.5, 101.5, 101.6])
    monkeypatch.setattr(events.time, "monotonic", lambda: next(clock))
    log = EventLog(run)
    for step in range(1, 5):
        log.write(StepEvent("train", step, 4))
    assert [row["step"] for row in run.read_jsonl("events.jsonl")] == [1, 3, 4]


def test_a_terminal_shows_events_and_gets_the_result(capsys: pytest.CaptureFixture[str]):
    def work():
        yield StageEvent("data", "skipped")
        yield StageEvent("train", "started")
        for step in (3, 4):
            yield StepEvent("train", step, 4, tokens=10, values={"loss": 1.5})
        yield MessageEvent("train", "kept step 3")
        yield MessageEvent("export", "warning: far from the model")
        yield StageEvent("train", "finished", 61.0)
        return "done"

    assert follow(work()) == "done"
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "data: already done, skipped"
    assert lines[1].startswith("train: 4/4 in 0:00, loss 1.5")
    assert lines[2:] == ["train: kept step 3", "warning: far from the model", "train: finished in 1:01"]


def test_a_failure_ends_the_progress_and_goes_on(capsys: pytest.CaptureFixture[str]):
    def work():
        yield StepEvent("train", 1, 4)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        follow(work())
    assert capsys.readouterr().err == ""

import json
import sys

import pytest

from smidgen.cli.console import Progress, count, duration, follow, print_json, print_table, size
from smidgen.pipeline.events import MessageEvent, StepEvent


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (3, "3"), (12.345, "12.3"), (1234.5, "1,234"), (1e6, "1,000,000")]
)
def test_counts(number: float, text: str):
    assert count(number) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")],
)
def test_sizes(num_bytes: float, text: str):
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0:00"),
        (9, "0:09"),
        (61, "1:01"),
        (3723, "1:02:03"),
        (400_000, "4.6 days"),
        (4e12, "126,752 years"),
    ],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]):
    print_json({"a": float("nan"), "b": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1]}


def test_cells_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]):
    print_table([("[bold]name[/bold]", "1"), ("b", "20")], headers=("part", "number"))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["part", "number"]
    assert lines[1].startswith("[bold]name[/bold]") and lines[1].endswith(" 1")


def test_without_a_terminal_a_line_comes_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("train", total=40, clock=clock) as progress:
        for step in range(1, 41):
            clock.now += 1.0
            progress.update(step, tokens=1000, loss=2.0 / step, validation=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train: 10/40, loss 0.2, 1,000 tokens/s, 0:30 left",
        "train: 20/40, loss 0.1, 1,000 tokens/s, 0:20 left",
        "train: 30/40, loss 0.06667, 1,000 tokens/s, 0:10 left",
        "train: 40/40, loss 0.05, 1,000 tokens/s",
        "train: 40/40 in 0:40, loss 0.05, 1,000 tokens/s",
    ]


def test_a_resumed_stage_counts_only_what_is_new(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("train", total=100, clock=clock) as progress:
        progress.begin_at(80)
        clock.now = 10.0
        progress.update(90, tokens=500)
    assert "train: 90/100, 50 tokens/s, 0:10 left" in capsys.readouterr().err


def test_an_unknown_total_has_no_end_in_sight(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("evaluate", total=None, clock=clock) as progress:
        clock.now = 11.0
        progress.update(3)
    assert capsys.readouterr().err.splitlines()[0] == "evaluate: 3"


def test_a_stage_that_fails_does_not_say_it_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KeyError), Progress("train", total=2, clock=clock) as progress:
        progress.update(1)
        raise KeyError
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("train", total=4, clock=clock) as progress:
        progress.update(4, loss=0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err and "4/4" in err and "loss 0.5" in err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_sentence_of_a_stage_does_not_end_its_progress(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    events = [
        StepEvent("train", 1, 3, values={"loss": 0.5}),
        MessageEvent("train", "collapsed entropy"),
        StepEvent("train", 3, 3, values={"reward": 0.25}),
    ]
    follow(event for event in events)  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert "train: collapsed entropy" in err
    assert "loss 0.5" in err[err.index("collapsed") :], "the loss before the sentence is still shown"
    if not terminal:
        assert err.count(" in 0:00") == 1

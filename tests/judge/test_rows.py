"""Many pairs judged from Python: once each, through interruptions, from a file or from rows."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smidgen import EngineOptions, Judge, JudgeOptions, SamplingOptions
from smidgen.data.types import Completion, Request, Timing
from smidgen.errors import ConfigError, DataError
from smidgen.options import RowOptions

ROWS: list[dict[str, Any]] = [
    {"id": "p", "prompt": "How long?", "a": "xxx", "b": "x"},
    {"id": "q", "prompt": "How long?", "a": "x", "b": "xx", "better": "b"},
    {"id": "r", "prompt": "How long?", "a": "x", "b": "y"},
]
SAID = [("p", "a", (3.0, 1.0)), ("q", "b", (1.0, 2.0)), ("r", "tie", (1.0, 1.0))]


class Measuring:
    """Scores answers by their lengths, the last request first, and counts what it is asked."""

    def __init__(self):
        self.asked: list[str] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        for request in reversed(list(requests)):
            self.asked.append(request.sample.id)
            content = request.sample.messages[-1].content
            lengths = [
                len(content.split(f"Start of Assistant {side}'s Answer]\n")[1].split("\n[The End")[0])
                for side in "12"
            ]
            yield request, Completion("{} {}".format(*lengths), timing=Timing(0, 1, 10, 5))

    def peak_memory_bytes(self) -> int:
        return 7

    def close(self) -> None:
        self.asked.append("closed")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measuring:
    engine = Measuring()
    monkeypatch.setattr("smidgen.judge.judging.open_engine", lambda options: engine)
    return engine


@pytest.fixture
def model(tmp_path: Path) -> EngineOptions:
    """What a fingerprint can be made of; the engine that answers is `Measuring`."""
    (tmp_path / "model.jsonl").write_text("{}\n")
    return EngineOptions(str(tmp_path / "model.jsonl"))


@pytest.fixture
def judge(engine: Measuring, model: EngineOptions) -> Judge:
    return Judge(model, JudgeOptions(template="scores"))


def test_rows_and_their_file_are_judged_alike(judge: Judge, tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = judge.judge_rows(ROWS, tmp_path / "rows.said.jsonl")
    assert (found.total, found.known, found.rejected, found.labelled) == (6, 0, (), True)
    verdicts = found.verdicts()
    assert [(pair.id, pair.verdict, pair.scores) for pair in verdicts] == SAID
    assert all(pair.consistent and pair.judgements == 2 for pair in verdicts)
    assert judge.judge_rows(str(file), str(tmp_path / "file.said.jsonl")).verdicts() == verdicts
    texts = [(tmp_path / f"{name}.said.pairs.jsonl").read_text() for name in ("rows", "file")]
    assert texts[0] == texts[1] == "".join(json.dumps(pair.to_json()) + "\n" for pair in verdicts)
    assert (found.speed().completion_tokens, found.speed().peak_memory_bytes) == (30, 7)


def test_an_interrupted_file_goes_on_and_asks_for_nothing_twice(
    judge: Judge, engine: Measuring, model: EngineOptions, tmp_path: Path
):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "said.jsonl"
    expected = judge.judge_rows(ROWS, whole).verdicts()
    engine.asked.clear()
    first = judge.judge_rows(ROWS, out)
    made = [next(first).sample.id for _ in range(3)]
    del first  # as if the process ended here: the file is free for another
    resumed = Judge(model, JudgeOptions(template="scores")).judge_rows(ROWS, out)
    assert resumed.known == 3
    assert [record.sample.id for record in resumed][:3] == made
    assert resumed.verdicts() == expected
    assert sorted(engine.asked) == sorted(f"{row['id']}#{order}" for row in ROWS for order in ("ab", "ba"))


def test_verdicts_make_what_iterating_left(judge: Judge, engine: Measuring, tmp_path: Path):
    found = judge.judge_rows(ROWS, tmp_path / "said.jsonl")
    next(found)
    assert len(found.verdicts()) == 3 and len(found.records) == 6
    assert found.verdicts() == found.verdicts() and len(engine.asked) == 6


def test_every_order_is_asked_as_often_as_was_said(engine: Measuring, model: EngineOptions, tmp_path: Path):
    several = Judge(model, JudgeOptions(template="scores", samples=3), SamplingOptions(temperature=0.7))
    verdicts = several.judge_rows(ROWS[:1], tmp_path / "said.jsonl").verdicts()
    assert [pair.judgements for pair in verdicts] == [6]
    assert sorted(engine.asked) == sorted(f"p#{order}{k}" for order in ("ab", "ba") for k in ("", "#2", "#3"))


def test_rows_that_are_left_out(judge: Judge, tmp_path: Path):
    bad = [*ROWS, {"id": "s", "prompt": "How long?", "a": "x"}]
    found = judge.judge_rows(bad, tmp_path / "said.jsonl", RowOptions(skip_bad_rows=True))
    assert len(found.rejected) == 1 and len(found.verdicts()) == 3
    limited = judge.judge_rows(ROWS, tmp_path / "limited.jsonl", RowOptions(limit=1))
    assert [pair.id for pair in limited.verdicts()] == ["p"]


def test_what_cannot_be_judged_is_refused_before_a_model_is_loaded(
    judge: Judge, model: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(options: EngineOptions) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("smidgen.judge.judging.open_engine", load)
    out = tmp_path / "said.jsonl"
    with pytest.raises(ConfigError, match="the template grade grades single answers; use rubric, scores"):
        Judge(model, JudgeOptions(template="grade", reference=True)).judge_rows(ROWS, out)
    with pytest.raises(DataError, match="rows: there is no row to judge; expected pairs"):
        judge.judge_rows([], out)
    with pytest.raises(DataError, match=r"there is no data file at .*none\.jsonl"):
        judge.judge_rows(tmp_path / "none.jsonl", out)
    with pytest.raises(DataError, match="rows: row 1 has the fields id, prompt, a, which match no known"):
        judge.judge_rows([{"id": "s", "prompt": "How long?", "a": "x"}], out)
    assert not out.exists()


def test_no_file_mixes_two_judges(judge: Judge, model: EngineOptions, tmp_path: Path):
    judge.judge_rows(ROWS, tmp_path / "said.jsonl").verdicts()
    other = Judge(model, JudgeOptions(template="verdict"))
    with pytest.raises(DataError, match="contains the records of another evaluation"):
        other.judge_rows(ROWS, tmp_path / "said.jsonl").verdicts()

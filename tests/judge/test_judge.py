"""The Python door to a judge, on an engine that follows a script."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from smidgen import EngineOptions, Judge, JudgeOptions
from smidgen.data.types import Completion, Request, Timing
from smidgen.errors import ConfigError, DataError
from smidgen.judge.judging import Answers


class Reader:
    """Prefers the longer answer in any comparing template, and grades by length."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        for request in reversed(list(requests)):
            yield (
                request,
                Completion(self.say(request.sample.messages[-1].content), timing=Timing(0, 1, 10, 5)),
            )

    def say(self, content: str) -> str:
        if "###Response to evaluate:" in content:
            return f"[RESULT] {min(5, len(content.split('evaluate:')[2].split()[0]))}"
        first, second = (
            content.split(f"Start of Assistant {side}'s Answer]\n")[1].split("\n[The End")[0] for side in "12"
        )
        return f"{len(first)} {len(second)}"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.judge.judging.open_engine", lambda options: Reader())
    return lambda **settings: Judge(judging=JudgeOptions(**settings))


def test_compare(make):
    with make(template="scores") as judge:
        found = judge.compare("How long?", "xxx", "xxxxx")
    assert (found.verdict, found.consistent, found.scores) == ("b", True, (3.0, 5.0))
    assert [(said.order, said.verdict, said.scores) for said in found.said] == [
        ("ab", "b", (3.0, 5.0)),
        ("ba", "b", (3.0, 5.0)),
    ]
    assert found.tokens == 30 and found.said[0].text == "3 5"


def test_grade(make):
    found = make(template="grade").grade("How long?", "xxx")
    assert (found.grade, found.grades, found.texts) == (3.0, (3.0,), ("[RESULT] 3",))
    with pytest.raises(ConfigError, match="the template grade grades single answers"):
        make(template="grade").compare("q", "a", "b")
    with pytest.raises(ConfigError, match="the template scores compares two answers"):
        make(template="scores").grade("q", "a")


def test_work_without_an_engine(make):
    judge, reader = make(template="scores"), Reader()
    work = judge.comparing("How long?", "xxx", "xxxxx")
    requests = next(work)
    assert [request.sample.id for request in requests] == ["0#ab#0", "0#ba#0"]
    completions = [found for _, found in reversed(list(reader.complete(requests)))]
    with pytest.raises(StopIteration) as done:
        work.send(Answers(completions, 2.5))
    expected = judge.compare("How long?", "xxx", "xxxxx")
    assert done.value.value == replace(expected, seconds=2.5)


def test_rank(make):
    found = make(template="scores").rank("How long?", ["x", "xxxx", "xx", "xxxxxxx"])
    assert [place.answer for place in found.places] == [3, 1, 2, 0]
    best, worst = found.places[0], found.places[-1]
    assert (best.wins, best.results) == (3.0, 3) and best.low < 0 < best.strength < best.high
    assert worst.strength == pytest.approx(-best.strength)
    assert len(found.comparisons) == 6 and found.tokens == 180
    with pytest.raises(DataError, match="the number of answers to rank is 1; expected two"):
        make(template="scores").rank("q", ["x"])


def test_what_cannot_be_judged(make, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="samples is 0"):
        make(samples=0)
    with pytest.raises(ConfigError, match="would all be equal"):
        make(samples=2)
    with pytest.raises(DataError, match="the prompt is empty"):
        make(template="scores").compare(" ", "a", "b")
    monkeypatch.setattr(Reader, "say", lambda *_: "no idea")
    found = make(template="scores").compare("q", "a", "b")
    assert (found.verdict, found.consistent, found.scores, found.unparsed) == (None, False, None, 2)
    assert found.said[0].fault == "the first line is not two numbers"
    assert not make(template="scores").rank("q", ["x", "y"]).places[0].strength


def test_the_model_is_opened_when_it_is_first_asked(monkeypatch: pytest.MonkeyPatch):
    opened: list[EngineOptions] = []
    monkeypatch.setattr(
        "smidgen.judge.judging.open_engine", lambda options: opened.append(options) or Reader()
    )
    engine = EngineOptions("some/model", batch_size=3)
    with Judge(engine, JudgeOptions(template="scores")) as judge:
        assert not opened
        judge.compare("q", "x", "yy")
        judge.rank("q", ["x", "yy"])
    assert opened == [engine]

from pathlib import Path

import pytest

from smidgen.data.types import Completion, Sampling
from smidgen.evaluation import evaluate
from smidgen.tasks.judge.forms import Fault, JudgeParseError, Verdict
from smidgen.tasks.judge.judge_task import JudgeTask
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.rubric import Rubric

GOOD, BAD = "<scores>\\boxed{9, 2}</scores>", "nothing"


class Counted(Rubric):
    """A template that counts what it parses."""

    def __init__(self):
        self.texts: list[str] = []

    def parse(self, text: str) -> Verdict:
        self.texts.append(text)
        return super().parse(text)

    def parse_leniently(self, text: str) -> Verdict:
        return Rubric().parse_leniently(text)


def test_a_reading_is_the_forms_own():
    reader = Reader(Rubric())
    for _ in range(2):
        assert reader.parse(GOOD) == Rubric().parse(GOOD)
        with pytest.raises(JudgeParseError, match=Fault.NO_BLOCK.value):
            reader.parse(BAD)


def test_every_text_of_an_evaluation_is_parsed_once(tmp_path: Path):
    form = Counted()
    task = JudgeTask(form)
    rows = [{"id": f"{i}", "prompt": f"p{i}", "a": "x", "b": "y", "better": "a"} for i in range(4)]
    samples = task.samples(rows)

    class Engine:
        def complete(self, requests):
            for number, request in enumerate(requests):
                yield request, Completion(f"{GOOD if number % 3 else BAD}" + "\n" * number)

    evaluation = evaluate(task, samples, Engine(), Sampling(), tmp_path / "records.jsonl", model="m")
    assert evaluation.metrics["unparsed_rate"].value == 3 / 8
    assert len(form.texts) == len(set(form.texts)) == 8
    before = len(form.texts)
    task.measures([])
    task.analyses([], rows, model="m")
    assert len(form.texts) == before

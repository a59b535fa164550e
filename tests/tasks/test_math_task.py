"""The task math: prompts with and without worked examples, targets, and scores."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Record
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.math_task import INSTRUCTION, MathTask

REAL = Path(__file__).parents[3] / "shared" / "data" / "solve"
ROWS = [
    {
        "id": f"p{n}",
        "question": f"What is {n} + 1?",
        "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
    }
    for n in range(8)
]


def examples_file(tmp_path: Path, rows: list[dict]) -> str:
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def shown(sample) -> list[str]:
    """The problems of the worked examples in a prompt."""
    return [message.content for message in sample.messages[:-1] if message.role == "user"]


def test_a_prompt_and_its_target():
    sample = MathTask().training_samples(ROWS)[3]
    assert [(m.role, m.content) for m in sample.messages] == [("user", f"What is 3 + 1?\n\n{INSTRUCTION}")]
    assert sample.target == "3+1=4\nThe answer is \\boxed{4}."
    bare = find_task("math", {"instruction": ""}).samples([{"problem": "1 + 1?", "answer": "2"}])[0]
    assert bare.messages[0].content == "1 + 1?" and MathTask().target(bare) == "The answer is \\boxed{2}."


@given(st.text())
def test_any_text_is_scored(text: str):
    (sample,) = MathTask().samples(ROWS[:1])
    score = MathTask().score(sample, Completion(text))
    assert score.value in (0.0, 1.0) and score.parsed == (score.answer is not None)


@pytest.mark.parametrize(
    ("text", "value", "answer"),
    [("so 1", 1.0, "1"), ("\\boxed{1.0}", 1.0, "1"), ("1 or 2", 0.0, "2"), ("one", 0.0, None)],
)
def test_scores(text: str, value: float, answer: str | None):
    (sample,) = MathTask().samples(ROWS[:1])
    score = MathTask().score(sample, Completion(text))
    assert (score.value, score.answer, score.parsed) == (value, answer, answer is not None)


def test_measures_and_the_baseline():
    task = MathTask()
    samples = task.samples(ROWS[:4])
    completions = map(Completion, ("1", "2", "4", "none"))
    records = [Record(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]
    found = {name: measure(metric).value for name, metric in task.measures(records).items()}
    assert found == {"accuracy": 0.5, "unparsed_rate": 0.25}
    assert task.details(records)["unparsed"] == {"there is neither a box nor a number": 1}
    assert measure(task.baselines(samples)["most_frequent"]).value == 0.25


def test_every_target_is_right():
    for sample in MathTask().training_samples(ROWS):
        assert MathTask().score(sample, Completion(sample.target or "")).value == 1.0


def test_examples_come_from_the_file_and_are_fixed_by_the_seed(tmp_path: Path):
    settings = {"shots": 3, "examples": examples_file(tmp_path, ROWS)}
    tests = [{"question": "What is 50 + 1?", "answer": "#### 51"}]
    (first,), (again,), (other,) = (
        find_task("math", settings | {"seed": seed}).prepare(tests).samples(tests) for seed in (0, 0, 1)
    )
    assert first == again and first != other
    assert [message.role for message in first.messages] == ["user", "assistant"] * 3 + ["user"]
    asked = {f"{row['question']}\n\n{INSTRUCTION}" for row in ROWS}
    assert set(shown(first)) <= asked and len(set(shown(first))) == 3
    assert all("\\boxed{" in m.content for m in first.messages if m.role == "assistant")
    assert find_task("math", settings).variant == "3 shots"
    assert find_task("math", settings).why_no_examples == "its prompts already contain 3 worked examples"


def test_examples_come_from_the_training_rows_and_no_problem_is_its_own():
    task = find_task("math", {"shots": 4}).learn(ROWS)
    for sample in task.training_samples(ROWS):
        assert len(shown(sample)) == 4 and sample.messages[-1].content not in shown(sample)
    assert MathTask().learn(ROWS).samples(ROWS) == MathTask().samples(ROWS)


def test_an_evaluated_problem_is_never_an_example(tmp_path: Path):
    task = find_task("math", {"shots": 7, "examples": examples_file(tmp_path, ROWS)}).prepare([])
    with pytest.raises(DataError, match=r"problem 'p0' is also the worked example 'p0'; take examples from"):
        task.samples(ROWS[:1])


def test_examples_that_cannot_be_had_are_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"shots = 2 needs worked examples; name a file .* with --examples"):
        find_task("math", {"shots": 2}).samples(ROWS)
    with pytest.raises(ConfigError, match=r"'examples' is x\.jsonl, but 'shots' is 0; set shots"):
        find_task("math", {"examples": "x.jsonl"})
    few = {"shots": 2, "examples": examples_file(tmp_path, ROWS[:2])}
    with pytest.raises(ConfigError, match=r"needs 3 different problems .*jsonl has 2; lower shots, or name"):
        find_task("math", few).prepare([])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize("name", ["gsm8k_test_a", "svamp_a", "math_new50"])
def test_every_real_target_is_right(name: str):
    samples = MathTask().training_samples(read_rows(REAL / f"{name}.jsonl"))
    wrong = [s.id for s in samples if MathTask().score(s, Completion(s.target or "")).value < 1]
    assert not wrong

"""The task code: prompts, programs in completions, verdicts and pass@k."""

import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Record, Request
from smidgen.errors import ConfigError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.programming_task import INSTRUCTION, CodeTask, pass_at
from smidgen.tasks.sandbox import pool

REAL = Path(__file__).parents[3] / "shared" / "data" / "solve"
HUMANEVAL = {
    "task_id": "H/1",
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP = {
    "task_id": 2,
    "text": "Double it.",
    "code": "def g(x): return x * 2",
    "test_list": ["assert g(4) == 8"],
}
needs_sandbox = pytest.mark.skipif(sys.platform != "linux", reason="nothing enforces the sandbox here")


@given(st.data(), st.integers(1, 9))
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(data: st.DataObject, n: int):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at(k, n, c) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_answers():
    assert pass_at(100, 1000, 0) == 0.0 and pass_at(1, 1000, 250) == 0.25
    assert pass_at(100, 1000, 1) == pytest.approx(0.1) and pass_at(100, 1000, 901) == 1.0


def test_the_prompts_and_targets_of_both_formats():
    (one,), (two,) = (CodeTask().training_samples([row]) for row in (HUMANEVAL, MBPP))
    head = 'def add(a, b):\n    """Sum."""'
    assert one.messages[0].content == f"Complete this function.\n\n```python\n{head}\n```\n\n{INSTRUCTION}"
    assert one.target == f"```python\n{head}\n    return a + b\n```"
    tests = "The program must pass these tests:\n\n```python\nassert g(4) == 8\n```"
    assert two.messages[0].content == f"Double it.\n\n{tests}\n\n{INSTRUCTION}"
    bare = find_task("code", {"instruction": ""}).samples([MBPP])[0]
    assert bare.messages[0].content == f"Double it.\n\n{tests}"
    assert "assert candidate" not in one.messages[0].content, "the tests of HumanEval are not shown"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("\n    return 1\n", "    return 1"),
        ("So:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("  ~~~ py\nx = 1\n  ~~~", "x = 1"),
        ("```Python3 title=a\nx = 1", "x = 1"),
        ("```python\nx = 1```", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2"),
        ("```python\ndef f(): pass\n```\nUse it:\n```python\nf()\n```", "def f(): pass"),
        ("```python\nx = 1\n```\n```json\n{}\n```", "x = 1"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("<think>\n```python\nx = 1\n```\n\n</think>\n```python\nx = 2\n```", "x = 2"),
    ],
)
def test_the_program_in_a_completion(text: str, code: str):
    assert CodeTask().parse(text) == code


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" \n", "the answer is empty"),
        ("```json\n{}\n```", "its code blocks are json, not Python"),
        ("```python\n\n```", "its last code block is empty"),
    ],
)
def test_completions_without_a_program(text: str, why: str):
    with pytest.raises(ParseError, match=why):
        CodeTask().parse(text)
    score = CodeTask().score(CodeTask().samples([MBPP])[0], Completion(text))
    assert (score.value, score.parsed, score.answer, score.explanation) == (0.0, False, None, why)


@pytest.mark.parametrize(
    "text", ["```" + "a" * 50_000, "`" * 50_000, "```" + " " * 50_000, "~~~\nx\n" * 9_000]
)
def test_a_long_line_is_read_in_time(text: str):
    start = time.process_time()
    CodeTask().parse(text + "x")
    assert time.process_time() - start < 0.5


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "value", "parsed", "explanation"),
    [
        ("```python\ndef g(x): return x + x\n```", 1.0, True, "passed"),
        ("def g(x): return 8", 1.0, True, "passed"),
        ("```python\ndef g(x): return x\n```", 0.0, True, "wrong: assert g(4) == 8"),
        ("```python\ndef g(x): return y\n```", 0.0, True, "error: NameError: name 'y' is not defined"),
        ("```python\ndef g(x) return\n```", 0.0, True, "error: SyntaxError: expected ':' (<answer>, line 1)"),
        ("I do not know", 0.0, False, "there is no code block, and the text is not Python"),
    ],
)
def test_scores(text: str, value: float, parsed: bool, explanation: str):
    score = CodeTask().score(CodeTask().samples([MBPP])[0], Completion(text))
    assert (score.value, score.parsed, score.explanation) == (value, parsed, explanation)


@needs_sandbox
@given(st.text(max_size=20))
def test_any_text_is_scored(text: str):
    score = CodeTask().score(CodeTask().samples([MBPP])[0], Completion(text))
    assert score.value == 0.0 and score.parsed == (score.answer is not None)


def records(answers: list[list[str]]) -> tuple[CodeTask, list[Record]]:
    """The records of several answers to each of some problems."""
    task = find_task("code", {"samples": len(answers[0]), "pass_at": [1, 2]})
    assert isinstance(task, CodeTask)
    rows = [MBPP | {"task_id": n} for n in range(len(answers))]
    samples, texts = task.samples(rows), [text for texts in answers for text in texts]
    completions = [Completion(text) for text in texts]
    return task, [Record(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]


@needs_sandbox
def test_measures_and_what_a_report_says():
    right, wrong = "def g(x): return 2 * x", "def g(x): return x"
    task, found = records([[right, wrong, wrong], [wrong, "?", "raise KeyError"], [right, right, right]])
    assert [record.sample.id for record in found[:3]] == ["0#1", "0#2", "0#3"]
    metrics = {name: measure(metric) for name, metric in task.measures(found).items()}
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(
        {"pass_at_1": 4 / 9, "pass_at_2": (2 / 3 + 0 + 1) / 3, "unparsed_rate": 1 / 9}
    )
    assert metrics["pass_at_1"].n == 3, "answers to one problem are not independent"
    details = task.details(found)
    assert details["outcomes"] == {"passed": 4, "wrong": 3, "error": 1, "timeout": 0, "unparsed": 1}
    assert details["different_answers"] == 6
    settings = {"samples": 3}
    report = {"after": {"metrics": {"pass_at_1": {"n": 3}}, "settings": settings, "details": details, "n": 9}}
    assert CodeTask.asked(report) == "3 problems with 3 answers each"
    assert CodeTask.remarks(report) == ["Of 9 answers: 4 passed, 3 wrong, 1 error, 1 unparsed."]
    equal = {"after": {"details": details | {"different_answers": 3}, "settings": settings, "n": 9}}
    assert "All answers to a problem are equal; sample them with a temp" in CodeTask.remarks(equal)[1]


def test_settings_that_contradict_each_other():
    with pytest.raises(
        ConfigError, match=r"'pass_at' contains 5, but 'samples' is 2; set samples to at least 5, or"
    ):
        find_task("code", {"samples": 2, "pass_at": [1, 5]})
    with pytest.raises(ConfigError, match="'pass_at' contains 0; expected numbers of answers, at least 1"):
        find_task("code", {"pass_at": [0, 1]})
    with pytest.raises(ConfigError, match=r"memory.*greater than or equal to 128"):
        find_task("code", {"memory": 64})
    with pytest.raises(ConfigError, match="the task intent has no setting 'unsafe', which is for code"):
        find_task("intent", {"unsafe": True})
    assert find_task("code", {"seconds": 9}).variant == "9 s 512 MiB" and CodeTask().variant == ""


def test_a_problem_without_a_solution_has_no_target():
    row = {name: value for name, value in MBPP.items() if name != "code"}
    with pytest.raises(
        ConfigError, match=r"the problem '2' has no solution to train on; add the field 'code' or "
    ):
        CodeTask().training_samples([row])
    assert [example.answers for example in CodeTask().examples([row, MBPP | {"task_id": 3}])] == [
        (),
        (MBPP["code"],),
    ]


def test_a_platform_without_a_sandbox_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch):
    boot = pool._BOOT.removesuffix("main()\n")
    lacking = "from smidgen.tasks.sandbox import zygote\nzygote._trial = lambda *_: ['the network']\nmain()\n"
    monkeypatch.setattr(pool, "_BOOT", boot + lacking)
    task = find_task("code", {"seconds": 17})  # of which no other test has a sandbox
    with pytest.raises(
        ConfigError, match=r"does not keep them from the network; .* unsafe = true .* or --unsafe"
    ):
        task.answer_with(Spoken({}), "generate")
    with pytest.raises(ConfigError, match="cannot be run safely here"):
        task.score(task.samples([MBPP])[0], Completion("def g(x): return 2 * x"))
    unsafe = find_task("code", {"seconds": 17, "unsafe": True})
    assert unsafe.score(unsafe.samples([MBPP])[0], Completion("def g(x): return 2 * x")).value == 1.0


class Spoken:
    """An engine that says what it is given, the last request first."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def complete(self, requests):
        for request in reversed(list(requests)):
            yield request, Completion(self._texts[request.sample.id])

    def score(self, samples, continuations, *, least_share: float = 0.0):
        raise NotImplementedError


@needs_sandbox
def test_programs_are_run_while_others_are_decoded():
    texts = {f"{n}": f"def g(x): return x * {n}" for n in range(20)}
    task = CodeTask()
    samples = task.samples([MBPP | {"task_id": n} for n in range(20)])
    found = list(task.answer_with(Spoken(texts), "generate").complete(map(Request, samples)))
    assert [(r.sample.id, c.text) for r, c in found] == list(reversed(texts.items()))
    assert [task.score(r.sample, c).value for r, c in found] == [float(r.sample.id == "2") for r, _ in found]


@pytest.mark.slow
@needs_sandbox
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(("name", "number"), [("humaneval_a", 82), ("mbpp_test_a", 250)])
def test_every_real_solution_passes_and_none_passes_without_its_body(name: str, number: int):
    samples = CodeTask().training_samples(read_rows(REAL / f"{name}.jsonl"))
    scores = {s.id: CodeTask().score(s, Completion(s.target or "")) for s in samples}
    assert len(scores) == number and not {id: s.explanation for id, s in scores.items() if s.value < 1}
    for sample in samples[:30]:
        assert CodeTask().score(sample, Completion("```python\npass\n```")).value == 0.0

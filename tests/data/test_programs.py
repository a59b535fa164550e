"""Programming problems of the published formats."""

from pathlib import Path

import pytest

from smidgen.data.programs import ProgrammingProblem, programming_problems
from smidgen.data.rows import read_rows
from smidgen.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "solve"
HUMANEVAL = {
    "task_id": "HumanEval/9",
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP = {
    "task_id": 12,
    "text": "Write a function to sum.",
    "code": "def sum(a, b):\r\n  return a + b\r\n",
    "test_setup_code": "x = 1",
    "test_list": ["assert sum(1, 2) == 3", "assert sum(1, max(1, 2)) == 3"],
    "challenge_test_list": ["assert sum(0, 0) == 1"],
}
SANITIZED = {
    "task_id": 3,
    "prompt": "Write it.",
    "code": "def g(x): return x",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(g(1), 1)"],
}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            HUMANEVAL,
            ProgrammingProblem(
                "HumanEval/9",
                HUMANEVAL["prompt"],
                ("def check(candidate):\n    assert candidate(1, 2) == 3\n\n\ncheck(add)",),
                ("add",),
                entry_point="add",
                solution='def add(a, b):\n    """Sum."""\n    return a + b',
            ),
        ),
        (
            MBPP,
            ProgrammingProblem(
                "12", MBPP["text"], tuple(MBPP["test_list"]), ("sum",), setup="x = 1",
                solution="def sum(a, b):\n  return a + b",
            ),
        ),
        (
            SANITIZED,
            ProgrammingProblem(
                "3", "Write it.", ("import math\nassert math.isclose(g(1), 1)",), ("g",),
                solution="def g(x): return x",
            ),
        ),
        (
            {"text": "Do.", "test_list": ["assert h()"]},
            ProgrammingProblem("1", "Do.", ("assert h()",), ()),
        ),
    ],
)  # fmt: skip
def test_every_format_becomes_a_problem(row: dict, expected: ProgrammingProblem):
    assert programming_problems([row]) == [expected]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (HUMANEVAL | {"test": "assert ("}, r"row 1: 'test' is not Python: .*; expected assertions"),
        (
            MBPP | {"test_list": ["assert f(1) == 1", "assert"]},
            "'test_list' is not Python: .*; expected assertions",
        ),
        (MBPP | {"test_list": "assert f"}, "'test_list' is .*expected"),
        (MBPP | {"test_setup_code": "x ="}, "'test_setup_code' is not Python"),
        (HUMANEVAL | {"entry_point": None}, "'entry_point' is null, expected text"),
        ({"prompt": "x", "tests": []}, "match no known format.*HumanEval row: prompt, entry_point, test"),
    ],
)
def test_bad_rows_are_told(row: dict, fault: str):
    with pytest.raises(DataError, match=fault):
        programming_problems([row])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(("name", "number"), [("humaneval_a", 82), ("mbpp_test_a", 250)])
def test_the_real_rows_are_read(name: str, number: int):
    found = programming_problems(read_rows(REAL / f"{name}.jsonl"))
    assert len({problem.id for problem in found}) == number
    assert all(problem.solution and problem.tests and problem.names for problem in found)

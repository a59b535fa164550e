"""Word problems of the published formats."""

from pathlib import Path

import pytest

from smidgen.data.problems import Problem, problems
from smidgen.data.rows import read_rows
from smidgen.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "solve"
GSM8K = {"question": "Two pens cost 3 each?", "answer": "They cost 2*3=<<2*3=6>>6.\nSo <<6>>6.\n#### 6"}
SVAMP = {
    "ID": "c-1",
    "Body": "He has 8 pens",
    "Question": "Half?",
    "Equation": "( 8.0 / 2.0 )",
    "Answer": 4.0,
}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GSM8K, Problem("1", GSM8K["question"], "6", "They cost 2*3=6.\nSo 6.")),
        (GSM8K | {"answer": "#### 1,234"}, Problem("1", GSM8K["question"], "1,234")),
        (SVAMP, Problem("c-1", "He has 8 pens. Half?", "4", "8 / 2 = 4")),
        (SVAMP | {"Answer": 4.5, "Equation": ""}, Problem("c-1", "He has 8 pens. Half?", "4.5")),
        (
            {"id": 7, "problem": "x?", "answer": "3a/b", "solution": "so", "subset": "algebra"},
            Problem("7", "x?", "3a/b", "so", "algebra"),
        ),
        ({"question": "1 + 1?", "answer": 2}, Problem("1", "1 + 1?", "2")),
    ],
)
def test_every_format_becomes_a_problem(row: dict, expected: Problem) -> None:
    assert problems([row]) == [expected]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (
            [GSM8K, GSM8K | {"answer": "6"}],
            "row 2: 'answer' is \"6\", expected a solution that ends with",
        ),
        ([GSM8K | {"answer": "so ####"}], "'answer' is \"so ####\", expected a solution that ends with"),
        ([{"problem": "x?", "answer": None}], "'answer' is null, expected text"),
        ([{"prompt": "x?"}], "match no known format.* GSM8K row: question, answer"),
    ],
)
def test_what_is_no_problem_is_named(rows: list[dict], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        problems(rows)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(
    ("name", "count", "solved"),
    [("gsm8k_test_a", 660, 660), ("gsm8k_train", 7473, 7473), ("svamp_a", 500, 500), ("math_new50", 50, 50)],
)
def test_real_rows_are_read(name: str, count: int, solved: int) -> None:
    found = problems(read_rows(REAL / f"{name}.jsonl"))
    assert len(found) == count and sum(one.solution is not None for one in found) == solved
    assert not any("<<" in (one.solution or "") or "####" in (one.solution or "") for one in found)

"""Scores as benchmarks publish them, on their own examples and on numbers worked out by hand."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code
from smidgen.data.formats import Pair
from smidgen.data.types import Completion, Record
from smidgen.errors import DataError
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.judgements import Judgement
from smidgen.tasks.judge.published import judgelm_metrics
from smidgen.tasks.judge.rewardbench2 import ROWS2, best_of, rewardbench2, ties_score
from smidgen.tasks.judge.rewardbench_scores import (
    ROWS,
    SECTIONS,
    is_rewardbench,
    read_result,
    result_file,
    rewardbench,
    row_file,
    section_scores,
    style_matrix,
)
from smidgen.tasks.templates import FORMS

EXAMPLE = Path(__file__).parents[4] / "shared/data/judge/rewardbench_example_metrics.json"
PERFECT = dict.fromkeys(ROWS, 1.0)


def judgement(said: str | None, *, better: str = "a", order: str = "ab", **changes) -> Judgement:
    facts = {"pair": "p", "lenient_verdict": said, "gap": None, "cluster": "p", "longer": 0, "annotators": ()}
    return Judgement(
        **{**facts, "order": order, "better": better, "verdict": said, "facts": {}, "subset": None, **changes}
    )  # type: ignore[arg-type]


def test_the_weights_are_those_of_the_benchmark():
    assert sum(ROWS.values()) == 2985
    assert [sum(section.values()) for section in SECTIONS.values()] == [358, 456, 740, 1968]


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the real data sets are not here")
def test_the_example_of_the_benchmark(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["rewardbench", str(EXAMPLE), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert {name: round(value, 6) for name, value in scores["sections"].items()} == {
        "Chat": 0.608939, "Chat Hard": 0.449561, "Safety": 0.721622, "Reasoning": 0.466757,
    }  # fmt: skip
    assert (round(scores["mean"], 6), round(scores["micro"], 6)) == (0.561720, 0.575209)


def test_a_perfect_judge_scores_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert section_scores(PERFECT) == {"sections": dict.fromkeys(SECTIONS, 1.0), "mean": 1.0, "micro": 1.0}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(PERFECT | {"model": "m"}))
    assert exit_code(["rewardbench", str(path)]) == 0
    assert "1.000000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({name: 1 for name in ROWS if name != "donotanswer"}, "1 are missing: donotanswer"),
        (PERFECT | {"hep-cp": 1}, "no subset 'hep-cp' in RewardBench. Did you mean 'hep-cpp'?"),
        (PERFECT | {"hep-cpp": 3}, "'hep-cpp' is 3, expected an accuracy from 0 to 1"),
        (PERFECT | {"hep-cpp": "x"}, "'hep-cpp' is 'x', expected an accuracy"),
        ([], "is not a JSON object"),
    ],
)
def test_results_that_cannot_be_scored(
    content, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    assert exit_code(["rewardbench", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert exit_code(["rewardbench", str(tmp_path / "none.json")]) == 2
    assert "none.json not found; expected" in capsys.readouterr().err


def test_a_result_file_is_flat_and_sorted():
    found = [
        judgement("a", subset="hep-go"),
        judgement("b", subset="hep-go"),
        judgement("a", subset="math-prm"),
    ]
    assert is_rewardbench(found) and not is_rewardbench([judgement("a")])
    written = result_file(found, model="me")
    facts = {"chat_template": None, "model": "me", "model_type": "Generative RM"}
    assert written == {"hep-go": 0.5, "math-prm": 1.0} | facts
    assert list(written) == sorted(written)
    assert read_result(written) == {"hep-go": 0.5, "math-prm": 1.0}


def test_the_style_matrix():
    found = [
        judgement("a" if i >= j else "b", facts={"row": row, "chosen": i, "rejected": j})
        for row in ("r", "s")
        for i in range(3)
        for j in range(3)
    ]
    scores = style_matrix(found)
    assert scores == {"matrix": [[1, 0, 0], [1, 1, 0], [1, 1, 1]], "hard": 0.0, "normal": 1.0, "easy": 1.0}
    assert style_matrix([judgement("a")]) is None and style_matrix(found[:4]) is None
    odd = [judgement("a", facts={"row": "odd", "chosen": 0, "rejected": j}) for j in range(3)]
    assert style_matrix([*found, *odd]) is None
    assert style_matrix([replace(each, subset="Ties") for each in found]) is None


def test_failures_and_ties_get_half_a_point_beside():
    found = [judgement(said, subset=name) for name in ROWS for said in ("a", "b", "tie", None)]
    scores = rewardbench(found)
    assert scores is not None and scores["mean"] == 0.25 and scores["undecided_half"]["mean"] == 0.5
    assert scores["missing_subsets"] == [] and scores["fewer_rows"]["math-prm"] == {"rows": 1, "of": 447}
    part = rewardbench(found[:4])
    assert part is not None and part.keys() == {"missing_subsets", "fewer_rows"}
    whole = [judgement("a", pair=str(n), subset="mt-bench-hard") for n in range(37)]
    assert rewardbench(whole)["fewer_rows"] == {}  # type: ignore[index]


def test_best_of_n():
    assert best_of([5, 3, 2, 1], 1) == 1.0
    assert best_of([5, 5, 2, 5], 1) == pytest.approx(1 / 3)
    assert best_of([4, 5, 2, 1], 1) == 0.0


def test_ties_of_rewardbench_2():
    """Right answers at 9 and 8 with the wrong at 2: spread 1, gap 6; the single right one leads by 7."""
    perfect = ties_score([([9, 2, 2], 1)], [([9, 8, 2], 2)])
    assert perfect == pytest.approx(1.0 + 0.01 * math.tanh(6 / 1 - 1))
    assert ties_score([([9, 2], 1)], [([8, 8, 2], 2)]) == pytest.approx(1.01)  # no spread at all
    assert ties_score([([2, 9], 1)], [([2, 3, 9], 2)]) == pytest.approx(0.01 * math.tanh(-7 / 1 - 1))
    assert ties_score([([9, 4], 1)], [([9, 3, 2], 2)]) == pytest.approx(0.6 + 0.01 * math.tanh(1 / 6 - 1))
    with pytest.raises(DataError, match="needs its rows in pairs, ref and tied; got 1 and 0"):
        ties_score([([9, 2], 1)], [])


GRADER = JudgeTask(FORMS["grade"]())


def rated(row: str, subset: str, right: list[float | None], wrong: list[float | None]) -> list[Record]:
    """A row of RewardBench 2 whose answers got these grades; None where the grade could not be read."""
    asked = {
        "id": row,
        "prompt": f"q {row}",
        "chosen": [f"+{grade}" for grade in right],
        "rejected": [f"-{grade}" for grade in wrong],
        "subset": subset,
    }
    found = []
    for sample in GRADER.samples([asked]):
        side, key = ("rejected", wrong) if sample.metadata["answer"] == "b" else ("chosen", right)
        grade = key[sample.metadata["facts"][side]]
        completion = Completion("hm" if grade is None else f"so so [RESULT] {grade}")
        found.append(Record(sample, completion, GRADER.score(sample, completion)))
    return found


def test_rewardbench_2_from_grades():
    records = [
        *rated("1", "Math", [5], [3, 2, 1]),
        *rated("2", "Math", [4], [4, 2, 1]),
        *rated("3", "Math", [None], [None, None, None]),
        *rated("4", "Math", [None], [1, 1, None]),
        *rated("ref:0", "Ties", [5], [2]),
        *rated("tied:0", "Ties", [5, 4], [2]),
    ]
    scores = rewardbench2(records, GRADER.form)
    assert scores is not None
    assert scores["subsets"] == {
        "Math": pytest.approx((1 + 0.5 + 0.25 + 0) / 4),
        "Ties": pytest.approx(1 + 0.01 * math.tanh(2 / 1 - 1)),
    }
    assert scores["mean"] is None
    assert scores["missing_subsets"] == ["Factuality", "Precise IF", "Safety", "Focus"]
    others = [record for name in scores["missing_subsets"] for record in rated(name, name, [5], [1, 1, 1])]
    whole = rewardbench2([*records, *others], GRADER.form)
    assert whole is not None and not whole["missing_subsets"]
    assert whole["mean"] == pytest.approx((4 + sum(scores["subsets"].values())) / 6)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["ref:0"], "0 is only ref or only tied"),
        (["ref:0", "tied:1"], "needs its rows in pairs"),
        (["x"], "'x' is not an id of the subset Ties; expected ref:NAME or tied:NAME"),
    ],
)
def test_ties_without_their_counterparts(rows: list[str], match: str):
    records = [record for row in rows for record in rated(row, "Ties", [5], [2])]
    scores = rewardbench2([*records, *rated("1", "Math", [5], [3])], GRADER.form)
    assert scores is not None and re.search(match, scores["reasons"]["Ties"])
    assert scores["subsets"] == scores["strict"]["subsets"] == {"Ties": None, "Math": 1.0}
    assert scores["mean"] is None and "Ties" in scores["missing_subsets"]


def test_what_could_not_be_read_is_wrong_in_the_second_number():
    """A row without any grade gets a quarter as published; one with a grade missing is wrong beside it."""
    records = [
        *rated("1", "Math", [None], [None, None, None]),
        *rated("2", "Math", [5], [None, 1, 1]),
        *rated("3", "Math", [5], [2, 1, 1]),
        *rated("ref:0", "Ties", [5], [2]),
        *rated("tied:0", "Ties", [5, 5], [None]),
    ]
    scores = rewardbench2(records, GRADER.form)
    assert scores is not None
    assert scores["subsets"] == {"Math": pytest.approx(2.25 / 3), "Ties": pytest.approx(1.01)}
    assert scores["strict"]["subsets"] == {"Math": pytest.approx(1 / 3), "Ties": pytest.approx(0.3 - 0.01)}
    assert scores["fewer_rows"] == {"Math": {"rows": 3, "of": 183}, "Ties": {"rows": 2, "of": 102}}
    assert sum(ROWS2.values()) == 1865


def test_comparisons_give_no_score_of_rewardbench_2():
    compared = JudgeTask(FORMS["verdict"]())
    row = {"id": "1", "prompt": "q", "chosen": ["x"], "rejected": ["y", "z", "w"], "subset": "Math"}
    said = Completion("[[A]]")
    records = [Record(sample, said, compared.score(sample, said)) for sample in compared.samples([row])]
    scores = rewardbench2(records, compared.form)
    assert scores is not None and "--template grade" in scores["reasons"]["mean"]


def test_other_rows_are_not_rewardbench_2():
    assert rewardbench2(rated("1", "chat", [5], [3]), GRADER.form) is None
    assert rewardbench2([], FORMS["rubric"]()) is None


def test_the_file_of_rows():
    pairs = {"p": Pair("p", "q", "x", "y", "b", "hep-go"), "t": Pair("t", "q", "x", "y", "tie", "hep-go")}
    found = [
        judgement("b", better="b", subset="hep-go"),
        judgement("a", better="b", order="ba", subset="hep-go"),
        judgement("a", better="tie", pair="t"),
    ]
    assert row_file(found, pairs, model="me") == {
        "chat_template": None,
        "id": ["p"],
        "model": "me",
        "model_type": "Generative RM",
        "results": [0.5],
        "subset": ["hep-go"],
        "text_chosen": ["y"],
        "text_rejected": ["x"],
    }


def test_the_metrics_of_judgelm():
    """Four pairs: right twice, first twice, second twice, and first then unreadable."""
    said = [("a", "a"), ("a", "b"), ("b", "a"), ("a", None)]
    found = [
        judgement(side, order=order, pair=f"p{n}")
        for n, pair in enumerate(said)
        for order, side in zip(("ab", "ba"), pair, strict=True)
    ]
    scores = judgelm_metrics(found)
    assert scores is not None
    assert scores["accuracy"] == 0.75 and scores["consistency"] == 0.25 and scores["total_num"] == 4
    assert (scores["perfer_before_rate"], scores["perfer_after_rate"]) == (0.5, 0.25)
    assert (scores["delta_bias"], scores["total_bias"]) == (0.25, 0.75)
    assert (
        scores["recall"] == pytest.approx(0.75 / 2) and judgelm_metrics([judgement("a", order=None)]) is None
    )  # type: ignore[arg-type]

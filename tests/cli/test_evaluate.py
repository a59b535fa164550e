"""`smidgen evaluate` on recordings: templates, references and rows that cannot be read."""

import json
import shutil
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code
from smidgen.evaluation import read_records
from smidgen.evaluation.cost_section import ways
from smidgen.tasks.judge.rewardbench_scores import ROWS

PAIRS = [{"id": f"p{n}", "prompt": f"{n}?", "a": "x", "b": "yy", "better": "ab"[n % 2]} for n in range(4)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def judged(tmp_path: Path, text, rows: list[dict] = PAIRS) -> list[str]:
    """The arguments of an evaluation of what `text(row, order)` says."""
    said = [{"id": r["id"], "order": o, "text": text(r, o)} for r in rows for o in ("ab", "ba")]
    recording, data = write(tmp_path / "said.jsonl", said), write(tmp_path / "pairs.jsonl", rows)
    return ["evaluate", "judge", "--engine", "replay", "--model", recording, "--data", data, "--json"]


def letter(row: dict, order: str) -> str:
    return "A" if order[0] == row["better"] else "B"


def test_a_recording_in_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = judged(tmp_path, lambda row, order: f"I say [[{letter(row, order)}]]")
    assert exit_code([*arguments, "--template", "verdict", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["accuracy"]["value"] == found["metrics"]["consistency"]["value"] == 1.0
    assert found["rejected_rows"] == 0
    assert "The judge" in (tmp_path / "out/report.html").read_text()
    assert exit_code([*arguments, "--template", "scores", "--out", str(tmp_path / "out")]) == 2
    assert "contains the records of another evaluation" in capsys.readouterr().err
    (tmp_path / "out/records.jsonl").unlink()
    assert exit_code([*arguments, "--template", "verdict", "--out", str(tmp_path / "out")]) == 0


def test_own_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "own.toml"
    path.write_text("user = '{{ a }} {{ b }}'\n[parse]\nregex = 'best: (?P<winner>[AB])'")
    arguments = judged(tmp_path, lambda row, order: f"best: {letter(row, order)}")
    assert exit_code([*arguments, "--template", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"] == 1.0
    path.write_text("user = '{{ a }} {{ b }}'\n[parse]\nregex = 'best'")
    assert exit_code([*arguments, "--template", str(path)]) == 2
    assert "named groups" in capsys.readouterr().err


def test_bad_rows_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [*judged(tmp_path, lambda row, order: f"[[{letter(row, order)}]]"), "--template", "verdict"]
    data = Path(arguments[7])
    data.write_text(data.read_text() + 'not JSON\n{"prompt": "q", "a": [3], "b": "y", "better": "a"}\n')
    assert exit_code(arguments) == 2
    assert "line 5 is not JSON" in capsys.readouterr().err
    assert exit_code([*arguments, "--skip-bad-rows"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rejected_rows"] == 2 and json.loads(out)["n"] == 8
    assert "2 rows skipped: line 5 is not JSON" in err and "line 6: 'a' is [3], expected text" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--template", "verdit"], "Did you mean 'verdict'?"),
        (["--reference"], "'p0' has no reference answer"),
        (["--engine", "replay", "--model", "none.jsonl"], "there is no data file at none.jsonl"),
    ],
)
def test_wrong_uses(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    assert exit_code(["evaluate", "judge", "--data", data, *arguments]) == 2
    assert said in capsys.readouterr().err
    unlabelled = write(tmp_path / "bare.jsonl", [{"prompt": "q", "a": "x", "b": "y"}])
    assert exit_code(["evaluate", "judge", "--data", unlabelled]) == 2
    assert "get verdicts with `smidgen judge`" in capsys.readouterr().err
    assert exit_code(["evaluate", "intent", "--template", "rubric"]) == 2
    assert (
        "the task intent has no setting 'template', which is for judge; leave it out"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("model", "engine"),
    [("./nowhere.gguf", "llama"), ("http://localhost:1/v1", "http"), ("./nowhere", "llama")],
)
def test_judging_by_logits_is_refused_before_an_engine_is_opened_that_cannot(
    model: str, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    arguments = ["evaluate", "judge", "--data", data, "--template", "scores", "--method", "logits"]
    assert exit_code([*arguments, "--model", model, "--engine", engine]) == 2
    assert f"the engine {engine} does not support log-probability scoring" in capsys.readouterr().err


def test_a_place_of_something_else_is_refused_before_the_model_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, place = write(tmp_path / "pairs.jsonl", PAIRS), tmp_path / "place"
    evaluation = ["evaluate", "judge", "--data", data, "--model", "./nowhere", "--out", str(place)]
    place.write_text("")
    assert exit_code(evaluation) == 2
    assert "It is a file; give a folder" in capsys.readouterr().err
    place.unlink()
    place.mkdir()
    (place / "config.json").write_text("{}")
    assert exit_code(evaluation) == 2
    assert "It is not empty and not an evaluation; give another" in capsys.readouterr().err
    assert [file.name for file in place.iterdir()] == ["config.json"]
    (place / "records.jsonl").write_text('{"id": "p0"}\n')
    assert exit_code(evaluation) == 2
    assert "records.jsonl: row 1 is not a record" in capsys.readouterr().err


def test_two_evaluations_of_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, text in (("good", letter), ("bad", lambda row, order: "A")):
        (tmp_path / name).mkdir()
        arguments = judged(tmp_path / name, lambda row, order, say=text: f"[[{say(row, order)}]]")
        assert exit_code([*arguments, "--template", "verdict", "--out", str(tmp_path / name / "out")]) == 0
    capsys.readouterr()
    good, bad = (str(tmp_path / name / "out") for name in ("good", "bad"))
    assert exit_code(["compare", good, bad, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert found["difference"]["value"] == 0.5 and found["only_first"] == 4
    assert exit_code(["compare", good, bad]) == 0
    assert "consistency" in capsys.readouterr().out
    published = json.loads((tmp_path / "bad/out/judgelm.json").read_text())
    assert published["perfer_before_rate"] == 1.0 and published["total_num"] == 4
    (tmp_path / "other").mkdir()
    arguments = judged(tmp_path / "other", lambda row, order: "[[A]]", [PAIRS[0] | {"id": "new"}])
    assert exit_code([*arguments, "--template", "verdict", "--out", str(tmp_path / "other/out")]) == 0
    capsys.readouterr()
    assert exit_code(["compare", good, str(tmp_path / "other/out")]) == 2
    assert "answered different rows (8 and 2" in capsys.readouterr().err
    assert exit_code(["compare", good, str(tmp_path)]) == 2
    assert "contains no evaluation.json" in capsys.readouterr().err
    (tmp_path / "evaluation.json").write_text("[1]")
    assert exit_code(["compare", good, str(tmp_path)]) == 2
    assert "is not an evaluation result; run the evaluation again" in capsys.readouterr().err
    file = tmp_path / "bad/out/evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 1}))
    assert exit_code(["compare", good, bad]) == 2
    assert "was evaluated with version 1 of the task judge, and this is version" in capsys.readouterr().err


def test_evaluations_with_other_labels_are_not_compared_and_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = judged(tmp_path, lambda row, order: "[[A]]")
    out = ["--template", "verdict", "--out"]
    assert exit_code([*arguments, *out, str(tmp_path / "first")]) == 0
    flipped = [row | {"better": "b" if row["better"] == "a" else "a"} for row in PAIRS]
    write(tmp_path / "pairs.jsonl", flipped)
    assert exit_code([*arguments, *out, str(tmp_path / "second")]) == 0
    capsys.readouterr()
    assert exit_code(["compare", str(tmp_path / "first"), str(tmp_path / "second")]) == 2
    assert (
        "have different labels or answers for 'p0#ab'; compare runs on the same data"
        in capsys.readouterr().err
    )
    assert exit_code([*arguments, *out, str(tmp_path / "first")]) == 2
    said = capsys.readouterr().err
    assert "was asked with other messages, labels," in said and "--engine replay --model" in said
    records = str(tmp_path / "first/records.jsonl")
    again = [
        *arguments[: arguments.index("--model")],
        "--model",
        records,
        *arguments[arguments.index("--data") :],
    ]
    assert exit_code([*again, "--template", "verdict"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["prefer_first_rate"]["value"] == 1.0


def test_two_templates_may_be_compared_on_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, text in (("verdict", "[[A]]"), ("scores", "2 1")):
        (tmp_path / name).mkdir()
        arguments = judged(tmp_path / name, lambda row, order, text=text: text)
        assert exit_code([*arguments, "--template", name, "--out", str(tmp_path / name / "out")]) == 0
    capsys.readouterr()
    places = [str(tmp_path / name / "out") for name in ("verdict", "scores")]
    assert exit_code(["compare", *places, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["difference"]["value"] == 0.0


def test_a_rubric_is_read_from_a_file(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, rubric = write(tmp_path / "pairs.jsonl", PAIRS[:1]), tmp_path / "rubric.txt"
    rubric.write_text("Is it short? 1: no. 5: yes.")
    arguments = ["evaluate", "judge", "--model", str(tiny_model_dir), "--data", data, "--max-tokens", "2"]
    arguments += ["--rubric", str(rubric)]
    assert exit_code([*arguments, "--template", "grade", "--out", str(tmp_path / "out")]) == 0
    assert "Is it short?" in (tmp_path / "out/records.jsonl").read_text()
    capsys.readouterr()
    assert exit_code(arguments) == 2
    assert "only the template grade takes a rubric, not rubric" in capsys.readouterr().err
    rubric.unlink()
    assert exit_code(arguments) == 2
    assert "there is no rubric at" in capsys.readouterr().err


def test_a_part_of_rewardbench_has_no_section_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"id": n, "prompt": f"{n}?", "chosen": "x", "rejected": "y", "subset": "hep-go"} for n in range(3)
    ]
    said = [{"id": n, "order": o, "text": "[[A]]"} for n in range(3) for o in ("ab", "ba")]
    arguments = ["evaluate", "judge", "--engine", "replay", "--model", write(tmp_path / "said.jsonl", said)]
    arguments += ["--data", write(tmp_path / "rows.jsonl", rows), "--template", "verdict", "--json"]
    assert exit_code([*arguments, "--out", str(tmp_path / "out")]) == 0
    published = json.loads(capsys.readouterr().out)["published"]
    assert len(published["rewardbench"]["missing_subsets"]) == 22
    assert json.loads((tmp_path / "out/rewardbench.json").read_text())["hep-go"] == 0.5


RB2 = [
    {"id": f"{subset}{n}", "prompt": f"{subset} {n}?", "chosen": ["+"], "rejected": ["-", "--", "---"]}
    | {"subset": subset}
    for subset in ("Factuality", "Math")
    for n in range(3)
] + [
    {"id": name, "prompt": name, "chosen": ["+"] * n, "rejected": ["-"], "subset": "Ties"}
    for name, n in (("ref:0", 1), ("tied:0", 2))
]


def graded(tmp_path: Path, rows: list[dict], *more: str) -> list[str]:
    """The arguments of an evaluation of a judge that grades every right answer 5 and every wrong one 2."""
    said = [
        {"id": f"{row['id']}/{n}", "order": order, "text": f"[RESULT] {grade}"}
        for row in rows
        for order, side, grade in (("a", "chosen", 5), ("b", "rejected", 2))
        for n in range(len(row[side]))
    ]
    recording, data = write(tmp_path / "said.jsonl", said), write(tmp_path / "rows.jsonl", rows)
    arguments = ["evaluate", "judge", "--engine", "replay", "--model", recording, "--data", data]
    return [*arguments, "--template", "grade", "--out", str(tmp_path / "out"), *more]


def test_a_part_of_rewardbench_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every answer is asked once; Ties without a counterpart has no score, and the rest is kept."""
    assert exit_code(graded(tmp_path, RB2, "--limit", "7")) == 0
    out, err = capsys.readouterr()
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    scores = found["published"]["rewardbench2"]
    assert scores["subsets"] == {"Factuality": 1.0, "Math": 1.0, "Ties": None} and found["n"] == 6 * 4 + 2
    assert "rmbench" not in found["published"]
    assert found["unused_replay_rows"] == 3 and "3 rows of" in err and "tied:0/0#a" in err
    assert "right 0" not in err and "both orders" not in err
    assert "19 pairs with each answer graded alone" in err
    assert "RewardBench 2" in out and "Factuality" in out
    page = (tmp_path / "out/report.html").read_text()
    for said in ("Benchmark scores", "0 is only ref or only tied", "Math 3 of 183", "Precise IF"):
        assert said in page
        assert said in err or said == "Benchmark scores"


def test_rewardbench_2_needs_grades(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["verdict" if word == "grade" else word for word in graded(tmp_path, RB2[:1])]
    said = [{"id": f"Factuality0/0-{n}", "order": o, "text": "[[A]]"} for n in range(3) for o in ("ab", "ba")]
    write(tmp_path / "said.jsonl", said)
    assert exit_code(arguments) == 0
    assert "need answers graded alone; use --template grade" in capsys.readouterr().err


def test_sections_of_rewardbench_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"id": n, "prompt": n, "chosen": "x", "rejected": "y", "subset": n} for n in ROWS]
    said = [{"id": n, "order": o, "text": "[[A]]" if o == "ab" else "?"} for n in ROWS for o in ("ab", "ba")]
    arguments = ["evaluate", "judge", "--engine", "replay", "--model", write(tmp_path / "said.jsonl", said)]
    arguments += ["--data", write(tmp_path / "rows.jsonl", rows), "--template", "verdict"]
    assert exit_code(arguments) == 0
    out, err = capsys.readouterr()
    reasoning = next(line for line in out.splitlines() if "Reasoning" in line)
    assert reasoning.split() == ["Reasoning", "0.500", "0.750"]
    assert "hep-go 1 of 164" in err and "math-prm 1 of 447" in err


def test_bad_rows_without_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [PAIRS[0] | {"reference": "r"}, PAIRS[1]]
    arguments = [*judged(tmp_path, lambda row, order: "9 2", rows), "--template", "scores", "--reference"]
    assert exit_code([*arguments, "--skip-bad-rows"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rejected_rows"] == 1 and "line 2: 'p1' has no reference answer" in err
    write(tmp_path / "pairs.jsonl", [PAIRS[0] | {"a": None}])
    assert exit_code([*arguments, "--skip-bad-rows"]) == 2
    assert "none of 1 rows can be judged: line 1: 'a' is null" in capsys.readouterr().err


def test_unlabelled_rows_of_a_benchmark_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"subset": "Natural", "index": n, "input": "q", "output_1": "x", "output_2": "y"} for n in (0, 1)]
    said = [{"id": f"Natural/{n}", "order": o, "text": "[[A]]"} for n in (0, 1) for o in ("ab", "ba")]
    data, recording = write(tmp_path / "rows.jsonl", rows), write(tmp_path / "said.jsonl", said)
    arguments = ["--model", recording, "--template", "verdict", "--json"]
    assert exit_code(["judge", data, "--out", str(tmp_path / "verdicts.jsonl"), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"]["tie"] == 2 and not found["labelled"]
    assert exit_code(["evaluate", "judge", "--data", data, *arguments]) == 2
    assert "has no labels ('label')" in (err := capsys.readouterr().err) and "`smidgen judge`" in err


def test_by_logits(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(tmp_path / "pairs.jsonl", PAIRS[:2])
    arguments = ["evaluate", "--model", str(tiny_model_dir), "--data", data, "--method", "logits"]
    assert exit_code([arguments[0], "judge", *arguments[1:], "--template", "verdict", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    shown = ways({"after": found, "cost": found["cost"]})
    assert shown is not None and shown["labels"] == ["By log-probability"]
    assert found["metrics"]["unparsed_rate"]["value"] == 0.0 and found["speed"]["completion_tokens"] == 0
    path = tmp_path / "own.toml"
    path.write_text("user = '{{ a }} {{ b }}'\n[parse]\nregex = '(?P<winner>[AB])'")
    assert exit_code([arguments[0], "judge", *arguments[1:], "--template", str(path)]) == 2
    assert (
        "the task judge cannot be evaluated with --method logits; leave it out, or use generate"
        in capsys.readouterr().err
    )
    assert exit_code([arguments[0], "answers", *arguments[1:3], "--method", "logits"]) == 2
    assert "the task answers cannot be evaluated with --method logits" in capsys.readouterr().err
    recording = write(tmp_path / "said.jsonl", [{"id": "p0", "order": "ab", "text": "[[A]]"}])
    assert exit_code(["evaluate", "judge", "--model", recording, "--data", data, "--method", "logits"]) == 2
    assert "the engine replay does not support log-probability scoring" in capsys.readouterr().err


def test_constrained_answers_can_all_be_read(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"text": f"why {n}", "intent": ("pay_bill", "the time", "oos")[n % 3]} for n in range(12)]
    model, out = ["--model", str(tiny_model_dir)], ["--out", str(tmp_path / "out"), "--json"]
    intent = ["evaluate", "intent", *model, *out, "--data", write(tmp_path / "intents.jsonl", rows)]
    assert exit_code([*intent, "--constrained"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["unparsed_rate"]["value"] == 0.0
    said = [json.loads(line)["text"] for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    assert set(said) <= {"pay bill", "the time", "oos"}
    assert exit_code(intent) == 2
    assert "was asked with other messages, labels, sampling, constraint, model" in capsys.readouterr().err

    template = tmp_path / "own.toml"
    for parse in (
        "regex = 'best: (?P<winner>[AB]) .{3}'",
        "schema.properties = {winner = {enum = ['A', 'B', 'tie']}, sure = {type = 'boolean'}}\n"
        "schema.required = ['winner']\nschema.additionalProperties = false\nschema.type = 'object'",
    ):
        template.write_text("user = '{{ a }} {{ b }}'\n[parse]\n" + parse)
        judge = ["evaluate", "judge", *model, "--data", write(tmp_path / "pairs.jsonl", PAIRS), "--json"]
        assert exit_code([*judge, "--template", str(template), "--constrained"]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"]["unparsed_rate"]["value"] == 0.0


def test_constraints_that_no_one_can_keep_to_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recorded = [*judged(tmp_path, letter), "--constrained"]
    assert exit_code(["evaluate", "answers", "--constrained"]) == 2
    assert "the task answers cannot be constrained: the task has no output" in capsys.readouterr().err
    assert exit_code(["evaluate", "choice", "--data", "rows.jsonl", "--constrained"]) == 2
    template = tmp_path / "own.toml"
    for regex, fault in (
        ("(?P<winner>[AB])", "a recording does not support constraints"),
        (r"\\b(?P<winner>[AB])", "the regular expression cannot be enforced: lookarounds"),
    ):
        template.write_text(f"user = '{{{{ a }}}} {{{{ b }}}}'\n[parse]\nregex = \"{regex}\"")
        assert exit_code([*recorded, "--template", str(template)]) == 2
        assert fault in capsys.readouterr().err


@pytest.mark.slow
def test_llama_cpp_says_what_mlx_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    found = []
    for engine in ("llama", "mlx"):
        out = tmp_path / engine
        arguments = ["evaluate", "judge", "--engine", engine, "--limit", "4", "--max-tokens", "24"]
        assert exit_code([*arguments, "--out", str(out), "--json"]) == 0
        found.append(
            {record.sample.id: record.completion.text for record in read_records(out / "records.jsonl")}
        )
    assert found[0] == found[1] and len(found[0]) == 8
    assert exit_code(["evaluate", "judge", "--engine", "llama", "--method", "logits", "--limit", "1"]) == 2
    assert (
        "the engine llama does not support log-probability scoring; use --engine mlx"
        in capsys.readouterr().err
    )


SUMS = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(9)]


def test_word_problems_with_worked_examples(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, train = write(tmp_path / "test.jsonl", SUMS[:3]), write(tmp_path / "train.jsonl", SUMS[3:])
    asked = [
        "evaluate",
        "math",
        "--model",
        str(tiny_model_dir),
        "--data",
        data,
        "--max-tokens",
        "4",
        "--json",
    ]
    assert exit_code([*asked, "--shots", "2", "--examples", train, "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 3 and found["variant"] == "2 shots"
    assert found["settings"] == {"shots": 2, "examples": train, "seed": 0} | {
        "instruction": found["settings"]["instruction"]
    }
    assert all(len(record.sample.messages) == 5 for record in read_records(tmp_path / "out/records.jsonl"))
    for more, fault in (
        (["--shots", "2"], "shots = 2 needs worked examples; name a file of training rows with --examples"),
        (["--examples", train], "but 'shots' is 0; set shots to the number of worked examples"),
        (["--shots", "2", "--examples", data], "the problem '1' is also the worked example"),
        (["--shots", "2", "--examples", "none.jsonl"], "none.jsonl"),
        (["--template", "verdict"], "the task math has no setting 'template', which is for judge"),
        (["--constrained"], "the task math cannot be constrained: its answers are solutions in free text"),
    ):
        assert exit_code([*asked, *more]) == 2
        assert fault in (err := capsys.readouterr().err) and "Traceback" not in err
    assert exit_code(["evaluate", "intent", "--data", data, "--shots", "2"]) == 2
    assert "the task intent has no setting 'shots', which is for math" in capsys.readouterr().err


def test_recorded_solutions_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = [{"id": str(n), "text": text} for n, text in enumerate(("so 1", r"\boxed{\frac{4}{2}}", "x"), 1)]
    recording, data = write(tmp_path / "said.jsonl", said), write(tmp_path / "test.jsonl", SUMS[:3])
    assert exit_code(["evaluate", "math", "--model", recording, "--data", data]) == 0
    out, err = capsys.readouterr()
    assert "The model solves 66.7" in err.replace("\n", " ") and "unparsed: there is neither a box" in err
    assert "0.667" in out


def test_choices_are_scored_without_a_chat_template(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = tmp_path / "base"
    shutil.copytree(tiny_model_dir, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"question": f"{n}?", "choices": ["yes it is", "no"], "answer": n % 2} for n in range(5)]
    asked = ["evaluate", "choice", "--model", str(model), "--data", write(tmp_path / "rows.jsonl", rows)]
    assert exit_code([*asked, "--json", "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "logits" and list(found["metrics"])[:2] == ["accuracy", "accuracy_norm"]
    assert found["metrics"]["unparsed_rate"]["value"] == 0.0
    form = tmp_path / "form.toml"
    form.write_text("letters = true\n")
    assert exit_code([*asked, "--json", "--form", str(form)]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == "text letters"
    form.write_text('task = "choice"\n[settings]\nprompt = "chat"\n')
    assert exit_code([*asked, "--form", str(form)]) == 2
    assert "has no chat template" in capsys.readouterr().err
    form.write_text('task = "math"\n')
    assert exit_code([*asked, "--form", str(form)]) == 2
    assert 'is a recipe for the task math; expected task = "choice"' in capsys.readouterr().err
    assert exit_code([*asked, "--method", "generate"]) == 2
    assert "cannot be evaluated with --method generate; leave it out, or use" in capsys.readouterr().err

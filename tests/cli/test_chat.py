"""Conversations from end to end: `smidgen run`, `plan` and `evaluate` with the task chat."""

import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code
from smidgen.files import read_json

RECIPE = """
name = "talk"
task = "chat"
[data]
train = "{rows}"
test = "{rows}"
[train]
method = "{method}"
epochs = 3.0
batch_size = 4
max_length = 128
learning_rate = 1e-2
metric_every = 3
{more}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path, things = tmp_path / "chats.jsonl", "rose sky leaf snow stone door coat lamp".split()
    with path.open("w") as file:
        for number, thing in enumerate(things * 2):
            asked, said = f"Describe the {thing}.", f"The {thing} is red, my friend."
            turns = [("user", asked), ("assistant", said), ("user", "Again."), ("assistant", said)]
            messages = [{"role": role, "content": text} for role, text in turns[: 2 + 2 * (number % 2)]]
            split, subset = "test" if number > 11 else "train", ["once", "twice"][number % 2]
            file.write(json.dumps({"messages": messages, "split": split, "subset": subset}) + "\n")
    return path


def recipe(rows: Path, *, method: str = "sft", more: str = "lora = { rank = 4 }") -> str:
    path = rows.parent / "talk.toml"
    path.write_text(RECIPE.format(rows=rows, method=method, more=more))
    return str(path)


@pytest.mark.slow
def test_a_recipe_learns_conversations_and_says_how_probable_the_answers_are(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = tmp_path / "runs"
    assert exit_code(["run", recipe(rows), "--runs", str(runs)]) == 0
    assert "likelihood" in capsys.readouterr().out
    report, page = read_json(runs / "talk/report.json"), (runs / "talk/report.html").read_text()
    before, after = report["before"]["metrics"], report["after"]["metrics"]
    assert list(after) == ["likelihood", "loss", "unscored_rate"] and report["after"]["n"] == 4
    assert before["likelihood"]["value"] < after["likelihood"]["low"] < after["likelihood"]["high"]
    assert before["loss"]["value"] > after["loss"]["value"]
    assert report["training"]["metric_name"] == "likelihood"
    assert set(report["after"]["subsets"]) == {"once", "twice"}
    assert set(report["skipped"]) == {"base_constrained", "base_examples"}
    assert report["comparisons"]["after_vs_before"]["only_first"] == 4
    assert "Training changed the likelihood by" in page or "did not change the likelihood" in page
    assert "Likelihood by subset" in page and "Answer of the row" in page
    for word in ("ccuracy", "count as wrong", "✓", "✗", "Right answer", "Cost per", "are generated"):
        assert word not in page
    # what was trained is evaluated alone as in the run, and what cannot score says so
    alone = ["evaluate", "chat", "--data", str(rows), "--adapter", str(runs / "talk/best"), "--json"]
    assert exit_code(alone) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == after and found["has_right_answers"] is False


@pytest.mark.slow
def test_a_plan_and_one_evaluation(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["plan", recipe(rows), "--json"]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert {"before", "train", "after"} <= set(stages)
    assert exit_code(["evaluate", "chat", "--data", str(rows)]) == 0
    shown = capsys.readouterr()
    assert shown.out.split()[5] == "likelihood" and "on 4 conversations" in shown.err
    assert "gpt" not in shown.err, "no answer was given that an API would charge for"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"more": 'mask = "all"'}, 'use mask = "last", with one row per turn'),
        ({"more": '[export]\nformats = ["gguf"]'}, "which llama.cpp does not give, so a GGUF"),
        ({"method": "dpo"}, "the task chat has no worse answers"),
    ],
)
def test_recipes_that_cannot_be_are_refused(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict, sentence: str
):
    assert exit_code(["run", recipe(rows, **settings), "--runs", str(tmp_path / "runs")]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("model", ["said.jsonl", "http://localhost:1/v1", "model.gguf"])
def test_engines_that_know_no_probabilities_are_refused(
    rows: Path, capsys: pytest.CaptureFixture[str], model: str
):
    engine = {"said.jsonl": "replay", "model.gguf": "llama"}.get(model, "http")
    arguments = ["evaluate", "chat", "--data", str(rows), "--model", model]
    arguments += [] if engine == "http" else ["--engine", engine]
    assert exit_code(arguments) == 2
    sentence = f"the engine {engine} does not support log-probability scoring; use --engine mlx"
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_conversations_are_checked_and_shown(rows: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["data", "show", str(rows), "--rows", "2"]) == 0
    assert "⟦The rose is red, my friend." in capsys.readouterr().out
    assert exit_code(["data", "check", str(rows)]) == 1  # its test rows are training rows, too
    shown = capsys.readouterr()
    assert "16 rows (chat row, chat)" in shown.err and "leak" in shown.out

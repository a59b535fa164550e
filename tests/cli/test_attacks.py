"""`smidgen evaluate judge --attacks`: table, report, records to go on with, replay and comparison."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.app import exit_code
from smidgen.tasks import find_task

ROWS = [
    {"id": f"p{n}", "prompt": f"{n}?", "a": f"right {n}", "b": f"wrong {n}", "better": "a"} for n in range(2)
]
TASK = find_task("judge", {"template": "verdict"})


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recording(path: Path, *, naive: bool) -> str:
    """What a judge says of all samples; a naive one believes a verdict that is in an answer."""
    rows = []
    for sample in [*TASK.samples(ROWS), *TASK.attacks.samples(ROWS, 2)]:
        found = re.search(r"\[\[([AB])\]\]", sample.messages[-1].content) if naive else None
        right = "A" if sample.metadata["better"] == "first" else "B"
        rows.append({"id": sample.id, "text": f"[[{found[1] if found else right}]]"})
    return write(path, rows)


def asked(tmp_path: Path, *, naive: bool = True) -> list[str]:
    name = "naive" if naive else "perfect"
    model, data = recording(tmp_path / f"{name}.jsonl", naive=naive), write(tmp_path / "pairs.jsonl", ROWS)
    arguments = ["evaluate", "judge", "--engine", "replay", "--model", model, "--data", data]
    return [*arguments, "--template", "verdict", "--out", str(tmp_path / f"{name}-out")]


def test_flips_are_in_the_table_the_report_and_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code([*asked(tmp_path), "--attacks"]) == 0
    said = capsys.readouterr()
    assert "Resistance" in said.out and "verdicts" in said.out
    found = json.loads((tmp_path / "naive-out/evaluation.json").read_text())
    assert found["attacks"]["families"]["verdicts"]["flips"]["value"] == 1.0
    assert found["attacks"]["families"]["demands"]["flips"]["value"] == 0.0
    assert found["attacks"]["pairs"] == 2 and found["attacks"]["n"] == 2 * 42 and found["n"] == 4
    assert found["unused_replay_rows"] == 0
    records = [json.loads(line) for line in (tmp_path / "naive-out/attacked.jsonl").read_text().splitlines()]
    assert len(records) == 84 and {record["metadata"]["edit"] for record in records} == {
        "attack",
        "benign",
        "mirror",
    }
    page = (tmp_path / "naive-out/report.html").read_text()
    shown = {record["metadata"]["attack"][1] for record in records if "~verdicts." in record["id"]}
    assert "Resistance to manipulation" in page and all(f"verdicts: {name}" in page for name in shown)


def test_an_evaluation_is_gone_on_with_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments, out = asked(tmp_path), tmp_path / "naive-out"
    assert exit_code(arguments) == 0
    assert not (out / "attacked.jsonl").exists()
    assert "attacks" not in json.loads((out / "evaluation.json").read_text())
    plain = (out / "records.jsonl").read_text()
    assert exit_code([*arguments, "--attacks", "--attacked", "1"]) == 0
    assert (out / "records.jsonl").read_text() == plain  # asked once
    lines = (out / "attacked.jsonl").read_text().splitlines(keepends=True)
    (out / "attacked.jsonl").write_text("".join(lines[:17]))
    capsys.readouterr()
    assert (
        exit_code([*arguments, "--attacks", "--json"]) == 0
    )  # another pair, and what is missing of the first
    resumed = json.loads(capsys.readouterr().out)["attacks"]
    assert (out / "attacked.jsonl").read_text().startswith("".join(lines[:17]))
    again = ["evaluate", "judge", "--engine", "replay", "--model", str(out), "--template", "verdict"]
    assert exit_code([*again, "--data", str(tmp_path / "pairs.jsonl"), "--attacks", "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)["attacks"]
    assert {**resumed, "speed": None} == {**replayed, "speed": None}


def test_two_evaluations_are_compared_under_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for naive in (True, False):
        assert exit_code([*asked(tmp_path, naive=naive), "--attacks"]) == 0
    capsys.readouterr()
    places = [str(tmp_path / f"{name}-out") for name in ("naive", "perfect")]
    assert exit_code(["compare", *places, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["flips, verdicts"]["difference"]["value"] == 1.0
    assert found["right, verdicts"]["only_second"] == 2  # of two prompts
    assert found["flips, demands"]["difference"]["value"] == 0.0
    # without attacks in one of the two, only what both have is compared
    (tmp_path / "perfect-out/attacked.jsonl").unlink()
    assert exit_code(asked(tmp_path, naive=False)) == 0
    capsys.readouterr()
    assert exit_code(["compare", *places, "--json"]) == 0
    assert "flips, verdicts" not in json.loads(capsys.readouterr().out)["metrics"]


def test_families_that_were_trained_on_are_those_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    form = tmp_path / "recipe.toml"
    form.write_text(
        'task = "judge"\n[settings]\ntemplate = "verdict"\nattacks = ["verdicts"]\nattack_share = 0.5\n'
    )
    arguments = [part for part in asked(tmp_path) if part not in ("--template", "verdict")]
    assert exit_code([*arguments, "--form", str(form), "--attacks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["attacks"]
    assert found["trained_on"] == ["verdicts"] and {*found["groups"]} == {"all", "trained", "held_out"}
    assert found["groups"]["trained"]["flips"]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["judge", "--attacked", "3"], "--attacked is 3, but nothing is attacked; add --attacks"),
        (
            ["answers", "--attacks"],
            "the prompts of the task answers show no answers that could be manipulated",
        ),
        (["judge", "--attacks", "--template", "grade"], "grades every answer alone"),
    ],
)
def test_wrong_uses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["evaluate", *arguments, "--limit", "2", "--model", "./nowhere"]) == 2
    assert said in capsys.readouterr().err

"""`smidgen evaluate code` on recorded programs."""

import json
import sys
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing enforces the sandbox here")

ROWS = [
    {
        "task_id": n,
        "text": f"Add {n}.",
        "code": f"def f(x): return x + {n}",
        "test_list": [f"assert f(1) == {n + 1}"],
    }
    for n in (1, 2)
]
RIGHT, WRONG = "```python\ndef f(x): return x + 1\n```", "```python\ndef f(x): return x\n```"


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(tmp_path: Path, said: dict[str, str]) -> list[str]:
    """The arguments of an evaluation of recorded answers."""
    recording = write(tmp_path / "said.jsonl", [{"id": id, "text": text} for id, text in said.items()])
    data = write(tmp_path / "rows.jsonl", ROWS)
    return ["evaluate", "code", "--engine", "replay", "--model", recording, "--data", data]


def test_one_answer_per_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [*asked(tmp_path, {"1": RIGHT, "2": WRONG}), "--out", str(tmp_path / "out"), "--json"]
    assert exit_code(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["pass_at_1"]["value"] == 0.5 and found["metrics"]["pass_at_1"]["n"] == 2
    assert found["details"]["outcomes"] | {"passed": 1, "wrong": 1} == found["details"]["outcomes"]
    assert "pass@1" in (report := (tmp_path / "out/report.html").read_text())
    assert "Of 2 answers: 1 passed, 1 wrong." in report


def test_several_answers_per_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = {"1#1": RIGHT, "1#2": WRONG, "1#3": WRONG, "2#1": WRONG, "2#2": RIGHT, "2#3": "?"}
    form = tmp_path / "form.toml"
    form.write_text('task = "code"\n[settings]\npass_at = [1, 2, 3]\nseconds = 4\n')
    more = ["--answers", "3", "--form", str(form), "--temperature", "0.8", "--json"]
    assert exit_code([*asked(tmp_path, said), *more]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert values == pytest.approx(
        {"pass_at_1": 1 / 6, "pass_at_2": 1 / 3, "pass_at_3": 0.5, "unparsed_rate": 1 / 6}, abs=1e-9
    )
    assert found["variant"] == "4 s 512 MiB" and found["details"]["outcomes"]["wrong"] == 4


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (["--constrained"], "the task code cannot be constrained: its answers are programs"),
        (["--template", "verdict"], "the task code has no setting 'template', which is for judge"),
        (["--answers", "0"], "--answers"),
    ],
)
def test_what_is_refused(more: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code([*asked(tmp_path, {"1": RIGHT, "2": WRONG}), *more]) == 2
    assert fault in (err := " ".join(capsys.readouterr().err.split())) and "Traceback" not in err


@pytest.mark.parametrize("option", [["--unsafe"], ["--answers", "2"]])
def test_options_of_programs_are_for_programs(option: list[str], capsys: pytest.CaptureFixture[str]):
    assert exit_code(["evaluate", "intent", *option]) == 2
    assert ", which is for code" in capsys.readouterr().err


def test_there_are_no_generated_problems(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["evaluate", "code", "--limit", "1"]) == 2
    assert "there are no generated rows for the task 'code'; give a file of rows with --data" in " ".join(
        capsys.readouterr().err.split()
    )

"""`smidgen distill`: the teacher's part of a recipe, with which the rest goes on."""

import json
from pathlib import Path

import pytest
from tests.tools.taught import TAUGHT

from smidgen.cli.app import exit_code

RECIPE = f"""{TAUGHT}[train.lora]
rank = 4
"""


def write_recipe(folder: Path, teacher: str) -> str:
    answers = ["no" if n % 2 else "yes" for n in range(20)]
    rows = [
        {"id": f"r{n}", "split": "test" if n % 5 == 4 else "train", "number": str(n), "answer": answer}
        for n, answer in enumerate(answers)
    ]
    said = [{"id": f"r{n}", "text": "yes" if n < 10 else answer} for n, answer in enumerate(answers)]
    for name, content in (("rows.jsonl", rows), ("said.jsonl", said)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    path = folder / "taught.toml"
    path.write_text(RECIPE.replace("ROWS", str(folder / "rows.jsonl")) + teacher)
    return str(path)


def teacher_of(folder: Path) -> str:
    return f'[teacher]\nmodel = "{folder / "said.jsonl"}"\ncandidates = 1\n'


def test_answers_are_asked_for_and_filtered_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = write_recipe(tmp_path, teacher_of(tmp_path))
    arguments = ["distill", recipe, "--runs", str(tmp_path / "runs"), "--json"]
    assert exit_code(arguments) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)["own"]
    assert (facts["answers"], facts["kept"], facts["rejected"]) == (16, 12, {"wrong": 4})
    run = tmp_path / "runs/taught"
    assert (run / "distilled/kept.jsonl").exists() and not (run / "best").exists()
    assert exit_code(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["own"] == facts and "teach: already done, skipped" in err


def test_a_recipe_without_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = write_recipe(tmp_path, "").replace("taught.toml", "sft.toml")
    Path(recipe).write_text((tmp_path / "taught.toml").read_text().replace('"distill"', '"sft"'))
    assert exit_code(["distill", recipe]) == 2
    assert "has no teacher to ask; add the table [teacher]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_workers_ask_the_teacher_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("ray")
    teacher = '[teacher]\nmodel = "smidgen:nano"\nengine = "mlx"\nconstrained = true\ntemperature = 1.2\n'
    recipe = write_recipe(tmp_path, f"{teacher}candidates = 2\nmax_tokens = 4\nbatch_size = 4\n")
    for name, more in (("one", []), ("ray", ["--ray"])):
        assert exit_code(["distill", recipe, "--runs", str(tmp_path / name), *more]) == 0
    for file in ("teaching/candidates.jsonl", "distilled/kept.jsonl", "distilled/rejected.jsonl"):
        one, shared = ((tmp_path / name / "taught" / file).read_bytes() for name in ("one", "ray"))
        assert one == shared

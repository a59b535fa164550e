"""`smidgen sweep` with real children: one trial works, one fails, and the table has both."""

import json
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code

RECIPE = """
name = "tiny"
task = "intent"
[model]
base = "smidgen:nano"
[data]
train = "{folder}/train.jsonl"
test = "{folder}/test.jsonl"
[train]
batch_size = 8
max_length = 64
validate_every = 1
[train.lora]
rank = 2
[evaluate]
max_tokens = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name, numbers in (("train", range(20)), ("test", range(20, 22))):
        rows = ({"text": f"question {n}?", "intent": ["yes", "no"][n % 2]} for n in numbers)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


@pytest.mark.slow
def test_a_sweep_trains_a_table_of_trials(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["sweep", str(recipe), "--set", "learning_rate=1e-3,1e30", "--runs", str(tmp_path / "runs")]
    assert exit_code([*arguments, "--json"]) == 0
    found, said = capsys.readouterr()
    best, failed = json.loads(found)["trials"]
    assert best["state"] == "done" and best["steps"] == best["planned_steps"] == 3
    assert best["peak_memory_bytes"] > 1e8 and best["tokens_per_second"] > 0 and best["metric"] is not None
    assert failed["state"] == "failed" and "or from the weights" in failed["fault"]
    place = tmp_path / "runs/tiny-sweep/best.toml"
    assert f"the best trial is learning_rate-0.001; run it with `smidgen run {place}`" in said
    assert "learning_rate = 0.001" in place.read_text()
    table = (tmp_path / "runs/tiny-sweep/sweep.md").read_text().splitlines()
    assert table[0].startswith("| learning\\_rate | memory | time |") and len(table) == 4
    assert "failed" in table[3] and "done" in table[2]


def test_bad_settings_are_refused_before_anything_is_written(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for arguments, sentence in (
        ([], "nothing is varied; give keys with their values"),
        (["--set", "rank=-1"], "varied: 'train.lora.rank' is -1"),
        (["--set", "rank=1", "--set", "model.base=smidgen:nona"], "smidgen:nona"),
    ):
        assert exit_code(["sweep", str(recipe), *arguments, "--runs", str(tmp_path / "runs")]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_training_pauses_and_goes_on(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["train", str(recipe), "--runs", str(tmp_path / "runs"), "--json"]
    assert exit_code([*arguments, "--stop-at", "0.5"]) == 0
    found, said = capsys.readouterr()
    assert json.loads(found) == {"paused": True, "steps": 2}
    assert "paused after step 2 of 3; run again to go on" in said
    assert exit_code(arguments) == 0
    assert json.loads(capsys.readouterr().out)["last"]["step"] == 3
    assert exit_code([*arguments, "--stop-at", "1.5"]) == 2
    assert "Must be <= 1" in capsys.readouterr().err

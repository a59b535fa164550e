"""`smidgen train` with `method = "jacobi"`, killed with -9 while it collects and while it learns."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tools import processes
from tests.tools.kill import outputs

from smidgen.cli.app import exit_code
from smidgen.files import read_json

RECIPE = """
name = "guesses"
task = "answers"
[model]
base = "{base}"
[data]
train_limit = 1100
validation_limit = 10
test_limit = 2
[train]
method = "jacobi"
epochs = 0.2
batch_size = 4
max_length = 256
block_size = 8
max_tokens = 24
num_guesses = 2
learning_rate = 1e-3
validate_every = 9
checkpoint_every = 4
"""


@pytest.mark.long
def test_killed_while_it_collects_and_while_it_learns_it_ends_the_same(tmp_path: Path, tiny_model_dir: Path):
    recipe, generator = tmp_path / "recipe.toml", random.Random(5)
    recipe.write_text(RECIPE.format(base=tiny_model_dir), encoding="utf-8")
    assert exit_code(["train", str(recipe), "--runs", str(tmp_path / "whole")]) == 0
    run = tmp_path / "killed/guesses"
    steps = read_json(tmp_path / "whole/guesses/training.json")["steps"]

    def shards() -> int:
        return len(list(run.glob("trajectories/train/shard-*.jsonl")))

    def logged() -> int:
        log = run / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def more(count: Callable[[], int], least: int) -> Callable[[], bool]:
        before = count()
        return lambda: count() >= before + least

    def kill_when(ready: Callable[[], bool], within: float) -> bool:
        child = processes.smidgen(["train", str(recipe), "--runs", str(run.parent)])
        while not ready() and child.is_alive():
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, within))
        child.kill()
        child.join()
        return child.exitcode == -signal.SIGKILL

    assert kill_when((run / "stages/trajectories.begun.json").exists, 0.3)
    collected = [shards()]
    for _ in range(7):
        assert kill_when(more(shards, 1), 0.3)
        collected.append(shards())
    assert collected[-1] >= 7 and not (run / "trajectories/facts.json").exists()
    assert kill_when((run / "stages/train.begun.json").exists, 0.5)
    for _ in range(8):  # a step that was logged after the last checkpoint is done again
        assert kill_when(more(logged, generator.randint(1, 5)), 0.05)
    assert 8 <= logged() < steps
    assert exit_code(["train", str(recipe), "--runs", str(run.parent)]) == 0
    found, expected = outputs(run.parent), outputs(tmp_path / "whole")
    assert found.keys() == expected.keys() and "guesses/trajectories/train/shard-00007.jsonl" in found
    assert [name for name in found if found[name] != expected[name]] == []

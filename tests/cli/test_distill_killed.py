"""`smidgen run` of a distillation, killed with -9 at twenty random moments, ends as if it never had been."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tools import processes
from tests.tools.taught import TAUGHT

from smidgen.cli.app import exit_code
from smidgen.files import read_json

RECIPE = f"""{TAUGHT}epochs = 3.0
batch_size = 8
max_length = 48
checkpoint_every = 3
validate_every = 5
[train.lora]
rank = 4
[teacher]
model = "smidgen:nano"
engine = "mlx"
constrained = true
candidates = 3
temperature = 1.2
max_tokens = 4
batch_size = 4
[evaluate]
max_tokens = 4
baseline_constrained = false
baseline_examples = 0
"""
FILES = (
    "teaching/candidates.jsonl",
    "distilled/kept.jsonl",
    "distilled/rejected.jsonl",
    "distilled/facts.json",
)


def write_recipe(folder: Path) -> Path:
    rows = [
        {
            "id": f"row{n}",
            "split": "test" if n % 10 == 9 else "train",
            "number": str(n),
            "answer": "no" if n % 2 else "yes",
        }
        for n in range(80)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "taught.toml"
    path.write_text(RECIPE.replace("ROWS", str(folder / "rows.jsonl")))
    return path


def results(run: Path) -> dict[str, bytes]:
    """The files that must be equal: what the student learnt from, what became of it, and its answers."""
    found = {name: (run / name).read_bytes() for name in FILES}
    found |= {path.name: path.read_bytes() for path in sorted((run / "best").iterdir())}
    metrics = read_json(run / "evaluations/after/evaluation.json")["metrics"]
    return found | {"metrics": json.dumps(metrics).encode()}


@pytest.mark.long
def test_killed_at_twenty_random_moments_it_ends_as_without(tmp_path: Path):
    recipe, generator = write_recipe(tmp_path), random.Random(11)
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path / "whole")]) == 0
    run = tmp_path / "killed/taught"
    log = run / "teaching/records.jsonl"

    def lines() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def answered(more: int) -> Callable[[], bool]:
        least = lines() + more
        return lambda: lines() >= least

    def begun(stage: str) -> Callable[[], bool]:
        return (run / f"stages/{stage}.begun.json").exists

    def kill_when(ready: Callable[[], bool]) -> bool:
        child = processes.smidgen(["run", str(recipe), "--runs", str(run.parent)])
        while not ready() and child.is_alive():
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.02))
        child.kill()
        child.join()
        return child.exitcode == -signal.SIGKILL

    moments: list[Callable[[], Callable[[], bool]]] = [
        *(lambda stage=stage: begun(stage) for stage in ("data", "teacher")),
        *(lambda: answered(generator.randrange(1, 18)) for _ in range(12)),
        *(lambda stage=stage: begun(stage) for stage in ("keep", "before", "train")),
        lambda: lambda: any((run / "checkpoints").glob("*")),
        *(lambda stage=stage: begun(stage) for stage in ("after", "report")),
    ]
    killed = [kill_when(moment()) for moment in moments]
    assert sum(killed) >= 18  # the last stages may end before their kill
    assert exit_code(["run", str(recipe), "--runs", str(run.parent)]) == 0
    assert results(run) == results(tmp_path / "whole/taught")
    sessions = {json.loads(line)["session"] for line in log.read_text().splitlines()}
    assert len(sessions) >= 12, "the answers were collected in as many attempts"

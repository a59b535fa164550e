"""Sweeps whose trials are played: their losses are known beforehand, and nothing is trained."""

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import read_recipe
from smidgen.errors import ConfigError, WorkError
from smidgen.files import append_jsonl, write_json
from smidgen.pipeline import sweeping
from smidgen.pipeline.events import MessageEvent, result_of
from smidgen.pipeline.sweeping import Sweep, run_sweep
from smidgen.pipeline.trial_process import Ended
from smidgen.pipeline.variations import axes_of, trials_of

TABLE: dict[str, Any] = {
    "name": "judge",
    "task": "judge",
    "data": {"train_limit": 17, "validation_limit": 2, "test_limit": 2},
    "train": {"batch_size": 4, "max_length": 384, "validate_every": 50, "lora": {"rank": 4}},
}
STEPS = 8
PLENTY = 10**12


class Played:
    """Children that write the steps of a training whose validation loss is a number for each rank."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, losses: Mapping[int, float | str]):
        self.losses, self.ran = dict(losses), []
        monkeypatch.setattr(sweeping, "train_trial", self.train)

    def train(self, recipe: Path, runs: Path, log: Path, *, share: float, label: str):
        settings = read_recipe(recipe)
        rank = settings.train.lora.rank  # type: ignore[union-attr]
        self.ran.append((rank, share))
        run, fate = runs / recipe.stem, self.losses[rank]
        if isinstance(fate, str):
            return Ended(fate, "memory" in fate, 5, 1.0)
        metrics = run / "metrics.jsonl"
        done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        for step in range(done + 1, math.ceil(share * STEPS) + 1):
            due = step % settings.train.validate_every == 0 or step == STEPS
            loss = fate + (STEPS - step) if due else None
            row = {"step": step, "loss": 1.0, "validation_loss": loss, "tokens": 10, "seconds": 0.5}
            metric = 1 - loss / 100 if loss is not None and settings.train.metric_every else None  # type: ignore[union-attr]
            append_jsonl(metrics, row | ({} if metric is None else {"metric": metric}))
        if share >= 1:
            write_json(run / "stages/train.json", {"inputs": "", "outputs": {}})
        return Ended("", False, 1000 * rank, 2.0)
        yield  # a generator, as the real one


def sweep_of(folder: Path, ranks: str, **options: Any) -> Sweep:
    axes = axes_of([f"rank={ranks}"], TABLE)
    return Sweep(folder, TABLE, axes, trials_of(TABLE, axes, source="judge.toml"), **options)


def states(sweep: Sweep) -> dict[int, str]:
    return {row.settings["train.lora.rank"]: row.state for row in sweep.ranking}


def test_a_grid_trains_all_and_writes_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played = Played(monkeypatch, {1: 0.5, 2: 0.3, 3: 0.4})
    sweep = result_of(run_sweep(sweep_of(tmp_path, "1,2,3"), available=PLENTY))
    assert played.ran == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert [*states(sweep)] == [2, 3, 1] and {*states(sweep).values()} == {"done"}
    best = sweep.best
    assert best is not None and best.validation_loss == 0.3 and best.metric == pytest.approx(0.997)
    assert (best.steps, best.planned_steps, best.step) == (STEPS, STEPS, STEPS)
    assert (best.peak_memory_bytes, best.seconds, best.tokens_per_second) == (2000, 2.0, 20.0)
    written = tomllib.loads((tmp_path / "best.toml").read_text())
    assert written == {**TABLE, "train": {**TABLE["train"], "lora": {"rank": 2}}}, "only what was varied"
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["best"] == "rank-2" and found["ranked_by"] == "loss" and len(found["trials"]) == 3


def test_halving_keeps_the_better_half_of_each_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played = Played(monkeypatch, {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6})
    sweep = result_of(run_sweep(sweep_of(tmp_path, "1,2,3,4", method="halving"), available=PLENTY))
    assert played.ran == [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.25), (2, 0.5), (3, 0.5), (2, 1.0)]
    assert states(sweep) == {
        2: "done",
        3: "stopped by halving",
        1: "stopped by halving",
        4: "stopped by halving",
    }
    assert [row.steps for row in sweep.ranking] == [8, 4, 2, 2]
    recipe = read_recipe(tmp_path / "rank-2.toml")
    assert recipe.train.validate_every == 2, "so that the first round ends with a validation"
    played.ran.clear()
    again = result_of(run_sweep(sweep_of(tmp_path, "1,2,3,4", method="halving"), available=PLENTY))
    assert played.ran == [] and states(again) == states(sweep)


def test_what_fails_stays_in_the_table_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fates = {1: "step 3: the loss is nan", 2: 0.3, 3: "out of memory"}
    played = Played(monkeypatch, fates)
    events = list(run_sweep(sweep := sweep_of(tmp_path, "1,2,3"), available=PLENTY))
    assert states(sweep) == {2: "done", 1: "failed", 3: "out of memory"}
    assert sweep.rows["rank-1"].fault == "step 3: the loss is nan" and sweep.rows["rank-3"].steps == 0
    said = [event.text for event in events if isinstance(event, MessageEvent)]
    assert "failed: step 3: the loss is nan" in said
    played.ran, played.losses[1] = [], 0.1
    again = result_of(run_sweep(sweep_of(tmp_path, "1,2,3"), available=PLENTY))
    assert played.ran == [(1, 1.0), (3, 1.0)], "a finished trial is not run again"
    assert again.best is not None and again.best.name == "rank-1" and again.rows["rank-1"].fault == ""


def test_a_changed_recipe_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played = Played(monkeypatch, {1: 0.5})
    result_of(run_sweep(sweep_of(tmp_path, "1"), available=PLENTY))
    changed = {**TABLE, "train": {**TABLE["train"], "learning_rate": 0.5}}
    axes = axes_of(["rank=1"], changed)
    trials = trials_of(changed, axes, source="judge.toml")
    result_of(run_sweep(Sweep(tmp_path, changed, axes, trials), available=PLENTY))
    assert played.ran == [(1, 1.0), (1, 1.0)]


def test_a_trial_that_does_not_fit_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played = Played(monkeypatch, {1: 0.5, 2: 0.3})
    with pytest.raises(
        WorkError,
        match=r"none of the 2 trials was trained to the end; .*sweep\.json says why for each, such as: it "
        r"needs \d+ MB of memory, and 1 MB may be used",
    ):
        result_of(run_sweep(sweep := sweep_of(tmp_path, "1,2"), available=10**6))
    assert played.ran == [] and states(sweep) == {1: "does not fit", 2: "does not fit"}
    assert not (tmp_path / "best.toml").exists()


def test_a_metric_that_chooses_the_step_also_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Played(monkeypatch, {1: 0.5, 2: 0.3})
    table = {**TABLE, "train": {**TABLE["train"], "choose": "metric", "metric_every": 4}}
    axes = axes_of(["rank=1,2"], table)
    trials = trials_of(table, axes, source="judge.toml")
    sweep = result_of(run_sweep(Sweep(tmp_path, table, axes, trials), available=PLENTY))
    assert sweep.ranked_by == "metric" and sweep.best is not None and sweep.best.name == "rank-2"
    assert read_recipe(tmp_path / "rank-1.toml").train.metric_every == 4  # type: ignore[union-attr]


def test_halving_needs_to_know_the_steps(tmp_path: Path):
    table = {**TABLE, "data": {"train": str(tmp_path / "none.jsonl"), "test": "world"}}
    axes = axes_of(["rank=1,2"], table)
    trials = trials_of(table, axes, source="judge.toml")
    with pytest.raises(
        ConfigError, match=r"the steps of rank-1 cannot be known before its rows are read; use"
    ):
        result_of(run_sweep(Sweep(tmp_path, table, axes, trials, "halving"), available=PLENTY))

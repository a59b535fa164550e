"""`smidgen sweep`: train variations of a recipe and compare them on the same validation rows.

`grid` trains all of them to the end. `halving` is successive halving (https://arxiv.org/abs/1502.07943): all
are trained for the first part of their steps, the better half goes on to twice as many, and so on. A trial's
learning-rate schedule is that of its whole training, so a survivor is what it would be without a pause.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from smidgen.config import FinetuneConfig, PretrainRecipe, Recipe, parse_recipe, resolved_toml
from smidgen.errors import ConfigError, WorkError
from smidgen.figures.formatting import size
from smidgen.files import read_json, sha256_json, write_json, write_text
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.training import METRICS, chosen_step
from smidgen.pipeline.trial_process import train_trial
from smidgen.pipeline.variations import Axis, Trial, with_settings
from smidgen.runs import Run
from smidgen.training.pretrain import num_steps

RESULT, BEST = "sweep.json", "best.toml"
State = Literal["waiting", "paused", "done", "failed", "out of memory", "does not fit", "stopped by halving"]
Method = Literal["grid", "halving"]


@dataclass
class Row:
    """What is known about one trial; a row of the table.

    Attributes:
        name: its name.
        settings: the varied keys.
        recipe: hash of its recipe.
        state: how far it got.
        fault: why it is not done, one sentence.
        steps: steps trained.
        planned_steps: steps of the whole training; None if unknown.
        step: the step that would be kept.
        validation_loss: its validation loss.
        metric: the task's metric at that step, or at the nearest that was measured.
        tokens_per_second: speed of the training steps.
        seconds: wall-clock time of its processes.
        peak_memory_bytes: their largest memory.
    """

    name: str
    settings: Mapping[str, Any]
    recipe: str
    state: State = "waiting"
    fault: str = ""
    steps: int = 0
    planned_steps: int | None = None
    step: int | None = None
    validation_loss: float | None = None
    metric: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass
class Sweep:
    """A sweep in its folder.

    Attributes:
        folder: its folder, in which every trial has a recipe and a run folder.
        table: the recipe that is varied, as a TOML table.
        axes: the varied keys.
        trials: the variations.
        method: whether bad trials are stopped early.
        rows: one for each trial, in their order.
    """

    folder: Path
    table: Mapping[str, Any]
    axes: Sequence[Axis]
    trials: Sequence[Trial]
    method: Method = "grid"
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def ranked_by(self) -> Literal["loss", "metric"]:
        """What decides which trial is better: what decides in each which step is kept."""
        settings = self.trials[0].recipe.train
        return settings.choose if isinstance(settings, FinetuneConfig) else "loss"

    @property
    def ranking(self) -> list[Row]:
        """The rows, the best first; those that were not trained to the end come last."""
        places = {"done": 0, "paused": 1, "stopped by halving": 1}
        return sorted(self.rows.values(), key=lambda row: (places.get(row.state, 2), self.badness(row)))

    @property
    def best(self) -> Row | None:
        """The best trial that was trained to the end; None if none was."""
        return next((row for row in self.ranking if row.state == "done"), None)

    def badness(self, row: Row) -> float:
        """Return a number that is smaller for a better trial."""
        value = row.metric if self.ranked_by == "metric" else row.validation_loss
        if value is None:
            return math.inf
        return -value if self.ranked_by == "metric" else value

    def to_json(self) -> dict[str, Any]:
        """Return the content of `sweep.json`."""
        return {
            "recipe": self.table["name"],
            "method": self.method,
            "settings": {axis.key: list(axis.values) for axis in self.axes},
            "ranked_by": self.ranked_by,
            "trials": [asdict(row) for row in self.ranking],
            "best": self.best.name if self.best else None,
        }


def run_sweep(sweep: Sweep, *, available: int) -> Work[Sweep]:
    """Train the trials that are due, and write `sweep.json` after each, a table, and the best recipe.

    Args:
        sweep: the sweep; its folder may hold an earlier attempt, whose finished trials are not run again.
        available: bytes of memory that a trial may take.

    Raises:
        UserError: a trial's recipe or its rows are invalid; nothing has been trained.
        WorkError: no trial could be trained to the end; the table says why for each.
    """
    trials = _prepared(sweep, available)
    with Run(sweep.folder).lock():
        for trial in trials:
            write_text(sweep.folder / f"{trial.name}.toml", trial.toml)
        for share in _shares(sweep, len(trials)):
            for number, trial in enumerate(trials, start=1):
                label = f"{number}/{len(trials)} {trial.name}"
                yield from _train(sweep, trial, share, label)
                write_json(sweep.folder / RESULT, sweep.to_json())
            trials = _survivors(sweep, trials, share)
        write_json(sweep.folder / RESULT, sweep.to_json())
        if sweep.best is None:
            raise WorkError(
                f"none of the {len(sweep.rows)} trials was trained to the end; {sweep.folder / RESULT} says "
                f"why for each, such as: {next(iter(sweep.rows.values())).fault}"
            )
        head = f"# The best of {len(sweep.rows)} trials of `smidgen sweep`, by {sweep.ranked_by}.\n\n"
        best = with_settings(sweep.table, sweep.best.settings)
        write_text(sweep.folder / BEST, head + tomli_w.dumps(best))
    return sweep


def _prepared(sweep: Sweep, available: int) -> list[Trial]:
    """Return the trials that fit, with the settings that a comparison needs, and fill in the rows."""
    found = read_json(sweep.folder / RESULT)["trials"] if (sweep.folder / RESULT).exists() else []
    earlier = {row["name"]: Row(**row) for row in found}
    budgets: Budgets | None = None
    fitting = []
    for trial in sweep.trials:
        context = RunContext(trial.recipe, Run(sweep.folder / trial.name))
        budgets = budgets.changed(trial.recipe) if budgets else Budgets(context)
        needed, steps = budgets.training().budget.needed, _steps_of(budgets)
        made = _comparable(sweep, trial, steps)
        row = Row(trial.name, trial.settings, sha256_json(resolved_toml(made.recipe)), planned_steps=steps)
        if (old := earlier.get(trial.name)) is not None and old.recipe == row.recipe:
            row = old
        if needed > available:
            row.state = "does not fit"
            row.fault = f"it needs {size(needed)} of memory, and {size(available)} may be used"
        else:
            fitting.append(made)
        sweep.rows[trial.name] = row
    return fitting


def _steps_of(budgets: Budgets) -> int | None:
    """Return the optimiser steps of a recipe; None if its rows cannot be read here."""
    recipe = budgets.context.recipe
    if isinstance(recipe, PretrainRecipe):
        return num_steps(recipe.train)
    return budgets.batches.plan.steps if budgets.batches.plan else None


def _comparable(sweep: Sweep, trial: Trial, steps: int | None) -> Trial:
    """Let every round end after a validation, and measure the task's metric wherever there is one.

    What the recipe says about the metric is left as it is.
    """
    settings = trial.recipe.train
    every = settings.validate_every or steps or 0
    if sweep.method == "halving":
        if steps is None:
            raise ConfigError(
                f"the steps of {trial.name} cannot be known before its rows are read; use --method grid"
            )
        every = min(every, math.ceil(steps * _shares(sweep, len(sweep.trials))[0]))
    changes: dict[str, Any] = {"train.validate_every": every}
    given = "metric_every" in trial.table.get("train", {})
    if isinstance(trial.recipe, Recipe) and isinstance(settings, FinetuneConfig) and not given:
        changes["train.metric_every"] = every
    table = with_settings(trial.table, changes)
    return Trial(trial.name, trial.settings, table, parse_recipe(table, source=trial.name))


def _shares(sweep: Sweep, num_trials: int) -> list[float]:
    """Return the share of its steps up to which a trial is trained in each round."""
    if sweep.method == "grid" or num_trials < 2:
        return [1.0]
    rounds = math.ceil(math.log2(num_trials))
    return [2.0 ** (number - rounds) for number in range(rounds + 1)]


def _train(sweep: Sweep, trial: Trial, share: float, label: str) -> Work[None]:
    """Train one trial up to a share of its steps, unless an earlier attempt did."""
    row, run = sweep.rows[trial.name], Run(sweep.folder / trial.name)
    if not _has_reached(row, run, share):
        ended = yield from train_trial(
            sweep.folder / f"{trial.name}.toml",
            sweep.folder,
            sweep.folder / f"{trial.name}.log",
            share=share,
            label=label,
        )
        row.seconds += ended.seconds
        row.peak_memory_bytes = max(row.peak_memory_bytes, ended.peak_bytes)
        row.fault = ended.fault
        if ended.fault:
            row.state = "out of memory" if ended.out_of_memory else "failed"
    if not row.fault:
        row.state = "done" if run.stage_record("train") else "paused"
        yield MessageEvent(trial.name, "trained" if row.state == "done" else f"trained to {share:.0%}")
    else:
        yield MessageEvent(trial.name, f"{row.state}: {row.fault}")
    _read_figures(row, trial, run, share)


def _has_reached(row: Row, run: Run, share: float) -> bool:
    """Whether a trial was trained that far; one that failed is tried again, from its last checkpoint."""
    if row.state in ("waiting", "failed", "out of memory"):
        return False
    if run.stage_record("train"):
        return True
    if share >= 1 or row.planned_steps is None:
        return False
    steps = run.read_jsonl(METRICS)
    return bool(steps) and steps[-1]["step"] >= math.ceil(share * row.planned_steps)


def _read_figures(row: Row, trial: Trial, run: Run, share: float) -> None:
    """Fill in a row from the steps of a trial up to a share of them, so that all are compared alike."""
    steps = run.read_jsonl(METRICS)
    if row.planned_steps is not None:
        steps = [step for step in steps if step["step"] <= math.ceil(share * row.planned_steps)]
    if not steps:
        return
    chosen = chosen_step(trial.recipe, steps)
    measured = [step for step in steps if step.get("metric") is not None]
    nearest = min(measured, key=lambda step: abs(step["step"] - chosen["step"]), default={})
    row.steps, row.step = steps[-1]["step"], chosen["step"]
    row.validation_loss, row.metric = chosen["validation_loss"], nearest.get("metric")
    row.tokens_per_second = sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def _survivors(sweep: Sweep, trials: Sequence[Trial], share: float) -> list[Trial]:
    """Return the trials that go on after a round: the better half, of those that did not fail."""
    alive = [trial for trial in trials if not sweep.rows[trial.name].fault]
    if share >= 1:
        return alive
    ordered = sorted(alive, key=lambda trial: sweep.badness(sweep.rows[trial.name]))
    kept = ordered[: math.ceil(len(trials) / 2)]
    for trial in ordered[len(kept) :]:
        sweep.rows[trial.name].state = "stopped by halving"
    return [trial for trial in trials if trial in kept]

"""The training stage, the same for every method."""

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smidgen.config import (
    AnyRecipe,
    DpoConfig,
    FinetuneConfig,
    GrpoConfig,
    JacobiConfig,
    PretrainRecipe,
    Recipe,
)
from smidgen.data.types import StepResult
from smidgen.errors import Paused, WorkError
from smidgen.evaluation.curve_reading import read_curve
from smidgen.files import content_hash, read_json, sha256_file
from smidgen.models.graph import named_arrays
from smidgen.models.load import resolve
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.data_stage import facts_by_task
from smidgen.pipeline.events import Event, MessageEvent, StepEvent, Work
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.keeping import keeping_names
from smidgen.pipeline.rollout_entry import ROLLOUTS, rollout_entry
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.task_metric import metric_rows, task_metric
from smidgen.pipeline.times import Times
from smidgen.pipeline.tracking import STATE
from smidgen.pipeline.training_figures import TrainingFigures
from smidgen.pipeline.training_job import TrainingJob
from smidgen.pipeline.trajectories import trajectory_names
from smidgen.tracking import tensorboard
from smidgen.training.checkpoint import (
    CHANGEABLE,
    CHANGES,
    FREE_TO_CHANGE,
    Checkpoints,
    changes_in_words,
)
from smidgen.training.loop import Output, train
from smidgen.training.mixing import phase_ends

SUMMARY, METRICS = "training.json", "metrics.jsonl"
CACHES = ("trunk", "teacher", "reference")
"""Folders of what is computed once per row, until the training is finished."""


def training_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the training stage, the same for every method."""
    return [
        Stage(
            "train",
            _train,
            lambda context, probes: probes.training.minutes,
            Budgets.training,
            Times.training,
            needs=("data", *keeping_names(recipe, tasks), *trajectory_names(recipe)),
            tables=("model", "train"),
            inputs=_training_inputs,
            outputs=("best", METRICS, SUMMARY),
            scratch=("checkpoints", *CACHES, CHANGES, STATE, ROLLOUTS, tensorboard.FOLDER),
            entry=_training_entry,
            changeable=frozenset(
                f"train.{name}" for name in CHANGEABLE | FREE_TO_CHANGE if hasattr(recipe.train, name)
            ),
        )
    ]


def _training_inputs(context: RunContext) -> Mapping[str, Any]:
    """Return the content of the files that the recipe names, since a name does not say what is in them."""
    settings, start = context.recipe.train, context.lora and context.lora.start
    found = {"start": content_hash(Path(start).expanduser())} if start else {}
    if isinstance(settings, GrpoConfig):
        files = {part.name.rpartition(":")[0] for part in settings.rewards} - {""}
        found |= {"rewards": {file: sha256_file(Path(file).expanduser()) for file in sorted(files)}}
    if (teacher := context.logit_teacher) is None:
        return found
    adapter = {} if teacher.adapter is None else {"teacher_adapter": content_hash(Path(teacher.adapter))}
    return {**found, "teacher": content_hash(resolve(teacher.model)), **adapter}


def _train(context: RunContext) -> Work[None]:
    """Train, resuming from the last checkpoint."""
    context.group.start_together()
    job = prepare_training(context)
    for cache in job.caches:
        cache.open(context.run.path(cache.name))
    if context.from_checkpoint:
        checkpoints = Checkpoints(context.run.folder, context.recipe.train, job.batches.num_steps)
        if changes := checkpoints.accept_changes():
            yield MessageEvent("train", changes)
    metric, num_steps = task_metric(context, job.loaded), job.batches.num_steps
    figures = TrainingFigures(num_steps, by_metric=metric is not None and metric.decides)
    pause = _pause(context, num_steps)
    started, is_first = time.monotonic(), True
    resumed = context.run.path("checkpoints").exists()
    if job.begin is not None and (said := job.begin(resumed=resumed)):
        yield MessageEvent("train", said)
    for result in train(
        job.model,
        job.objective,
        job.batches,
        context.recipe.train,
        output=Output(context.run.folder, job.save),
        validation=job.validation,
        metric=metric,
        stop_after=pause,
        group=context.group,
    ):
        if is_first:  # those of an earlier attempt, which end at its checkpoint
            for row in context.run.read_jsonl(METRICS)[:-1]:
                yield StepEvent("train", row["step"], num_steps, is_new=False, values=figures.add(row))
        is_first = False
        values = figures.add(result.to_json())
        yield StepEvent("train", result.step, num_steps, tokens=result.tokens, values=values)
        yield from _watched(context, job, result, num_steps)
    reached = context.run.read_jsonl(METRICS)[-1]["step"]
    if pause <= reached < num_steps:
        raise Paused(f"paused after step {reached} of {num_steps}; run again to go on")
    if reading := _reading(context, num_steps):
        yield MessageEvent("train", reading)
    for cache in job.caches:
        shutil.rmtree(context.run.path(cache.name), ignore_errors=True)
    counts = {
        name: sum(array.size for array in named_arrays(tree).values())
        for name, tree in (
            ("parameters", job.model.parameters()),
            ("trained_parameters", job.model.trainable_parameters()),
        )
    }
    context.run.write_json(
        SUMMARY,
        {
            "plan": asdict(job.plan) if job.plan else None,
            **({} if job.cut_rows is None else {"cut_rows": job.cut_rows}),
            **counts,
            "steps": num_steps,
            "seconds": time.monotonic() - started,
            "last": context.run.read_jsonl(METRICS)[-1],
        },
    )


def _watched(context: RunContext, job: TrainingJob, result: StepResult, num_steps: int) -> Iterator[Event]:
    """Yield what the method tells after a step.

    A step that it refuses leaves no checkpoint, nor do the weights it began with, which gave its figures.

    Raises:
        WorkError: the step is refused.
    """
    if job.watch is None:
        return
    try:
        for sentence in job.watch(result):
            yield MessageEvent("train", sentence)
    except WorkError:
        checkpoints = Checkpoints(context.run.folder, context.recipe.train, num_steps)
        for step in (result.step, result.step - 1):
            checkpoints.discard(step)
        raise


def _pause(context: RunContext, num_steps: int) -> int:
    """Return the step after which this run stops."""
    return math.ceil(context.train_share * num_steps)


def _reading(context: RunContext, num_steps: int) -> str:
    """Return what the curves say, as the report does."""
    steps = context.run.read_jsonl(METRICS)
    return read_curve(
        [(step["step"], step["loss"]) for step in steps],
        [(step["step"], loss) for step in steps if (loss := step["validation_loss"]) is not None],
        chosen_step=chosen_step(context.recipe, steps)["step"],
        planned_steps=num_steps,
    )


def help_training(context: RunContext) -> None:
    """Do the share of a process that does not lead, if there is a training; nothing is written that lasts."""
    if not context.group.is_needed():
        return
    job = prepare_training(context)
    with TemporaryDirectory(prefix="smidgen-caches-") as folder:
        for cache in job.caches:
            cache.open(Path(folder) / cache.name)
        for _ in train(
            job.model,
            job.objective,
            job.batches,
            context.recipe.train,
            validation=job.validation,
            metric=task_metric(context, job.loaded),
            stop_after=_pause(context, job.batches.num_steps),
            group=context.group,
        ):
            pass


def _training_entry(context: RunContext) -> Mapping[str, Any]:
    summary, lora = read_json(context.run.path(SUMMARY)), context.lora
    steps = context.run.read_jsonl(METRICS)
    validated = [step for step in steps if step["validation_loss"] is not None]
    measured = [step for step in steps if step.get("metric") is not None]
    chosen = chosen_step(context.recipe, steps)
    seconds = sum(step["seconds"] for step in steps)
    return {
        "model": {
            **_base(context.recipe),
            "parameters": summary["parameters"] - (summary["trained_parameters"] if lora else 0),
            "trained_parameters": summary["trained_parameters"],
            "method": _method_name(context),
            "path": "best",
        },
        "data": _data_entry(context, summary),
        "training": {
            "steps": len(steps),
            "epochs": steps[-1]["epoch"],
            "chosen_step": chosen["step"],
            "chosen_by": _chooses_by(context.recipe),
            "planned_steps": summary["steps"],
            "seconds": seconds,
            "tokens_per_second": sum(step["tokens"] for step in steps) / seconds,
            "curve": [{"step": step["step"], "loss": step["loss"]} for step in steps],
            "validation": [{"step": step["step"], "loss": step["validation_loss"]} for step in validated],
            "sources": _source_losses(steps),
            "phases": _phases(context.recipe),
            **_metric_entry(context, measured),
            **rollout_entry(context.run, steps),
            "changes": [changes_in_words(**row) for row in context.run.read_jsonl(CHANGES)],
        },
    }


def _source_losses(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the losses of each source of a mix, in the order of their names; empty for a single source."""
    prefix = "loss/"
    metrics = {step["step"]: step.get("metrics", {}) for step in steps}
    keys = {key for found in metrics.values() for key in found if key.startswith(prefix)}

    def curve(key: str) -> list[dict[str, Any]]:
        return [{"step": step, "loss": found[key]} for step, found in metrics.items() if key in found]

    return [
        {"name": key.removeprefix(prefix), "curve": curve(key), "validation": curve(f"validation_{key}")}
        for key in sorted(keys)
    ]


def _phases(recipe: AnyRecipe) -> list[int]:
    """Return the first step of each phase of a pretraining; empty if it has only one."""
    if not isinstance(recipe, PretrainRecipe) or len(recipe.all_phases) == 1:
        return []
    rows = recipe.train.batch_size * recipe.train.gradient_accumulation
    ends = phase_ends(recipe.all_phases, max_length=recipe.train.max_length)
    return [1, *(end // rows + 1 for end in ends[:-1])]


def chosen_step(recipe: AnyRecipe, steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of `metrics.jsonl` whose weights are kept in `best/`, as the training chose it."""
    by_metric = _chooses_by(recipe) == "metric"
    found = [step for step in steps if step.get("metric" if by_metric else "validation_loss") is not None]

    def badness(step: Mapping[str, Any]) -> tuple[float, float]:
        loss = step["validation_loss"]
        return -step["metric"] if by_metric else 0.0, math.inf if loss is None else loss

    return min(found, key=badness, default=steps[-1])


def _chooses_by(recipe: AnyRecipe) -> str:
    return recipe.train.choose if isinstance(recipe.train, FinetuneConfig) else "loss"


def _metric_entry(context: RunContext, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the curve of the task's metric, with its name and number of rows; empty for none."""
    if not measured:
        return {}
    name = next(name for name in measured[0]["metrics"] if name.startswith("task_")).removeprefix("task_")
    return {
        "metric_name": name,
        "metric_rows": metric_rows(context),
        "metric": [{"step": step["step"], "value": step["metric"]} for step in measured],
    }


def _base(recipe: AnyRecipe) -> dict[str, Any]:
    thinking = isinstance(recipe, Recipe) and recipe.model.thinking
    return {"base": recipe.model.base or "random weights", "thinking": thinking}


def _method_name(context: RunContext) -> str:
    """Say what is trained, and on what besides the text."""
    if (teacher := context.logit_teacher) is not None:
        return f"{_trained_weights(context)}, taught by {teacher.model}"
    if isinstance(context.recipe.train, DpoConfig):
        return f"{_trained_weights(context)}, on preferences"
    if isinstance(context.recipe.train, JacobiConfig):
        return f"{_trained_weights(context)}, on Jacobi trajectories"
    if isinstance(context.recipe.train, GrpoConfig):
        return f"{_trained_weights(context)}, on rewards of its own answers"
    if context.recipe.teacher is not None:
        return f"{_trained_weights(context)}, on answers of {context.teacher.model}"
    return _trained_weights(context)


def _trained_weights(context: RunContext) -> str:
    if (lora := context.lora) is not None:
        kind = ("rsLoRA" if lora.rslora else "LoRA") + ("+" if lora.plus > 1 else "")
        start = f", from {lora.start}" if lora.start else ""
        return f"{kind} rank {lora.rank}, alpha {lora.alpha:g}{start}"
    return "full fine-tuning" if isinstance(context.recipe, Recipe) else "pretraining"


def _data_entry(context: RunContext, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return row and token counts; empty for a document stream, which has no plan."""
    if summary["plan"] is None:
        return {}
    facts = facts_by_task(context)
    return {
        "train_rows": summary["plan"]["rows"],
        "train_tokens": summary["plan"]["tokens"],
        "trained_tokens": summary["plan"]["trained_tokens"],
        "cut_rows": summary["cut_rows"],
        "test_rows": sum(found.data["test"].rows for found in facts.values()),
    }

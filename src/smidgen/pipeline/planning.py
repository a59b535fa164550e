"""`smidgen run --dry-run`: rows, tokens, steps, minutes and memory, estimated before any stage starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.files import is_url
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.runner import check


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan.

    Attributes:
        name: name of the stage.
        minutes: its time, estimated from measurements.
        memory_bytes: its peak memory, computed from the settings (`smidgen plan`).
    """

    name: str
    minutes: float
    memory_bytes: int


@dataclass(frozen=True)
class RunPlan:
    """Estimated cost of running a recipe.

    Attributes:
        recipe: name of the recipe.
        training: rows, tokens, steps and padding, as `TrainingEstimate.to_json` returns them.
        evaluation: number of test rows, and of answers in one evaluation.
        stages: estimates of the stages, in order.
        minutes: sum over all stages.
        peak_memory_bytes: maximum over all stages.
        measured_memory_bytes: peak memory of the measurements, which run no whole stage.
        notes: what the estimates leave out, one sentence each.
    """

    recipe: str
    training: dict[str, Any]
    evaluation: dict[str, int]
    stages: list[PlannedStage]
    minutes: float
    peak_memory_bytes: int
    measured_memory_bytes: int
    notes: list[str]


def plan_run(context: RunContext) -> RunPlan:
    """Estimate time and memory of a recipe from short measurements; writes nothing.

    Raises:
        UserError: the recipe or its rows are invalid.
    """
    check(context)
    probes, budgets = Probes(context), Budgets(context)
    training = probes.training.to_json()
    stages = [
        PlannedStage(stage.name, stage.minutes(context, probes), stage.budget(budgets).budget.peak)
        for stage in stages_of(context)
    ]
    return RunPlan(
        recipe=context.recipe.name,
        training=training,
        evaluation={
            "rows": sum(len(task.test_rows) for task in context.tasks),
            "answers": sum(len(task.test_samples) for task in context.tasks),
        },
        stages=stages,
        minutes=sum(stage.minutes for stage in stages),
        peak_memory_bytes=max(stage.memory_bytes for stage in stages),
        measured_memory_bytes=probes.memory_bytes,
        notes=_notes(context),
    )


def _notes(context: RunContext) -> list[str]:
    teacher = context.recipe.teacher
    asked = [] if teacher is None else [teacher, *([teacher.judge] if teacher.judge else [])]
    start = context.lora and context.lora.start
    missing = start and not Path(start).expanduser().exists()
    return ([f"train.lora.start: {start} does not exist yet"] if missing else []) + [
        f"the time of {one.name} is not in it: a plan asks no server; `smidgen plan` counts the requests"
        for one in asked
        if is_url(one.model)
    ]

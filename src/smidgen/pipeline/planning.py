"""`smidgen run --dry-run`: rows, tokens, steps, minutes and memory, asked of the stages before they start."""

from dataclasses import dataclass
from typing import Any

from smidgen.pipeline.context import RunContext
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.runner import check


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan, with the minutes and the memory in bytes that it is estimated to take."""

    name: str
    minutes: float
    memory_bytes: int


@dataclass(frozen=True)
class RunPlan:
    """What a recipe is going to take.

    Attributes:
        recipe: its name.
        training: the figures of the training: rows, tokens, steps, padding.
        evaluation: test rows, and answers of one evaluation.
        stages: in order.
        minutes: of all stages.
        peak_memory_bytes: the most that a stage is estimated to take.
    """

    recipe: str
    training: dict[str, Any]
    evaluation: dict[str, int]
    stages: list[PlannedStage]
    minutes: float
    peak_memory_bytes: int


def plan_run(context: RunContext) -> RunPlan:
    """Measure what a recipe is going to take; nothing is written.

    Raises:
        UserError: something about the recipe or its rows is wrong.
    """
    check(context)
    probes = Probes(context)
    training = probes.training
    stages = [PlannedStage(stage.name, *stage.estimate(context, probes)) for stage in stages_of(context)]
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
    )

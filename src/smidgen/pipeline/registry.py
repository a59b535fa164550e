"""The stages of a recipe, in order; every kind of stage is one entry of `KINDS`."""

from collections.abc import Callable

from smidgen.config import AnyRecipe, Recipe
from smidgen.pipeline.asking import PLAIN, Asking
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.data_stage import data_stages
from smidgen.pipeline.decoding import decoding_stages
from smidgen.pipeline.evaluating import BASE, evaluation_stage
from smidgen.pipeline.exporting import exporting_stages
from smidgen.pipeline.keeping import keeping_stages
from smidgen.pipeline.quantizing import quantizing_stages
from smidgen.pipeline.reporting import report_stage
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.teaching import teaching_stages
from smidgen.pipeline.training import training_stages
from smidgen.pipeline.trajectories import trajectory_stages

Tasks = tuple[TaskContext, ...]


def _base_evaluations(recipe: AnyRecipe, tasks: Tasks) -> list[Stage]:
    """Return the evaluations of the base model on every task, asked in every way."""
    return [
        evaluation_stage(name, task, lambda context: context.base_engine, needs=("data",), asking=asking)
        for name, asking in _ways_to_ask(recipe).items()
        for task in tasks
    ]


def _ways_to_ask(recipe: AnyRecipe) -> dict[str, Asking]:
    """Return the evaluations of the base model by name."""
    if not isinstance(recipe, Recipe):
        return {}
    ways = {BASE: PLAIN}
    if recipe.evaluate.baseline_constrained:
        ways["base_constrained"] = Asking(constrained=True)
    if recipe.evaluate.baseline_examples:
        ways["base_examples"] = Asking(examples=recipe.evaluate.baseline_examples)
    return ways


def _trained_evaluations(recipe: AnyRecipe, tasks: Tasks) -> list[Stage]:
    """Return the evaluations of the trained model on every task, by every method of the task."""
    needs = ("data", "train")
    attacked = recipe.evaluate.attacked if isinstance(recipe, Recipe) else 0
    generating = [
        evaluation_stage(
            "after",
            task,
            lambda context: context.trained_engine,
            needs=needs,
            asking=Asking(attacked=attacked or None),
            compared_with=tuple(_ways_to_ask(recipe)),
        )
        for task in tasks
    ]
    return generating + [
        evaluation_stage(
            method,
            task,
            lambda context: context.trained_engine,
            needs=needs,
            method=method,
            compared_with=("after",),
        )
        for task in tasks
        for method in task.blank.methods[1:]
    ]


KINDS: tuple[Callable[[AnyRecipe, Tasks], list[Stage]], ...] = (
    data_stages,
    teaching_stages,
    keeping_stages,
    trajectory_stages,
    _base_evaluations,
    training_stages,
    _trained_evaluations,
    decoding_stages,
    quantizing_stages,
    exporting_stages,
)


def stages_of(context: RunContext) -> list[Stage]:
    """Return the stages of a recipe in order; the report comes last and needs all the others."""
    stages = [stage for kind in KINDS for stage in kind(context.recipe, context.tasks)]
    return [*stages, report_stage(stages)]

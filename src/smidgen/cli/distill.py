"""`smidgen distill`: only the teacher's part of a recipe, so that another machine can ask it than trains."""

from pathlib import Path

from smidgen.cli.console import follow, print_json
from smidgen.cli.parameters import Json, RecipeFile, RunsFolder
from smidgen.cli.workers import RayOptions
from smidgen.errors import ConfigError


def distill(
    recipe: RecipeFile,
    /,
    *,
    ray: RayOptions = RayOptions(),
    runs: RunsFolder = Path("runs"),
    json: Json = False,
) -> None:
    """Ask the teacher of a recipe for its answers and filter them; `smidgen run RECIPE` goes on."""
    from smidgen.config import read_recipe
    from smidgen.pipeline import RunContext, run_recipe
    from smidgen.pipeline.keeping import distillation_facts, keeping_names
    from smidgen.runs import Run

    settings = read_recipe(recipe)
    if settings.teacher is None:
        raise ConfigError(f"{recipe} has no teacher to ask; add the table [teacher], or use `smidgen run`")
    context = RunContext(settings, Run(runs / settings.name), workers=ray.workers_of())
    follow(run_recipe(context, only=keeping_names(settings, context.tasks)))
    if json:
        print_json(
            {task.name or task.blank.name: distillation_facts(context, task) for task in context.tasks}
        )

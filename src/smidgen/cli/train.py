"""`smidgen train`: only the training of a recipe, resumable at any time."""

from pathlib import Path

from smidgen.cli.console import duration, follow, print_json, say
from smidgen.cli.parameters import Json, RecipeFile, RunsFolder


def train(recipe: RecipeFile, /, *, runs: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Train the model of a recipe, resuming from the last checkpoint in its run folder."""
    from smidgen.config import read_recipe
    from smidgen.files import read_json
    from smidgen.pipeline import RunContext, run_recipe
    from smidgen.runs import Run

    settings = read_recipe(recipe)
    context = RunContext(settings, Run(runs / settings.name))
    follow(run_recipe(context, only=("data", "train")))
    summary = read_json(context.run.path("training.json"))
    if json:
        print_json(summary)
    else:
        say(f"{context.best}: best checkpoint of {summary['steps']} steps, {duration(summary['seconds'])}")

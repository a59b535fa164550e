"""`smidgen train`: only the training of a recipe, resumable at any time."""

from pathlib import Path

from smidgen.cli.console import duration, follow, print_json, say
from smidgen.cli.parameters import Json, RecipeFile, RunsFolder
from smidgen.errors import WorkError


def train(recipe: RecipeFile, /, *, runs: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Train the model of a recipe, resuming from the last checkpoint in its run folder.

    `mlx.launch -n 2 -- smidgen train RECIPE` shares the rows of every step between two processes.
    """
    from smidgen.config import read_recipe
    from smidgen.files import read_json
    from smidgen.pipeline import RunContext, help_training, run_recipe
    from smidgen.runs import Run
    from smidgen.training.process_group import ProcessEnded, join_processes

    group = join_processes()
    settings = read_recipe(recipe)
    context = RunContext(settings, Run(runs / settings.name), group=group)
    try:
        if not group.leads:
            return help_training(context)
        try:
            follow(run_recipe(context, only=("data", "train")))
        finally:
            group.dismiss()
    except ProcessEnded as error:
        raise WorkError(
            f"process {group.rank + 1} of {group.size}: {error}; run the same command again to resume from "
            f"the last checkpoint in {context.run.folder}"
        ) from None
    summary = read_json(context.run.path("training.json"))
    if json:
        print_json(summary)
    else:
        say(f"{context.best}: best checkpoint of {summary['steps']} steps, {duration(summary['seconds'])}")

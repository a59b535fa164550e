"""`smidgen train`: only the training of a recipe, resumable at any time."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from smidgen.cli.console import duration, follow, print_json, say
from smidgen.cli.parameters import Json, RecipeFile, RunsFolder
from smidgen.errors import WorkError


def train(
    recipe: RecipeFile,
    /,
    *,
    stop_at: Annotated[
        float,
        Parameter(
            validator=Number(gt=0, lte=1),
            help="Pause after this share of the steps, such as 0.25, with a checkpoint; the same command "
            "without it goes on as if there had been no pause.",
        ),
    ] = 1.0,
    from_checkpoint: Annotated[
        bool,
        Parameter(
            help="Go on from the last checkpoint of an unfinished training although its learning rate, "
            "schedule, weight decay or gradient clipping has changed; the report says so. Without it, a "
            "changed training starts over."
        ),
    ] = False,
    runs: RunsFolder = Path("runs"),
    json: Json = False,
) -> None:
    """Train the model of a recipe, resuming from the last checkpoint in its run folder.

    `mlx.launch -n 2 -- smidgen train RECIPE` shares the rows of every step between two processes.
    """
    from smidgen.config import read_recipe
    from smidgen.errors import Paused
    from smidgen.files import read_json
    from smidgen.pipeline import RunContext, help_training, run_recipe
    from smidgen.runs import Run
    from smidgen.training.process_group import ProcessEnded, join_processes

    group = join_processes()
    settings = read_recipe(recipe)
    run = Run(runs / settings.name)
    context = RunContext(settings, run, train_share=stop_at, from_checkpoint=from_checkpoint, group=group)
    try:
        if not group.leads:
            return help_training(context)
        try:
            follow(run_recipe(context, only=("train",)))
        finally:
            group.dismiss()
    except Paused as pause:
        say(str(pause))
        if json:
            print_json({"paused": True, "steps": context.run.read_jsonl("metrics.jsonl")[-1]["step"]})
        return None
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

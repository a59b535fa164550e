"""`smidgen run`: all stages of a recipe, from data to report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, duration, follow, print_json, print_table, say, size
from smidgen.cli.parameters import Json, PricesFile, RecipeFile, RowsFile, RunsFolder
from smidgen.errors import ConfigError

if TYPE_CHECKING:
    from smidgen.config import AnyRecipe
    from smidgen.pipeline import RunPlan


def run(
    recipe: RecipeFile,
    /,
    *,
    runs: RunsFolder = Path("runs"),
    data: RowsFile = None,
    from_stage: Annotated[
        str | None, Parameter(name="--from", help="Repeat this stage and all later ones, even if done.")
    ] = None,
    prices: PricesFile = None,
    dry_run: Annotated[
        bool,
        Parameter(help="Print the plan with estimates from a few steps and answers, without running it."),
    ] = False,
    json: Json = False,
) -> None:
    """Run a recipe: evaluate, train, evaluate again, quantise, export, evaluate the exports, report."""
    from smidgen.config import read_prices, read_recipe
    from smidgen.evaluation.report import console_tables
    from smidgen.files import read_json
    from smidgen.pipeline import RunContext, plan_run, run_recipe
    from smidgen.runs import Run
    from smidgen.training.process_group import join_processes

    if (processes := join_processes().size) > 1:
        raise ConfigError(
            f"smidgen run was started in {processes} processes, but only training can be shared; start "
            "`smidgen train` with mlx.launch, then `smidgen run` alone for the other stages"
        )
    settings = with_data(read_recipe(recipe), data)
    context = RunContext(settings, Run(runs / settings.name), read_prices(prices))
    if dry_run:
        if from_stage is not None:
            raise ConfigError(
                "--dry-run plans every stage and does not support --from; remove one of the two"
            )
        plan = plan_run(context)
        print_json(plan) if json else show_plan(plan)
        return
    follow(run_recipe(context, from_stage=from_stage))
    report = read_json(context.run.path("report.json"))
    if json:
        print_json(report)
    else:
        from rich.console import Console

        for table in console_tables(report):
            Console().print(table)
        say(f"report: {context.run.path('report.html')}")


def with_data(recipe: "AnyRecipe", data: str | None) -> "AnyRecipe":
    """Return the recipe with its rows replaced by a file.

    Raises:
        ConfigError: the recipe does not have exactly one task.
    """
    if data is None:
        return recipe
    if len(recipe.all_tasks) != 1:
        raise ConfigError("--data requires a recipe with one task; set the files of each task in the recipe")
    sources = recipe.data.model_copy(update={"train": data, "sources": (), "test": data})
    return recipe.model_copy(update={"data": sources})


def show_plan(plan: "RunPlan") -> None:
    """Print a plan as two tables."""
    say(f"{plan.recipe}: plan only, nothing was run")
    print_table([(name, value) for name, value in _training_facts(plan) if value])
    rows = [(stage.name, duration(60 * stage.minutes), size(stage.memory_bytes)) for stage in plan.stages]
    total = ("total", duration(60 * plan.minutes), size(plan.peak_memory_bytes))
    print_table([*rows, total], headers=("stage", "time", "memory, computed"))
    for note in plan.notes:
        say(f"note: {note}")
    say(f"the measurements themselves took {size(plan.measured_memory_bytes)} of memory")


def _training_facts(plan: "RunPlan") -> list[tuple[str, str]]:
    training, evaluation = plan.training, plan.evaluation

    def number(name: str) -> str:
        return count(training[name]) if name in training else ""

    trained: Any = training.get("trained_tokens")
    answers = f"{count(evaluation['rows'])}, {count(evaluation['answers'])} answers per stage"
    return [
        ("training rows", number("rows")),
        ("tokens", number("tokens") + (f", {count(trained)} of them trained on" if trained else "")),
        ("steps", number("steps")),
        ("padding", f"{training['padding']:.0%}" if "padding" in training else ""),
        ("truncated rows", number("cut_rows")),
        ("test rows", answers if evaluation["rows"] else ""),
    ]

"""`smidgen sweep`: train variations of a recipe, and a table of what each costs and gives."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat

from smidgen.cli.console import count, duration, figure, follow, print_json, print_table, say, size
from smidgen.cli.parameters import Json, RecipeFile, RunsFolder

if TYPE_CHECKING:
    from smidgen.pipeline.sweeping import Sweep

WIDTH = 160
"""Columns of the table where no terminal says how many there are."""


def sweep(
    recipe: RecipeFile,
    /,
    *,
    vary: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="A key and its values, such as rank=8,16 or evaluate.max_tokens=64,128; repeat it for other "
            "keys. Keys of [train] and [train.lora] need no table name.",
        ),
    ] = None,
    method: Annotated[
        Literal["grid", "halving"],
        Parameter(
            help="grid trains every combination to the end; halving trains all for a part of their steps, "
            "keeps the better half, doubles the steps, and so on."
        ),
    ] = "grid",
    memory: Annotated[
        PositiveFloat | None,
        Parameter(help="Memory that a trial may use, in 10⁹ bytes; default: 90 % of the device's."),
    ] = None,
    runs: RunsFolder = Path("runs"),
    json: Json = False,
) -> None:
    """Train a recipe with every combination of some settings, and compare memory, time, loss and metric.

    Each trial is a process of its own in the folder `NAME-sweep`; one that fails, does not fit or runs out of
    memory stays in the table. The same command again goes on where it was stopped. Trials are ranked by
    the validation loss, or by the metric if the recipe has `choose = "metric"`; test rows are not used.
    """
    from smidgen.config import parse_recipe, read_toml
    from smidgen.errors import WorkError
    from smidgen.files import write_text
    from smidgen.pipeline.forecast import available_memory
    from smidgen.pipeline.sweeping import BEST, Sweep, run_sweep
    from smidgen.pipeline.variations import axes_of, trials_of

    table = read_toml(recipe, "recipe; see the folder recipes/ for examples")
    name = parse_recipe(table, source=str(recipe)).name
    axes = axes_of(vary or (), table)
    trials = trials_of(table, axes, source=str(recipe))
    asked = Sweep(runs / f"{name}-sweep", table, axes, trials, method)
    available = available_memory() if memory is None else round(memory * 1e9)
    failure = None
    try:
        follow(run_sweep(asked, available=available))
    except WorkError as error:
        failure = error
    if asked.rows:
        write_text(asked.folder / "sweep.md", markdown_table(asked))
        if json:
            print_json(asked.to_json())
        else:
            print_table(cells(asked), headers=headings(asked), width=None if sys.stdout.isatty() else WIDTH)
            for row in asked.ranking:
                if row.fault:
                    say(f"{row.name}: {row.fault}")
    if failure is not None:
        raise failure
    assert asked.best is not None
    place = asked.folder / BEST
    say(f"the best trial is {asked.best.name}; run it with `smidgen run {place}`")


def headings(sweep: "Sweep") -> list[str]:
    """Return the column headings of the table."""
    return [
        *(axis.label for axis in sweep.axes),
        "memory", "time", "tokens/s", "steps", "val. loss", "metric", "state",
    ]  # fmt: skip


def cells(sweep: "Sweep") -> list[list[str]]:
    """Return the table's rows, the best trial first."""
    from smidgen.pipeline.variations import written

    return [
        [
            *(written(row.settings[axis.key]) for axis in sweep.axes),
            size(row.peak_memory_bytes) if row.peak_memory_bytes else "–",
            duration(row.seconds) if row.seconds else "–",
            "–" if row.tokens_per_second is None else count(row.tokens_per_second),
            f"{row.steps:,}/{row.planned_steps:,}" if row.planned_steps else f"{row.steps:,}",
            "–" if row.validation_loss is None else f"{row.validation_loss:.4g}",
            figure(row.metric),
            row.state,
        ]
        for row in sweep.ranking
    ]


def markdown_table(sweep: "Sweep") -> str:
    """Return the table in Markdown."""
    from smidgen.export.markdown import escaped

    names = [*headings(sweep), "why"]
    rows = [[*row, found.fault] for row, found in zip(cells(sweep), sweep.ranking, strict=True)]
    lines = [names, ["---"] * len(names), *rows]
    written = [[cell if cell == "---" else escaped(cell) for cell in row] for row in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in written)

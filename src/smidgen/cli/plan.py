"""`smidgen plan`: memory, disk, time and cost of a recipe before anything starts."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import NormFloat, PositiveFloat, PositiveInt

from smidgen.cli.console import count, duration, print_json, print_table, say, size
from smidgen.cli.parameters import Json, PricesFile, RecipeFile, RowsFile
from smidgen.cli.run import with_data
from smidgen.errors import ConfigError
from smidgen.options import whole

if TYPE_CHECKING:
    from smidgen.pipeline.fitting import Fit
    from smidgen.pipeline.forecast import Forecast
    from smidgen.pipeline.rows_forecast import RowsForecast
    from smidgen.pipeline.teaching_forecast import TeachingForecast


def plan(
    recipe: RecipeFile,
    /,
    *,
    data: RowsFile = None,
    fit: Annotated[
        bool, Parameter(help="Look for the smallest changes that fit into the memory, and print their lines.")
    ] = False,
    memory: Annotated[
        PositiveFloat | None,
        Parameter(help="Memory that may be used, in 10⁹ bytes; default: 90 % of the device's."),
    ] = None,
    rate: Annotated[
        tuple[str, ...],
        Parameter(
            show_default=False,
            help="Tokens per second of the training, if known, by which the other stages are scaled too; "
            "default: from this device's rates, measured in a second. With --rows also "
            "NAME=TOKENS_PER_S[:PRICE_PER_HOUR][xCOUNT], the rate of another machine, prompt and generated "
            "tokens together, as vllm=9000:1.8x8; repeatable.",
        ),
    ] = (),
    rows: Annotated[
        PositiveInt | None,
        Parameter(
            converter=whole,
            help="Also plan the answers to this many rows: time and cost here and on other machines.",
        ),
    ] = None,
    retried: Annotated[
        NormFloat | None,
        Parameter(help="Share of the requests that are asked twice, for --rows; default: 0."),
    ] = None,
    prices: PricesFile = None,
    json: Json = False,
) -> None:
    """Show what a recipe takes, from its settings and rows alone: memory by part and stage, disk, time, cost.

    No weight is read and no step is run: times are estimates from what the stages compute and from this
    device's rates. The exit code is 2 if a stage needs more memory than there is. `smidgen run RECIPE
    --dry-run` measures the time of every stage.
    """
    from smidgen.config import read_prices, read_recipe
    from smidgen.pipeline import RunContext
    from smidgen.pipeline.budgets import Budgets
    from smidgen.pipeline.fitting import fit as find_fit
    from smidgen.pipeline.forecast import available_memory, forecast, refuse_misfit
    from smidgen.pipeline.rows_forecast import AskedRows, parse_rates
    from smidgen.runs import Run

    rates = parse_rates(rate)
    if rows is None and (rates.machines or retried is not None):
        raise ConfigError("--rate NAME=… and --retried are for --rows; give the number of rows")
    settings = with_data(read_recipe(recipe), data)
    budgets = Budgets(RunContext(settings, Run(Path("runs") / settings.name), read_prices(prices)))
    available = available_memory() if memory is None else round(memory * 1e9)
    found = find_fit(budgets, available) if fit else None
    if found is not None:
        budgets = found.budgets
    asked = rows and AskedRows(rows, rates.machines, retried or 0.0)
    expected = forecast(budgets, available=available, rate=rates.training, asked=asked or None)
    if json:
        fitting = {} if found is None else {"changes": found.changes, "change_notes": found.notes}
        print_json(asdict(expected) | {"fits": expected.fits} | fitting)
    else:
        show(expected)
        if expected.rows:
            show_rows(expected.rows)
        if found is not None:
            show_fit(found)
    refuse_misfit(expected)


def show(expected: "Forecast") -> None:
    """Print a forecast: facts, the parts of the training's memory, and the stages."""
    batch, time = expected.batch, expected.time
    share = expected.trained_parameters / expected.parameters
    print_table(
        [
            ("model", f"{count(expected.parameters)} parameters"),
            ("trained", f"{count(expected.trained_parameters)} ({share:.1%} as many)"),
            (
                "largest batch",
                f"{batch['rows']} x {count(batch['length'])} tokens, {count(batch['trained'])} trained",
            ),
            (
                "training",
                f"{duration(time.seconds)} for {count(time.tokens)} tokens at "
                f"{count(time.tokens_per_second)} tokens/s, {time.cost:.2g} {time.currency}"
                if time
                else "unknown without the rows",
            ),
            (
                "all stages",
                f"{duration(expected.seconds)}, {expected.cost:.2g} {expected.currency}"
                if time
                else "unknown without the rows",
            ),
            *([("teacher", teaching_line(expected.teaching))] if expected.teaching else []),
            ("disk", size(expected.disk_bytes)),
            ("memory", f"{size(expected.available_bytes)} may be used ({expected.device})"),
        ]
    )
    print()
    moments = list(expected.training)
    parts = dict.fromkeys(part for moment in moments for part in expected.training[moment])
    rows = [
        (part, *(size(expected.training[moment].get(part, 0)) for moment in moments))
        for part in parts
        if any(expected.training[moment].get(part) for moment in moments)
    ]
    total = ("total", *(size(sum(expected.training[moment].values())) for moment in moments))
    print_table([*rows, total], headers=("memory of the training", *moments))
    print()
    print_table(
        [
            (
                stage.name,
                size(stage.peak_bytes),
                size(stage.disk_bytes),
                "–" if stage.seconds is None else duration(stage.seconds),
            )
            for stage in expected.stages
        ],
        headers=("stage", "peak memory", "disk", "time"),
    )
    for note in expected.notes:
        say(f"note: {note}")


def show_rows(expected: "RowsForecast") -> None:
    """Print time and cost of answering rows, and the assumptions."""
    print()
    print_table(
        [
            (
                place.name if place.count == 1 else f"{place.count} x {place.name}",
                "–" if place.tokens_per_second is None else count(place.tokens_per_second),
                "–" if place.seconds is None else duration(place.seconds),
                "–" if place.cost is None else f"{place.cost:,.2f} {expected.currency}",
                place.source,
            )
            for place in expected.places
        ],
        headers=(f"{expected.rows:,} rows, {expected.task}", "tokens/s", "time", "cost", "rate from"),
    )
    say(
        f"{expected.requests:,} requests of {count(expected.prompt_tokens)} tokens, "
        f"{count(expected.shared_tokens)} of them shared by all, and answers of "
        f"{count(expected.completion_tokens)}: {expected.tokens:,} tokens"
    )
    for assumption in expected.assumptions:
        say(f"assumed: {assumption}")


def teaching_line(teaching: "TeachingForecast") -> str:
    """Describe the requests to a teacher, their tokens and their price."""
    cost = ""
    if teaching.likely_cost is not None and teaching.most_cost is not None:
        cost = f", {teaching.likely_cost:.2g} {teaching.currency} (at most {teaching.most_cost:.2g})"
    elif teaching.is_server:
        cost = ", price unknown: name it as an [[api]] in the file of --prices"
    return (
        f"{count(teaching.requests)} requests, {count(teaching.held_out)} of them for held-out rows; "
        f"{count(teaching.prompt_tokens)} prompt tokens, about {count(teaching.likely_tokens)} generated (at "
        f"most {count(teaching.most_tokens)}){cost}"
    )


def show_fit(found: "Fit") -> None:
    """Print the lines of the recipe to change."""
    print()
    if not found.changes:
        say("it fits as it is")
        return
    print(found.toml)
    for note in found.notes:
        say(f"note: {note}")

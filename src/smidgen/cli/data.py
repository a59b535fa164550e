"""`smidgen data`: files of rows, one command for what is done with them."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import print_json, print_table, say
from smidgen.cli.data_check import check
from smidgen.cli.data_show import show
from smidgen.cli.parameters import Json
from smidgen.errors import counted
from smidgen.options import Seed, whole

data = App(
    name="data",
    help="Check, show, split and mix files of rows.",
    default_parameter=Parameter(negative=()),
)


data.command(check)
data.command(show)


@data.command
def split(
    task: Annotated[str, Parameter(help="The task that reads the rows: judge, intent, math, …")],
    files: Annotated[tuple[Path, ...], Parameter(help="Files of rows, in any of the task's formats.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The JSONL file to write; an existing one is replaced.")],
    test: Annotated[float, Parameter(help="Fraction of each file's prompts that become test rows.")] = 0.2,
    by: Annotated[
        tuple[str, ...],
        Parameter(help="Field whose values are split alike, such as intent or better; repeatable."),
    ] = (),
    per_prompt: Annotated[
        PositiveInt | None,
        Parameter(help="Maximum number of rows with one prompt, drawn at random; default: all."),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Join files into one whose rows have a `split`, train or test; no prompt is in both.

    The rows are written in the task's own format, with the name of their file as `subset`.
    """
    from smidgen.errors import ConfigError
    from smidgen.files import write_jsonl
    from smidgen.tasks import find_task
    from smidgen.tasks.splitting import split_files

    if not 0 < test < 1:
        raise ConfigError(f"--test is {test:g}; expected a fraction between 0 and 1")
    found = split_files(find_task(task), files, test=test, by=by, per_prompt=per_prompt, seed=seed)
    write_jsonl(out, found.rows)
    sides = ("train", "test")
    if json:
        counts = {path.stem: dict.fromkeys(sides, 0) for path in files}
        for (name, *_), number in found.counts.items():
            counts[name] = {side: counts[name][side] + number[side] for side in sides}
        strata = [
            dict(zip(("file", *by), names, strict=True)) | {side: number[side] for side in sides}
            for names, number in found.counts.items()
        ]
        print_json({"out": str(out), "rows": counts} | ({"by": strata} if by else {}))
        return
    print_table(
        [(*names, *(f"{number[side]:,}" for side in sides)) for names, number in found.counts.items()],
        headers=("file", *by, *sides),
    )
    say(f"{out}: {counted(len(found.rows), 'row')}")


@data.command
def mix(
    task: Annotated[str, Parameter(help="The task that reads the rows: judge, intent, math, …")],
    files: Annotated[tuple[Path, ...], Parameter(help="Files of rows, in any of the task's formats.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The JSONL file to write; an existing one is replaced.")],
    weights: Annotated[
        tuple[float, ...],
        Parameter(consume_multiple=True, help="Weight of each file, in their order; default: all equal."),
    ] = (),
    rows: Annotated[
        PositiveInt | None,
        Parameter(converter=whole, help="Number of rows; default: as many as the weights allow, none twice."),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a shuffled mix of files, of which each has the share of its weight; no row is in it twice.

    The rows are written in the task's own format, with the name of their file as `subset`.
    """
    from smidgen.files import write_jsonl
    from smidgen.tasks import find_task
    from smidgen.tasks.splitting import mix_files

    mixed = mix_files(find_task(task), files, weights or (1.0,) * len(files), rows=rows, seed=seed)
    write_jsonl(out, mixed)
    counts = Counter(row["subset"] for row in mixed)
    if json:
        print_json({"out": str(out), "rows": {path.stem: counts[path.stem] for path in files}})
        return
    shares = [(p.stem, f"{counts[p.stem]:,}", f"{counts[p.stem] / len(mixed):.1%}") for p in files]
    print_table(shares, headers=("file", "rows", "share"))
    say(f"{out}: {counted(len(mixed), 'row')}")

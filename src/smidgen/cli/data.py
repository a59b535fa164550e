"""`smidgen data`: files of rows, one command for what is done with them."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from smidgen.cli.console import print_json, print_table, say
from smidgen.cli.data_check import check
from smidgen.cli.parameters import Json
from smidgen.options import Seed

data = App(
    name="data",
    help="Prepare files of rows.",
    default_parameter=Parameter(negative=()),
)


data.command(check)


@data.command
def split(
    task: Annotated[str, Parameter(help="The task that reads the rows: judge, intent, math, …")],
    files: Annotated[tuple[Path, ...], Parameter(help="Files of rows, in any of the task's formats.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The JSONL file to write; an existing one is replaced.")],
    test: Annotated[float, Parameter(help="Fraction of each file's prompts that become test rows.")] = 0.2,
    per_prompt: Annotated[
        int | None, Parameter(help="Maximum number of rows with one prompt, drawn at random; default: all.")
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
    if per_prompt is not None and per_prompt < 1:
        raise ConfigError(f"--per-prompt is {per_prompt}; expected at least 1")
    rows = split_files(find_task(task), files, test=test, per_prompt=per_prompt, seed=seed)
    write_jsonl(out, rows)
    counts = Counter((row["subset"], row["split"]) for row in rows)
    names = [path.stem for path in files]
    if json:
        print_json(
            {
                "out": str(out),
                "rows": {name: {s: counts[name, s] for s in ("train", "test")} for name in names},
            }
        )
        return
    print_table(
        [[name, f"{counts[name, 'train']:,}", f"{counts[name, 'test']:,}"] for name in names],
        headers=["file", "train", "test"],
    )
    say(f"{out}: {len(rows):,} rows")

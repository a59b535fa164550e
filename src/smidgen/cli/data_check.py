"""`smidgen data check`: problems of a dataset, before anything is trained on it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import print_json, print_table, say
from smidgen.cli.data_source import Form, Names, OtherRecipe, Template, read_source
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError, WorkError, counted
from smidgen.options import Model, whole

if TYPE_CHECKING:
    from smidgen.pipeline.data_checks import DataReport

SHOWN_ROWS = 5


def check(
    names: Names = (),
    /,
    *,
    recipe: OtherRecipe = None,
    test: Annotated[
        tuple[Path, ...],
        Parameter(
            help="File of test rows, compared with the others; repeatable. Default: rows of other splits."
        ),
    ] = (),
    model: Annotated[Model | None, Parameter(help="Model whose tokenizer measures the rows.")] = None,
    max_length: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Maximum row length in tokens; needs --model.")
    ] = None,
    template: Template = None,
    form: Form = None,
    json: Json = False,
) -> None:
    """Find what is wrong with training and test rows: their form, repeats, leaks, labels, lengths and texts.

    The exit code is 0 without errors (there may be warnings), 1 with errors, 2 if the rows cannot be checked.
    """
    from smidgen.pipeline.data_checks import check_files, check_recipe
    from smidgen.pipeline.data_lengths import renderer_of

    source = read_source(names, recipe, template=template, form=form)
    if source.context is not None:
        if test or model or max_length:
            given = "--test" if test else "--model" if model else "--max-length"
            raise ConfigError(
                f"{given} does not go with --recipe, which says it itself; leave one of them out"
            )
        reports = check_recipe(source.context)
    else:
        if max_length and not model:
            raise ConfigError("--max-length counts tokens, which needs a tokenizer; add --model")
        renderer = renderer_of(model, max_length) if model else None
        reports = [check_files(source.paths, task=source.task, tests=test, renderer=renderer)]
    errors = sum(report.num_errors for report in reports)
    if json:
        print_json({"errors": errors, "reports": [asdict(report) for report in reports]})
    else:
        for report in reports:
            show(report)
    if errors:
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        raise WorkError(f"the rows have {kinds}, listed above; mend them and check again")


def show(report: "DataReport") -> None:
    """Print what was read, the lengths and the findings."""
    if report.name:
        print(f"{report.name}:")
    for read in report.read:
        form = f"{read['format']}, " if read["format"] else ""
        say(f"{read['path']}: {counted(read['rows'], 'row')} ({form}{read['task']})")
    say(f"{report.train_rows:,} training rows and {report.test_rows:,} test rows checked")
    if (lengths := report.lengths) is not None:
        sizes = {"prompt": lengths.prompt, "completion": lengths.completion}
        print_table(
            [(name, *(f"{n:,}" for n in values)) for name, values in sizes.items() if values],
            headers=("tokens", "median", "95 %", "longest"),
        )
        print()
    if not report.findings:
        print("nothing found")
        return
    cells = [(f.severity, f.kind, f.where, f"{f.message}{_rows(f.ids)}") for f in report.findings]
    print_table(cells, headers=("severity", "what", "where", "found"), is_text=True)


def _rows(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - SHOWN_ROWS:,} more" if len(ids) > SHOWN_ROWS else ""
    return f" ({', '.join(ids[:SHOWN_ROWS])}{more})"

"""`smidgen data show`: training rows with the chat template and the loss mask, in colour."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.console import Console
from rich.text import Text

from smidgen.cli.console import print_json, say
from smidgen.cli.data_source import Form, Names, OtherRecipe, Template, read_source
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError, counted
from smidgen.options import Model, whole

if TYPE_CHECKING:
    from smidgen.pipeline.shown_rows import ShownRow

STYLES = {"learned": "bold green", "cut": "red strike", "context": ""}
MARKS = {"learned": ("⟦", "⟧"), "cut": ("⟨cut: ", "⟩"), "context": ("", "")}
"""What stands around a part where there are no colours."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show(
    names: Names = (),
    /,
    *,
    recipe: OtherRecipe = None,
    rows: Annotated[
        PositiveInt, Parameter(converter=whole, help="Number of rows to show, evenly spaced over the file.")
    ] = 3,
    model: Annotated[
        Model | None,
        Parameter(help="Model whose tokenizer and chat template are used; default: smidgen:nano."),
    ] = None,
    max_length: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Maximum row length in tokens; default: 512.")
    ] = None,
    template: Template = None,
    form: Form = None,
    out: Annotated[Path | None, Parameter(help="HTML page to write, instead of printing the rows.")] = None,
    json: Json = False,
) -> None:
    """Show training rows token for token as they are trained on: what is learned, context, or cut."""
    from smidgen.files import write_text
    from smidgen.pipeline.data_lengths import renderer_of, renderer_of_recipe
    from smidgen.pipeline.shown_rows import page, samples_of_file, samples_of_recipe, shown_rows

    source = read_source(names, recipe, template=template, form=form)
    if source.context is not None:
        if model or max_length:
            given = "--model" if model else "--max-length"
            raise ConfigError(
                f"{given} does not go with --recipe, which says it itself; leave one of them out"
            )
        renderer, samples = renderer_of_recipe(source.context), samples_of_recipe(source.context, rows)
    else:
        renderer = renderer_of(model or "smidgen:nano", max_length)
        samples = [sample for path in source.paths for sample in samples_of_file(path, source.task, rows)]
    found = list(shown_rows(samples, renderer))
    if source.context is not None and (what := NOT_SHOWN.get(source.context.recipe.train.method)):
        say(f"note: {what}")
    if json:
        print_json([asdict(row) for row in found])
    if out is not None:
        note = f"{len(found)} training rows, at most {renderer.config.max_length:,} tokens each."
        write_text(out, page(found, title=f"Training rows of {recipe or names[-1]}", note=note))
        say(f"{out}: {counted(len(found), 'row')}")
    elif not json:
        console = Console()
        for row in found:
            console.print(text_of(row, in_colour=console.is_terminal), soft_wrap=True, highlight=False)


NOT_SHOWN = {
    "dpo": "only the better answer of each pair is shown; the worse one is rendered in the same way",
    "jacobi": "the rows' own answers are shown; the training takes those of the base",
    "distill": "the rows' own answers are shown; the training takes those of the teacher that are kept",
}
"""What is trained on beside the rows that are shown, by method."""


def text_of(row: "ShownRow", *, in_colour: bool) -> Text:
    """Return a row as styled text; without colours, marks stand around what is learned and what is cut."""
    text = Text(f"── {row.id}: ", "bold")
    if row.fault:
        return text.append(f"cannot be trained on: {row.fault}\n", "red")
    text.append(f"{row.counts} tokens\n")
    for kind, part in row.parts:
        before, after = ("", "") if in_colour else MARKS[kind]
        # escape sequences of a row must not reach the terminal
        text.append(f"{before}{_CONTROL.sub('�', part)}{after}", STYLES[kind])
    return text.append("\n")

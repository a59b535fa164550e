"""Options of the command line only: input and output files, and output format.

Options that Python callers set too are in `smidgen.options`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import ArgumentCollection, Parameter, Token, UnknownOptionError

from smidgen.errors import ConfigError

Json = Annotated[bool, Parameter(name="--json", help="Print the result as one JSON object to stdout.")]

RecipeFile = Annotated[Path, Parameter(help="Recipe, a TOML file; see docs/configuration.md.")]

RowsFile = Annotated[
    str | None,
    Parameter(name="--data", help="File of rows to use instead of the recipe's data.train and data.test."),
]

RunsFolder = Annotated[
    Path, Parameter(help="Parent of the run folders; this run's folder has the name of its recipe.")
]


def file_or_stdin(type_: type, tokens: Sequence[Token]) -> Path:
    """Convert a file name or `-`; anything else that begins with a hyphen is an unknown option."""
    if tokens[0].value.startswith("-") and tokens[0].value != "-":
        raise UnknownOptionError(token=tokens[0], argument_collection=ArgumentCollection())
    return Path(tokens[0].value)


@contextmanager
def naming_options(keys: Iterable[str]) -> Iterator[None]:
    """Replace quoted keys of a recipe's table by option names in errors raised inside."""
    quoted = re.compile(f"'({'|'.join(keys)})'")
    try:
        yield
    except ConfigError as error:  # other errors may quote keys of a model's config.json
        sentence = quoted.sub(lambda found: f"--{found[1].replace('_', '-')}", str(error))
        raise ConfigError(sentence) from error


PricesFile = Annotated[
    Path | None,
    Parameter(
        name="--prices", help="TOML file of prices for the cost table; see docs/configuration.md, Prices."
    ),
]


def _check_new_folder(_: object, path: Path) -> None:
    """Check that a folder is new or empty, before any work is done."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError("It already exists; give another folder or remove it first.")


def _check_evaluation_folder(_: object, path: Path | None) -> None:
    """Check that a folder is new, empty or an evaluation to resume, before any work is done."""
    if path is None or not path.exists():
        return
    if not path.is_dir():
        raise ValueError("It is a file; give a folder.")
    names = {entry.name for entry in path.iterdir()}
    if names and names.isdisjoint(("records.jsonl", "evaluation.json", "judge-1")):
        raise ValueError("It is not empty and not an evaluation; give another folder.")


Out = Annotated[Path, Parameter(validator=_check_new_folder, help="New folder to write.")]

EvaluationOut = Annotated[
    Path | None,
    Parameter(
        validator=_check_evaluation_folder,
        help="Output folder for the records and the result; resumes an unfinished evaluation.",
    ),
]

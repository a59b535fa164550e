"""Options of the command line alone: files to read and write, and what is printed.

Those that a Python caller sets too stand in `smidgen.options`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import ArgumentCollection, Parameter, Token, UnknownOptionError

from smidgen.errors import ConfigError

Json = Annotated[
    bool, Parameter(name="--json", help="Print one JSON object to stdout, and nothing else there.")
]

RecipeFile = Annotated[Path, Parameter(help="The recipe, a TOML file; see docs/configuration.md.")]

RunsFolder = Annotated[Path, Parameter(help="Where run folders stand; this run's is the one with its name.")]


def file_or_stdin(type_: type, tokens: Sequence[Token]) -> Path:
    """Read the name of a file, or `-`; anything else that begins with a hyphen is an unknown option."""
    if tokens[0].value.startswith("-") and tokens[0].value != "-":
        raise UnknownOptionError(token=tokens[0], argument_collection=ArgumentCollection())
    return Path(tokens[0].value)


@contextmanager
def naming_options(keys: Iterable[str]) -> Iterator[None]:
    """Call the quoted keys of a recipe's table what they are on the command line, in errors raised inside."""
    quoted = re.compile(f"'({'|'.join(keys)})'")
    try:
        yield
    except ConfigError as error:  # errors about a model's files speak of its config.json
        sentence = quoted.sub(lambda found: f"--{found[1].replace('_', '-')}", str(error))
        raise ConfigError(sentence) from error


PricesFile = Annotated[
    Path | None,
    Parameter(
        name="--prices", help="A TOML file of prices for the cost table; see docs/configuration.md, Prices."
    ),
]


def _empty_place(_: object, path: Path) -> None:
    """Refuse a folder that holds something, before any work is done for it."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError("Something is there already; name another folder or remove it first.")


def _evaluation_place(_: object, path: Path | None) -> None:
    """Refuse what holds something else than an evaluation to go on with, before any work is done for it."""
    if path is None or not path.exists():
        return
    if not path.is_dir():
        raise ValueError("It is a file; name a folder.")
    names = {entry.name for entry in path.iterdir()}
    if names and names.isdisjoint(("records.jsonl", "evaluation.json")):
        raise ValueError("It holds something else than an evaluation; name another folder.")


Out = Annotated[Path, Parameter(validator=_empty_place, help="The new folder to write.")]

EvaluationOut = Annotated[
    Path | None,
    Parameter(
        validator=_evaluation_place,
        help="Folder for the records and the result; a killed evaluation goes on there.",
    ),
]

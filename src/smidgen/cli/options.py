"""Options of the command line alone: files to read and write, and what is printed.

Those that a Python caller sets too stand in `smidgen.options`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import ArgumentCollection, Parameter, Token, UnknownOptionError
from cyclopts.types import NonNegativeFloat, PositiveFloat, PositiveInt

from smidgen.errors import ConfigError
from smidgen.options import whole

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


Engine = Annotated[
    Literal["auto", "mlx", "llama", "http", "replay"],
    Parameter(
        help="What runs the model: MLX, llama.cpp, a server, or replay, which reads recorded answers from "
        "the file given as --model. Told from the model, its size and this machine if not given."
    ),
]

ModelName = Annotated[str | None, Parameter(help="What a server calls the model, if it has several.")]

ApiKeyEnv = Annotated[
    str | None,
    Parameter(
        help="The environment variable of a server's key. If not given, the one in OPENAI_API_KEY is sent, "
        "but only over https and to this machine."
    ),
]

Timeout = Annotated[
    PositiveFloat | None,
    Parameter(help="Seconds that a server's answer may take before it is asked again; 600 if not given."),
]

KvBits = Annotated[
    Literal[8, 4] | None,
    Parameter(
        help="Hold keys and values in so few bits: more or longer rows in the same memory, a bit less exact. "
        "On a CPU this makes the engine mlx several times slower."
    ),
]

Thinking = Annotated[bool, Parameter(show_default=False, help="Let the chat template open a thinking block.")]

Template = Annotated[
    str | None,
    Parameter(
        help="How a judge is asked and read: rubric, unless scores, single, verdict, grade or a TOML file."
    ),
]

Reference = Annotated[
    bool, Parameter(show_default=False, help="Show the judge the right answer that each row holds.")
]

SkipBadRows = Annotated[
    bool, Parameter(show_default=False, help="Leave out rows that cannot be read, and count them.")
]

Limit = Annotated[PositiveInt | None, Parameter(converter=whole, help="Use at most so many items.")]

MaxTokens = Annotated[PositiveInt, Parameter(converter=whole, help="Longest answer in tokens.")]

Temperature = Annotated[NonNegativeFloat, Parameter(help="Sampling temperature; 0 is greedy.")]

Out = Annotated[Path, Parameter(validator=_empty_place, help="The new folder to write.")]

EvaluationOut = Annotated[
    Path | None,
    Parameter(
        validator=_evaluation_place,
        help="Folder for the records and the result; a killed evaluation goes on there.",
    ),
]

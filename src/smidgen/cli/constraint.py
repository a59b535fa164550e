"""What `--schema`, `--regex` and `--choice` ask of an answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smidgen.errors import ConfigError, DataError
from smidgen.files import decode_text

if TYPE_CHECKING:
    from smidgen.data.types import Constraint


@Parameter(name="*")
@dataclass(frozen=True)
class ConstraintOptions:
    """What an answer keeps to; at most one of them."""

    schema: Annotated[Path | None, Parameter(help="A file of a JSON schema, which the answer keeps to.")] = (
        None
    )
    regex: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="A regular expression that the whole answer matches."),
    ] = None
    choice: Annotated[
        tuple[str, ...],
        Parameter(
            allow_leading_hyphen=True, help="A text that may be the answer; give it once for each of them."
        ),
    ] = ()


def read_constraint(options: ConstraintOptions) -> "Constraint | None":
    """Return the constraint that one of the options gives, if any is given.

    Raises:
        ConfigError: there is more than one, or it cannot be enforced.
        DataError: the file of the schema cannot be read.
    """
    from smidgen.data.types import Constraint
    from smidgen.inference.constraints import grammar_of

    schema, regex, choice = options.schema, options.regex, options.choice
    given = {"--schema": schema is not None, "--regex": regex is not None, "--choice": bool(choice)}
    if sum(given.values()) > 1:
        both = " and ".join(name for name, is_given in given.items() if is_given)
        raise ConfigError(f"{both} are given, and an answer keeps to one of them; leave the other out")
    if schema is not None:
        constraint = Constraint("json_schema", _text_of(schema))
    elif regex is not None:
        constraint = Constraint("regex", regex)
    elif choice:
        constraint = Constraint("choices", json.dumps(choice))
    else:
        return None
    grammar_of(constraint)
    return constraint


def check_boxed(constraint: "Constraint | None") -> None:
    """Refuse a constraint under which answers have no box to take anything out of.

    A regular expression may ask for one.

    Raises:
        ConfigError: it is a schema, or a choice has no closed box.
    """
    from smidgen.data.boxed import last_boxed

    if constraint is None or constraint.kind == "regex":
        return
    if constraint.kind == "choices" and all(last_boxed(text) for text in json.loads(constraint.value)):
        return
    option = {"json_schema": "--schema", "choices": "--choice"}[constraint.kind]
    raise ConfigError(f"{option} leaves no place for the box of --extract-boxed; leave one of them out")


def _text_of(path: Path) -> str:
    try:
        return decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the schema {path} cannot be read ({reason}); expected a JSON file") from None

"""Output constraints from `--schema`, `--regex` and `--choice`."""

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
    """The output constraint; at most one of these."""

    schema: Annotated[Path | None, Parameter(help="File with a JSON schema for the answer.")] = None
    regex: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="Regular expression for the whole answer."),
    ] = None
    choice: Annotated[
        tuple[str, ...],
        Parameter(allow_leading_hyphen=True, help="Allowed answer; give it once for each."),
    ] = ()


def read_constraint(options: ConstraintOptions) -> "Constraint | None":
    """Return the constraint given by the options, or None.

    Raises:
        ConfigError: more than one is given, or it cannot be enforced.
        DataError: the schema file cannot be read.
    """
    from smidgen.data.types import Constraint
    from smidgen.inference.constraints import grammar_of

    schema, regex, choice = options.schema, options.regex, options.choice
    given = {"--schema": schema is not None, "--regex": regex is not None, "--choice": bool(choice)}
    if sum(given.values()) > 1:
        both = " and ".join(name for name, is_given in given.items() if is_given)
        raise ConfigError(f"{both} are given; expected at most one constraint, remove the others")
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
    """Check that answers under a constraint can contain a box for `--extract-boxed`.

    Regular expressions are not checked.

    Raises:
        ConfigError: the constraint is a schema, or a choice has no closed box.
    """
    from smidgen.data.boxed import last_boxed

    if constraint is None or constraint.kind == "regex":
        return
    if constraint.kind == "choices" and all(last_boxed(text) for text in json.loads(constraint.value)):
        return
    option = {"json_schema": "--schema", "choices": "--choice"}[constraint.kind]
    raise ConfigError(
        f"--extract-boxed needs a \\boxed{{…}}, which {option} does not guarantee; remove one of the two"
    )


def _text_of(path: Path) -> str:
    try:
        return decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the schema {path} ({reason}); expected a JSON file") from None

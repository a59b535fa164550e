"""The pages that are made from the code: `docs/cli.md` and `docs/configuration.md`.

`make docs` writes them; a test refuses pages that it would write otherwise.
"""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic.fields import FieldInfo

from smidgen.cli.app import app
from smidgen.config import Prices, Recipe, Section
from smidgen.files import write_text

MADE = "<!-- Made by `make docs`; change the code, not this page. -->\n\n"
# What pydantic calls a bound, as a reader would write it.
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "a multiple of {}"}
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def pages() -> dict[str, str]:
    """Every made page, by its name in `docs/`."""
    return {"cli.md": cli_page(), "configuration.md": configuration_page()}


def write_pages(folder: Path) -> None:
    """Write every made page into a folder."""
    for name, text in pages().items():
        write_text(folder / name, text)


def cli_page() -> str:
    """The commands and their options, as `--help` shows them."""
    return MADE + app.generate_docs().strip() + "\n"


def configuration_page() -> str:
    """The tables of a recipe and their keys: what each means, takes and is when it is absent."""
    parts = [
        "# Recipes\n",
        "A recipe is one TOML file that holds the whole life of one specialist: `smidgen run recipe.toml`. "
        "Only `name` has to be there. An unknown key is an error.\n",
    ]
    for name, section, meaning in tables(Recipe):
        parts.append(f"## `[{name}]`\n" if name else "## Top of the file\n")
        parts += _table(section, meaning)
    parts.append(
        "# Prices\n\n"
        "What the cost table of a report reckons with. `--prices FILE` reads them from a TOML file of your "
        "own; every key may be left out.\n"
    )
    for name, section, meaning in tables(Prices, meaning=Prices.__doc__ or ""):
        parts += [f"## `[[{name}]]`\n"] if name else []
        parts += _table(section, meaning)
    return MADE + "\n".join(parts).strip() + "\n"


def _table(section: type[Section], meaning: str) -> list[str]:
    """What a table means, and its keys."""
    keys = [_row(key, field) for key, field in section.model_fields.items() if not section_of(field)]
    return [f"{meaning}\n", "| key | takes | default | meaning |\n|---|---|---|---|", *keys, ""]


def tables(
    section: type[Section], name: str = "", meaning: str = "The specialist and its task."
) -> Iterator[tuple[str, type[Section], str]]:
    """Every table of a recipe with its dotted name and what it means, the outer before the inner."""
    yield name, section, meaning
    for key, field in section.model_fields.items():
        if inner := section_of(field):
            # A table that may be absent is described by when it is there; what it is, its docstring says.
            what = f"{inner.__doc__} {field.description}" if field.default is None else field.description
            yield from tables(inner, f"{name}.{key}" if name else key, what or "")


def section_of(field: FieldInfo) -> type[Section] | None:
    """The table that a key stands for, or None when it is a plain value."""
    alternatives = get_args(field.annotation) or (field.annotation,)
    return next((a for a in alternatives if isinstance(a, type) and issubclass(a, Section)), None)


def _row(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _literal(field.default)
    meaning = " ".join((field.description or "").split())
    return f"| `{key}` | {_type_name(field.annotation)}{_bounds(field)} | {default} | {meaning} |"


def _type_name(annotation: Any) -> str:
    """A type in the words of somebody who writes TOML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(_literal(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not NoneType)
    if origin is tuple:
        many = "list of" if Ellipsis in arguments else f"list of {len(arguments)}"
        return f"{many} {_type_name(arguments[0])}s"
    return TYPES[annotation]


def _bounds(field: FieldInfo) -> str:
    """The bounds on a value, each after a comma."""
    return "".join(
        f", {words.format(f'{getattr(bound, kind):g}')}"
        for bound in field.metadata
        for kind, words in BOUNDS.items()
        if hasattr(bound, kind)
    )


def _literal(value: Any) -> str:
    """A value as it stands in a TOML file."""
    if value is None:
        return "absent"
    text = tomli_w.dumps({"value": list(value) if isinstance(value, tuple) else value})
    return f"`{' '.join(text.removeprefix('value = ').split())}`".replace("[ ", "[").replace(", ]", "]")

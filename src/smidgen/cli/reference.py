"""The pages generated from the code: `docs/cli.md`, `docs/configuration.md` and `docs/attacks.md`.

`make docs` writes them; a test fails if they are out of date.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic.fields import FieldInfo

from smidgen.cli.app import app
from smidgen.config import (
    PhaseConfig,
    PretrainRecipe,
    Prices,
    Recipe,
    RowSourceConfig,
    Section,
    SourceConfig,
    TaskConfig,
    TrainConfig,
    methods,
    sections_of,
)
from smidgen.files import write_text
from smidgen.tasks import TASKS
from smidgen.tasks.judge.attack_page import attacks_page

MADE = "<!-- Made by `make docs`; change the code, not this page. -->\n\n"
REPEATED = (PhaseConfig, RowSourceConfig, SourceConfig, TaskConfig)
"""Tables that a recipe may have several of."""
# pydantic's names of bounds, and how the page shows them.
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "a multiple of {}"}
TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def pages() -> dict[str, str]:
    """Return the generated pages by their name in `docs/`."""
    return {
        "cli.md": cli_page(),
        "configuration.md": configuration_page(),
        "attacks.md": MADE + attacks_page(),
    }


def write_pages(folder: Path) -> None:
    """Write the generated pages to a folder."""
    for name, text in pages().items():
        write_text(folder / name, text)


def cli_page() -> str:
    """Return the page of commands and options, as `--help` shows them."""
    return MADE + app.generate_docs().strip() + "\n"


def configuration_page() -> str:
    """Return the page of the tables and keys of recipes: meaning, type and default of each."""
    parts = [
        "# Recipes\n",
        "A recipe is a TOML file that describes how to train and evaluate one specialist: `smidgen run "
        "recipe.toml`. It needs a `name`, and a `task` or several `[[tasks]]`. An unknown key is an error.\n",
        *_tables(Recipe, "## Top of the file", "The specialist and its task."),
        "# Pretraining recipes\n",
        'A recipe with `method = "pretrain"` in `[train]` trains a model from scratch: `smidgen train '
        "recipe.toml`. It has these tables instead.\n",
        *_tables(PretrainRecipe, "## Top of the file of a pretraining recipe", PretrainRecipe.__doc__ or ""),
        "# Training\n",
        *_training(),
        "# Tasks\n",
        "The keys of `[settings]` for each task that has some.\n",
        *_settings(),
        "# Prices\n\n"
        "The prices used in the cost table of a report. `--prices FILE` reads them from a TOML file; every "
        "key is optional.\n",
        *_tables(Prices, "", Prices.__doc__ or "", brackets="[[{}]]"),
    ]
    return MADE + "\n".join(parts).strip() + "\n"


def _training() -> Iterator[str]:
    """Yield the table `[train]`: keys common to all methods, keys of each method, then nested tables."""
    yield "## `[train]`\n"
    yield from _table(TrainConfig.__doc__ or "", TrainConfig.model_fields)
    inner = {}
    for name, (_, section) in methods().items():
        own = {key: field for key, field in section.model_fields.items() if _is_own(key, field)}
        yield f'## `[train]` with `method = "{name}"`\n'
        yield from _table(section.__doc__ or "", own)
        inner |= {place: (table, what) for place, table, what in list(tables(section, "train"))[1:]}
    for place, (table, what) in inner.items():
        marks = "[[{}]]" if issubclass(table, REPEATED) else "[{}]"
        yield f"## `{marks.format(place)}`\n"
        yield from _table(what, table.model_fields)


def _is_own(key: str, field: FieldInfo) -> bool:
    """Whether a key of a method is not common to all methods, or has another default or meaning there."""
    common = TrainConfig.model_fields.get(key)
    return common is None or (field.default, field.description) != (common.default, common.description)


def _settings() -> Iterator[str]:
    """Yield the table `[settings]` of every task that has settings."""
    for name, task in TASKS.items():
        if task.settings_table.model_fields:
            yield f'## `[settings]` with `task = "{name}"`\n'
            yield from _table(task.settings_table.__doc__ or "", task.settings_table.model_fields)


def _tables(section: type[Section], heading: str, meaning: str, brackets: str = "[{}]") -> Iterator[str]:
    """Yield every table of a settings file except `[train]`, each under its heading."""
    for name, inner, what in tables(section, meaning=meaning):
        if issubclass(inner, TrainConfig) or name.startswith(("train.", "tasks.")):
            continue
        marks = "[[{}]]" if issubclass(inner, REPEATED) else brackets
        title = f"## `{marks.format(name)}`" if name else heading
        yield from [f"{title}\n"] if title else []
        yield from _table(what, inner.model_fields)


def _table(meaning: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return the description of a table, and its keys."""
    meaning = " ".join(meaning.split())
    keys = [_row(key, field) for key, field in fields.items() if not sections_of(field.annotation)]
    if not keys:
        return [f"{meaning}\n"]
    return [f"{meaning}\n", "| key | takes | default | meaning |\n|---|---|---|---|", *keys, ""]


def tables(
    section: type[Section], name: str = "", meaning: str = ""
) -> Iterator[tuple[str, type[Section], str]]:
    """Yield a table and the tables nested in it with their dotted names and descriptions."""
    yield name, section, meaning
    for key, field in section.model_fields.items():
        for inner in sections_of(field.annotation):
            # The description of an optional table says only when to use it; its docstring says what it is.
            what = f"{inner.__doc__} {field.description}" if field.default is None else field.description
            yield from tables(inner, f"{name}.{key}" if name else key, what or "")


def _row(key: str, field: FieldInfo) -> str:
    given = field.get_default(call_default_factory=True)
    default = "required" if field.is_required() else _literal(given if given != {} else None)
    meaning = " ".join((field.description or "").split())
    return f"| `{key}` | {_type_name(field.annotation)}{_bounds(field)} | {default} | {meaning} |"


def _type_name(annotation: Any) -> str:
    """Return the name of a type for readers who write TOML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(_literal(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not NoneType)
    if origin is dict:
        return "a table"
    if origin is tuple:
        many = "list of" if Ellipsis in arguments else f"list of {len(arguments)}"
        return f"{many} {_type_name(arguments[0])}s"
    return TYPES[annotation]


def _bounds(field: FieldInfo) -> str:
    """Return the bounds of a value, each preceded by a comma."""
    return "".join(
        f", {words.format(f'{getattr(bound, kind):g}')}"
        for bound in field.metadata
        for kind, words in BOUNDS.items()
        if hasattr(bound, kind)
    )


def _literal(value: Any) -> str:
    """Return a value in TOML syntax."""
    if value is None:
        return "absent"
    text = tomli_w.dumps({"value": list(value) if isinstance(value, tuple) else value})
    return f"`{' '.join(text.removeprefix('value = ').split())}`".replace("[ ", "[").replace(", ]", "]")

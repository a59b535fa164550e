"""Recipes for the form: the schema of every method, starting points, and TOML ⇄ values."""

import copy
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w

from smidgen.config import methods, parse_recipe
from smidgen.errors import ConfigError, UserError
from smidgen.files import write_text

_QUICK = {
    "epochs": 2.0,
    "batch_size": 8,
    "max_length": 384,
    "learning_rate": 2e-3,
    "validate_every": 10,
    "checkpoint_every": 10,
    "lora": {"rank": 16, "alpha": 32.0},
}
STARTERS: dict[str, dict[str, Any]] = {
    "judge": {
        "title": "A judge of two answers",
        "about": "Which of two answers is better, learnt from rows that say so, and asked in both orders.",
        "recipe": {
            "name": "my-judge",
            "description": "Says which of two answers is better.",
            "task": "judge",
            "settings": {"template": "verdict"},
            "model": {"base": "smidgen:nano"},
            "data": {"train": "", "test": "", "validation_limit": 50},
            "train": {"method": "sft", **_QUICK},
            "evaluate": {"max_tokens": 16},
        },
    },
    "critic": {
        "title": "A judge that gives reasons",
        "about": "Writes its criteria, checks both answers and scores them; on generated rows.",
        "recipe": {
            "name": "my-critic",
            "description": "A judge that writes its criteria, checks both answers and scores them.",
            "task": "judge",
            "model": {"base": "smidgen:nano"},
            "data": {
                "train": "world", "train_limit": 64, "validation_limit": 8, "test": "world", "test_limit": 12,
            },
            "train": {"method": "sft", **_QUICK},
            "evaluate": {"max_tokens": 96},
        },
    },
    "labels": {
        "title": "Sort texts into labels",
        "about": "One column has the text, one the label: tickets into queues, mails into folders.",
        "recipe": {
            "name": "my-sorter",
            "description": "Sorts texts into labels.",
            "task": "own",
            "settings": {"message": "{{ text }}", "gold": "label", "labels": "rows", "metric": "macro_f1"},
            "model": {"base": "smidgen:nano"},
            "data": {"train": "", "test": "", "validation_fraction": 0.1},
            "train": {
                "method": "sft", "epochs": 12.0, "batch_size": 16, "max_length": 96, "learning_rate": 2e-3,
                "weight_decay": 0.1, "dropout": 0.2, "validate_every": 9,
            },
            "evaluate": {"max_tokens": 8},
        },
    },
}  # fmt: skip
"""Small recipes for the bundled model. Their rows are put in by the page; `critic` needs none."""


@cache
def schemas() -> dict[str, Any]:
    """Return the JSON schema of a whole recipe for each training method; the form is made of it."""
    found = {}
    for name, shape in methods().items():
        schema = copy.deepcopy(shape.recipe.model_json_schema())
        schema["properties"]["train"] = {
            "$ref": f"#/$defs/{shape.train.__name__}",
            "description": (shape.train.__doc__ or "").strip(),
        }
        found[name] = schema
    return found


def described(table: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as values and as TOML, with the sentence that says what is wrong with it."""
    table = _without_empty(table)
    try:
        name, error = str(parse_recipe(table, source="the recipe").name), None
    except ConfigError as fault:
        name, error = str(table.get("name", "")), str(fault)
    return {"name": name, "values": table, "toml": tomli_w.dumps(_plain_first(table)), "error": error}


def read_text(text: str) -> dict[str, Any]:
    """Return what `described` does for a recipe that was written as TOML, with its own text and comments.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return described(tomllib.loads(text)) | {"toml": text}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe is not TOML: {error}; mend that line") from None


def save(path: Path, text: str, *, replace: bool) -> None:
    """Write a recipe that is valid; one with other settings is replaced only if that is meant.

    Raises:
        ConfigError: it is invalid, or a different file has its name.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe is not TOML: {error}; mend that line") from None
    parse_recipe(table, source=path.name)
    if path.exists():
        try:
            same = tomllib.loads(path.read_text(encoding="utf-8")) == table
        except (OSError, ValueError):
            same = False
        if same:
            return
        if not replace:
            raise ConfigError(
                f"{path.name} exists and has other settings; name this recipe otherwise, or replace the file"
            )
    write_text(path, text)


def is_recipe(path: Path) -> bool:
    """Whether a TOML file of the workspace looks like a recipe: it has a name and a task or a training."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, UserError):
        return False
    return isinstance(table.get("name"), str) and bool({"task", "tasks", "train"} & table.keys())


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Leave out values that are null or empty texts: in the form, an empty field is one that is not set."""
    kept = {
        key: _without_empty(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None and value != ""
    }
    return kept


def _plain_first(table: dict[str, Any]) -> dict[str, Any]:
    """Put the plain keys before the tables, as TOML is read best."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    return plain | {key: _plain_first(value) for key, value in table.items() if isinstance(value, dict)}

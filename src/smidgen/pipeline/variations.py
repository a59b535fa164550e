"""Variations of a recipe: every combination of some values for some of its keys."""

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import tomli_w

from smidgen.config import AnyRecipe, LoraConfig, methods, parse_recipe
from smidgen.errors import ConfigError, did_you_mean

ADAPTER, TRAIN = "train.lora", "train"


@dataclass(frozen=True)
class Axis:
    """A key of the recipe, such as `train.lora.rank`, with its values."""

    key: str
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """The last part of the key, which heads a column."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Trial:
    """One variation.

    Attributes:
        name: its name, also that of its recipe and its run folder.
        settings: the value of every varied key.
        table: the recipe as a TOML table.
        recipe: the recipe.
    """

    name: str
    settings: Mapping[str, Any]
    table: dict[str, Any]
    recipe: AnyRecipe

    @property
    def toml(self) -> str:
        """The recipe as a TOML file."""
        return tomli_w.dumps(self.table)


def axes_of(given: Sequence[str], table: Mapping[str, Any]) -> list[Axis]:
    """Read axes such as `rank=8,16` or `train.lora.rank=8,16`.

    Args:
        given: one text for each axis. A key of `[train]` or `[train.lora]` may be given by its last part.
        table: the recipe as a TOML table.

    Raises:
        ConfigError: an axis is not a key and values, has no values, or is given twice.
    """
    if not given:
        raise ConfigError(
            "nothing is varied; give keys with their values, such as --set rank=8,16 --set "
            "learning_rate=1e-4,5e-4"
        )
    axes = []
    for text in given:
        key, equals, values = text.partition("=")
        if not (equals and key.strip() and values.strip()):
            raise ConfigError(
                f"--set was given '{text}'; expected a key and its values, such as --set rank=8,16"
            )
        axes.append(Axis(_whole_key(key.strip(), table), _values(values)))
    keys = [axis.key for axis in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"--set was given '{twice}' twice; list all of its values in one --set")
    return axes


def trials_of(table: Mapping[str, Any], axes: Sequence[Axis], *, source: str) -> list[Trial]:
    """Return one trial for each combination of values, the last axis varying fastest.

    Raises:
        ConfigError: a key or a value is not valid in the recipe.
    """
    trials: dict[str, Trial] = {}
    for values in product(*(axis.values for axis in axes)):
        settings = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        name = _unused(_name(axes, values), trials)
        varied = with_settings(table, settings) | {"name": name}
        trials[name] = Trial(name, settings, varied, parse_recipe(varied, source=f"{source}, varied"))
    return list(trials.values())


def with_settings(table: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a recipe's table with some keys set, such as `train.lora.rank`.

    Raises:
        ConfigError: a part of a key is a value, not a table.
    """
    changed = copy.deepcopy(dict(table))
    for key, value in settings.items():
        *path, last = key.split(".")
        place = changed
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set was given '{key}', but '{part}' of the recipe is not a table")
        place[last] = value
    return changed


def _whole_key(key: str, table: Mapping[str, Any]) -> str:
    """Return the whole key for the last part of one of `[train]` or `[train.lora]`."""
    if "." in key:
        return key
    train = table.get("train", {})
    method = train.get("method", "sft") if isinstance(train, dict) else "sft"
    shape = methods().get(method, methods()["sft"])
    known = {name: f"{TRAIN}.{name}" for name in shape.train.model_fields}
    if "lora" in shape.train.model_fields:
        known = {name: f"{ADAPTER}.{name}" for name in LoraConfig.model_fields} | known
    if key not in known:
        hint = did_you_mean(key, known)
        raise ConfigError(
            f"--set was given '{key}', which is no key of [train] or [train.lora].{hint} Give a key of "
            "another table in full, such as evaluate.max_tokens"
        )
    return known[key]


def _values(text: str) -> tuple[Any, ...]:
    """Read values separated by commas as TOML; those that are not TOML are strings."""
    try:
        return tuple(tomllib.loads(f"values = [{text}]")["values"])
    except tomllib.TOMLDecodeError:
        return tuple(_value(part.strip()) for part in text.split(","))


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _name(axes: Sequence[Axis], values: Sequence[Any]) -> str:
    parts = [f"{axis.label}-{written(value)}" for axis, value in zip(axes, values, strict=True)]
    return re.sub(r"[^a-z0-9._-]+", "-", "-".join(parts).lower()).strip("-._")


def written(value: Any) -> str:
    """Write a value for a table or a name; numbers without needless digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number if it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free

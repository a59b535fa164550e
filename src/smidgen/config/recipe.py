"""Recipes: one TOML file holds everything about how one specialist is made and evaluated.

The method in `[train]` decides which tables and keys a recipe has. A new method is one table in a file of its
own, and one line in the union of `Recipe.train`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args

import tomli_w
from pydantic import Field, model_validator

from smidgen.config.base import OneOf, Section, parse_table, read_toml, sections_of
from smidgen.config.data import DataConfig, PretrainDataConfig
from smidgen.config.evaluate import EvaluateConfig
from smidgen.config.export import ExportConfig
from smidgen.config.model import ModelConfig, NewModelConfig
from smidgen.config.pretrain import PretrainConfig
from smidgen.config.quantize import QuantizeConfig
from smidgen.config.sft import SftConfig
from smidgen.config.task import TaskConfig

DEFAULT_METHOD = "sft"


class NamedRecipe(Section):
    """What every recipe has."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the run folder."""
    description: str = ""
    """One sentence for the report."""


class Recipe(NamedRecipe):
    """How a specialist is made of a trained model."""

    task: str | None = None
    """What the model is to do: `judge`, `intent`, `answers`, or `own` for one described in `[settings]`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task; which there are is listed below, under each task."""
    tasks: tuple[TaskConfig, ...] = ()
    """Several tasks that one model learns together, each with its rows, in place of `task` and `[data]`."""
    model: ModelConfig = ModelConfig()
    """The model it starts from."""
    data: DataConfig = DataConfig()
    """What it learns from and is proven on."""
    train: Annotated[SftConfig, OneOf("method", default=DEFAULT_METHOD, elsewhere=("pretrain",))] = (
        SftConfig()
    )
    """How it learns."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How it is proven."""
    quantize: QuantizeConfig | None = None
    """How it is made smaller; skipped when absent."""
    export: ExportConfig | None = None
    """What others load; skipped when absent."""

    @property
    def all_tasks(self) -> tuple[TaskConfig, ...]:
        """Every task with its rows; the only one of a recipe has an empty name."""
        if self.task is None:
            return self.tasks
        alone = {"name": "", "task": self.task, "settings": self.settings, "data": self.data}
        return (TaskConfig.model_construct(**alone),)

    @property
    def seeds(self) -> dict[str, int]:
        """Every seed, by what it decides."""
        return {"data": self.data.seed, "train": self.train.seed, "evaluate": self.evaluate.seed}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.task is None) == (not self.tasks):
            given = "both 'task' and [[tasks]]" if self.tasks else "neither 'task' nor [[tasks]]"
            raise ValueError(f'there is {given}; say what the model is to do once, as task = "judge"')
        if self.tasks and (given := sorted({"settings", "data"} & self.model_fields_set)):
            raise ValueError(f"[{given[0]}] belongs to one task; put it under each of [[tasks]]")
        names = [task.name for task in self.tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two of [[tasks]] have the name '{twice}'; give each its own")
        if self.export is not None and "peft" in self.export.formats and self.train.lora is None:
            raise ValueError('export.formats has "peft", and without [train.lora] there is no adapter')
        return self


class PretrainRecipe(NamedRecipe):
    """How a model is made from nothing."""

    model: NewModelConfig
    """The model it makes."""
    data: PretrainDataConfig = PretrainDataConfig()
    """What it learns from."""
    train: PretrainConfig
    """How it learns."""
    all_tasks: ClassVar[tuple[TaskConfig, ...]] = ()
    quantize: ClassVar[None] = None
    export: ClassVar[None] = None

    @property
    def seeds(self) -> dict[str, int]:
        """Every seed, by what it decides."""
        return {"data": self.data.seed, "train": self.train.seed}

    @model_validator(mode="after")
    def _check(self) -> Self:
        context = self.model.architecture.max_position_embeddings
        if self.train.max_length > context:
            raise ValueError(
                f"train.max_length is {self.train.max_length}, more than the {context} of "
                "max_position_embeddings"
            )
        return self


AnyRecipe = Recipe | PretrainRecipe


class Shape(NamedTuple):
    """What a recipe of one method consists of."""

    recipe: type[AnyRecipe]
    train: type[Section]


@cache
def methods() -> Mapping[str, Shape]:
    """Every method of training, by its name in a recipe."""
    return {
        get_args(train.model_fields["method"].annotation)[0]: Shape(recipe, train)
        for recipe in (PretrainRecipe, Recipe)
        for train in sections_of(recipe.model_fields["train"].annotation)
    }


def read_recipe(path: Path) -> AnyRecipe:
    """Read a recipe and refuse, in one message, everything in it that is wrong.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds an unknown key or a bad value.
    """
    return parse_recipe(read_toml(path, "recipe; see the folder recipes/ for examples"), source=str(path))


def parse_recipe(table: dict[str, Any], *, source: str) -> AnyRecipe:
    """Turn a TOML table into a recipe of the shape that its method has; `source` names it in errors."""
    train = table.get("train")
    method = train.get("method", DEFAULT_METHOD) if isinstance(train, dict) else DEFAULT_METHOD
    shape = methods().get(str(method), methods()[DEFAULT_METHOD])
    return parse_table(shape.recipe, table, source, readers=_readers)


def resolved_toml(recipe: AnyRecipe) -> str:
    """The recipe with every default written out, as TOML."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    table = {key: value for key, value in table.items() if value not in ([], {})}
    table["train"] = {"method": recipe.train.method, **table["train"]}  # first, as it decides what follows
    return tomli_w.dumps(table)


def _readers(path: Sequence[str]) -> str:
    """Which methods read the key at a path."""
    found = [
        f'"{name}"'
        for name, shape in methods().items()
        if (_knows(shape.train, path[1:]) if path[0] == "train" and path[1:] else _knows(shape.recipe, path))
    ]
    return f"Only method = {' or '.join(found)} reads it; leave it out or change the method" if found else ""


def _knows(section: type[Section], path: Sequence[str]) -> bool:
    """Whether a path of keys leads somewhere in a table."""
    field = section.model_fields.get(path[0])
    if field is None or not path[1:]:
        return field is not None
    return any(_knows(inner, path[1:]) for inner in sections_of(field.annotation))

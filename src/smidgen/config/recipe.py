"""Recipes: one TOML file defines how a specialist is trained, evaluated and exported.

The method in `[train]` decides which tables and keys a recipe has. A new method needs a table in a file of
its own and an entry in the union of `Recipe.train`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args

import tomli_w
from pydantic import Field, model_validator

from smidgen.config.base import OneOf, Section, parse_table, read_toml, sections_of
from smidgen.config.data_table import DataConfig, PretrainDataConfig, all_zero, refuse_undrawn
from smidgen.config.distill_table import AskedTeacherConfig, DistillConfig
from smidgen.config.dpo_table import DpoConfig
from smidgen.config.evaluate_table import EvaluateConfig
from smidgen.config.export_table import ExportConfig
from smidgen.config.grpo_table import GrpoConfig
from smidgen.config.jacobi_table import JacobiConfig
from smidgen.config.model_table import ModelConfig, NewModelConfig
from smidgen.config.pretrain_table import PhaseConfig, PretrainConfig
from smidgen.config.quantize_table import QuantizeConfig
from smidgen.config.sft_table import SftConfig
from smidgen.config.task_table import TaskConfig
from smidgen.config.track_table import TrackConfig
from smidgen.errors import did_you_mean

DEFAULT_METHOD = "sft"


class NamedRecipe(Section):
    """Keys of every recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the run folder."""
    description: str = ""
    """One sentence for the report."""
    track: TrackConfig | None = None
    """Experiment trackers; none when absent."""


class Recipe(NamedRecipe):
    """A recipe that fine-tunes a base model into a specialist."""

    task: str | None = None
    """The task: `judge`, `intent`, `answers`, `math`, `code`, `choice`, `preference`, `memorize`,
    `arbitrate`, `classify`, `chat` (conversations, evaluated by how probable the held-out answers are), or
    `own` (`[settings]`)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the task, listed below under each task."""
    tasks: tuple[TaskConfig, ...] = ()
    """Several tasks for one model, each with its own rows; replaces `task` and `[data]`."""
    model: ModelConfig = ModelConfig()
    """The base model."""
    data: DataConfig = DataConfig()
    """Training, validation and test data."""
    train: Annotated[
        SftConfig | DistillConfig | DpoConfig | JacobiConfig | GrpoConfig,
        OneOf("method", default=DEFAULT_METHOD, elsewhere=("pretrain",)),
    ] = SftConfig()
    """The training method and its settings."""
    teacher: AskedTeacherConfig | None = None
    """Required by `method = "distill"`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Settings of the evaluations."""
    quantize: QuantizeConfig | None = None
    """Quantization; skipped when absent."""
    export: ExportConfig | None = None
    """Exports; skipped when absent."""

    @property
    def all_tasks(self) -> tuple[TaskConfig, ...]:
        """Every task with its rows; a recipe's only task has an empty name."""
        if self.task is None:
            return self.tasks
        alone = {"name": "", "task": self.task, "settings": self.settings, "data": self.data}
        return (TaskConfig.model_construct(**alone),)

    @property
    def seeds(self) -> dict[str, int]:
        """Every seed, by its purpose."""
        taught = {"teacher": self.teacher.seed} if self.teacher else {}
        return {"data": self.data.seed, **taught, "train": self.train.seed, "evaluate": self.evaluate.seed}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.task is None) == (not self.tasks):
            given = "both 'task' and [[tasks]]" if self.tasks else "neither 'task' nor [[tasks]]"
            raise ValueError(f'there is {given}; expected exactly one of them, such as task = "judge"')
        if self.tasks and (given := sorted({"settings", "data"} & self.model_fields_set)):
            raise ValueError(f"[{given[0]}] belongs to a single task; move it into each of [[tasks]]")
        names = [task.name for task in self.tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two of [[tasks]] have the name '{twice}'; names must be unique")
        self._check_sources()
        if isinstance(self.train, DistillConfig) != (self.teacher is not None):
            unread = '[teacher] is used by method = "distill" only; set train.method or remove the table'
            lacking = 'method = "distill" needs a table [teacher] with the model to learn from'
            raise ValueError(unread if self.teacher else lacking)
        if self.export is not None and "peft" in self.export.formats and self.train.lora is None:
            raise ValueError(
                'export.formats contains "peft", but without [train.lora] there is no adapter to export; '
                "add [train.lora] or remove the format"
            )
        return self

    def _check_sources(self) -> None:
        """Refuse a mix that no batches are drawn from."""
        if not (mixed := [task for task in self.all_tasks if task.data.sources]):
            return
        advice = "mix the files with `smidgen data mix`, and name the result as 'train'"
        if self.tasks:
            raise ValueError(
                f"the task '{mixed[0].name}' has [[data.sources]], which are for a single task; {advice}"
            )
        if self.train.method != "sft":
            raise ValueError(f'method = "{self.train.method}" does not mix [[data.sources]]; {advice}')


class PretrainRecipe(NamedRecipe):
    """A recipe that pretrains a model, from random weights or from a base model."""

    model: NewModelConfig
    """The model to pretrain."""
    data: PretrainDataConfig = PretrainDataConfig()
    """The pretraining corpus."""
    train: PretrainConfig
    """The training settings."""
    all_tasks: ClassVar[tuple[TaskConfig, ...]] = ()
    teacher: ClassVar[None] = None
    quantize: ClassVar[None] = None
    export: ClassVar[None] = None

    @property
    def seeds(self) -> dict[str, int]:
        """Every seed, by its purpose."""
        return {"data": self.data.seed, "train": self.train.seed}

    @property
    def all_phases(self) -> tuple[PhaseConfig, ...]:
        """The phases, each with the weights of its sources; one phase if the recipe names none."""
        own = {source.name: source.weight for source in self.data.all_sources}
        phases = self.train.phases or (PhaseConfig(tokens=self.train.tokens),)
        return tuple(PhaseConfig(tokens=phase.tokens, weights=phase.weights or own) for phase in phases)

    @model_validator(mode="after")
    def _check(self) -> Self:
        architecture = self.model.architecture
        if architecture and self.train.max_length > architecture.max_position_embeddings:
            raise ValueError(
                f"train.max_length is {self.train.max_length}, more than max_position_embeddings "
                f"({architecture.max_position_embeddings}); lower it or raise max_position_embeddings"
            )
        self._check_phases()
        return self

    def _check_phases(self) -> None:
        """Refuse weights of unknown sources, phases without a source, and sources that no phase draws."""
        names = [source.name for source in self.data.all_sources]
        for number, phase in enumerate(self.all_phases, start=1):
            if unknown := [name for name in phase.weights if name not in names]:
                raise ValueError(
                    f"phase {number} has a weight for '{unknown[0]}', which is not one of [[data.sources]]."
                    f"{did_you_mean(unknown[0], names)} Known: {', '.join(names)}"
                )
            if not any(phase.weights.values()):
                raise ValueError(all_zero(f"phase {number}" if self.train.phases else "[[data.sources]]"))
        refuse_undrawn([{name: phase.weights.get(name, 0.0) for name in names} for phase in self.all_phases])


AnyRecipe = Recipe | PretrainRecipe


class Shape(NamedTuple):
    """The recipe class and the `[train]` table of one training method."""

    recipe: type[AnyRecipe]
    train: type[Section]


@cache
def methods() -> Mapping[str, Shape]:
    """Return every training method, by its name in a recipe."""
    return {
        get_args(train.model_fields["method"].annotation)[0]: Shape(recipe, train)
        for recipe in (PretrainRecipe, Recipe)
        for train in sections_of(recipe.model_fields["train"].annotation)
    }


def read_recipe(path: Path) -> AnyRecipe:
    """Read and validate a recipe; one message lists every fault.

    Raises:
        ConfigError: the file is missing, is not TOML, or contains an unknown key or an invalid value.
    """
    return parse_recipe(read_toml(path, "recipe; see the folder recipes/ for examples"), source=str(path))


def parse_recipe(table: dict[str, Any], *, source: str) -> AnyRecipe:
    """Validate a TOML table as a recipe of the class that its method needs; `source` names it in errors."""
    train = table.get("train")
    method = train.get("method", DEFAULT_METHOD) if isinstance(train, dict) else DEFAULT_METHOD
    shape = methods().get(str(method), methods()[DEFAULT_METHOD])
    return parse_table(shape.recipe, table, source, readers=_methods_using)


def resolved_toml(recipe: AnyRecipe) -> str:
    """Return the recipe with every default written out, as TOML."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    table = {key: value for key, value in table.items() if value not in ([], {})}
    # The method comes first, since the other keys of the table depend on it.
    table["train"] = {"method": recipe.train.method, **table["train"]}
    return tomli_w.dumps(table)


def _methods_using(path: Sequence[str]) -> str:
    """Say which methods use the key at a path, or return an empty string."""
    found = [
        f'"{name}"'
        for name, shape in methods().items()
        if (
            _has_key(shape.train, path[1:])
            if path[0] == "train" and path[1:]
            else _has_key(shape.recipe, path)
        )
    ]
    return f"Only method = {' or '.join(found)} uses it; leave it out or change the method" if found else ""


def _has_key(section: type[Section], path: Sequence[str]) -> bool:
    """Whether a table has a key at a path."""
    field = section.model_fields.get(path[0])
    if field is None or not path[1:]:
        return field is not None
    return any(_has_key(inner, path[1:]) for inner in sections_of(field.annotation))

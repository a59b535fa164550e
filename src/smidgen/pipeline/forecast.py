"""`smidgen plan`: memory, disk, time and cost of a recipe from its settings alone; no step is run."""

from dataclasses import dataclass
from typing import Any

from smidgen.backend import device, measure_rates
from smidgen.config import DpoConfig, SftConfig
from smidgen.errors import ConfigError
from smidgen.figures.formatting import size
from smidgen.models.work import TRAINING_SHARE, forward_operations, training_operations
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.teaching_forecast import TeachingForecast, forecast_teaching

MARGIN = 0.1
"""Share of the device's memory that is left to the system and to other programs."""


@dataclass(frozen=True)
class ForecastStage:
    """One stage: its peak memory, what of it must be there, and its disk, in bytes."""

    name: str
    peak_bytes: int
    needed_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class TrainingTime:
    """Expected time of the training alone.

    Attributes:
        tokens: tokens of all steps.
        tokens_per_second: the rate.
        seconds: the time, without validations.
        cost: its price.
        currency: currency of the price.
    """

    tokens: int
    tokens_per_second: float
    seconds: float
    cost: float
    currency: str


@dataclass(frozen=True)
class Forecast:
    """What a recipe takes.

    Attributes:
        recipe: name of the recipe.
        device: kind of the device.
        parameters: parameters of the model.
        trained_parameters: those that are trained.
        batch: the largest batch: rows, length, positions in the loss.
        training: bytes of each part of the training's memory, at each moment that can be the peak.
        stages: memory and disk of every stage, in order.
        disk_bytes: sum of their disk.
        time: time of the training; None if its tokens are unknown.
        teaching: requests to the teacher of a distillation; None if it has none or the rows are unknown.
        available_bytes: memory that the recipe may take.
        notes: assumptions, one sentence each.
    """

    recipe: str
    device: str
    parameters: int
    trained_parameters: int
    batch: dict[str, Any]
    training: dict[str, dict[str, int]]
    stages: list[ForecastStage]
    disk_bytes: int
    time: TrainingTime | None
    teaching: TeachingForecast | None
    available_bytes: int
    notes: list[str]

    @property
    def highest(self) -> ForecastStage:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.needed_bytes)

    @property
    def fits(self) -> bool:
        """Whether every stage has enough memory."""
        return self.highest.needed_bytes <= self.available_bytes


def available_memory() -> int:
    """Return the memory that a recipe may take on this device."""
    return round((1 - MARGIN) * device().memory_bytes)


def forecast(budgets: Budgets, *, available: int, rate: float | None = None) -> Forecast:
    """Compute what a recipe takes; neither weights nor the run folder are touched.

    Args:
        budgets: the recipe's budgets.
        available: bytes of memory that it may take.
        rate: tokens per second of the training; a share of this device's rate of matrix products, which is
            measured in a second, if None.

    Raises:
        UserError: the recipe is invalid.
    """
    step = budgets.largest_step
    stages = stage_needs(budgets)
    return Forecast(
        recipe=budgets.context.recipe.name,
        device=budgets.place.kind,
        parameters=budgets.shape.parameters,
        trained_parameters=budgets.shape.trainable(step.lora),
        batch=step.batch._asdict(),
        training={name: dict(parts) for name, parts in budgets.training().budget.moments.items()},
        stages=stages,
        disk_bytes=sum(stage.disk_bytes for stage in stages),
        time=_time(budgets, rate),
        teaching=None if budgets.batches.unread else forecast_teaching(budgets),
        available_bytes=available,
        notes=_notes(budgets),
    )


def stage_needs(budgets: Budgets) -> list[ForecastStage]:
    """Return memory and disk of every stage."""
    found = []
    for stage in stages_of(budgets.context):
        expected = stage.budget(budgets)
        memory = expected.budget
        found.append(ForecastStage(stage.name, memory.peak, memory.needed, expected.disk))
    return found


def refuse_misfit(found: Forecast) -> None:
    """Refuse a recipe that needs more memory than there is.

    Raises:
        ConfigError: says what is needed and what is there.
    """
    if not found.fits:
        worst = found.highest
        raise ConfigError(
            f"the stage '{worst.name}' of {found.recipe} needs {size(worst.needed_bytes)} of memory, and "
            f"{size(found.available_bytes)} may be used here; `smidgen plan RECIPE --fit` looks for settings "
            "that fit, and --memory GB sets another limit"
        )


def _time(budgets: Budgets, rate: float | None) -> TrainingTime | None:
    batches, step = budgets.batches, budgets.largest_step
    if batches.tokens is None or batches.trained_tokens is None:
        return None
    tokens = batches.tokens
    if rate is None:
        cached = batches.state_tokens if budgets.state_bytes else 0
        operations = training_operations(step, tokens, batches.trained_tokens, first_tokens=cached)
        operations += _beside(budgets, tokens, batches.trained_tokens)
        seconds = operations / (TRAINING_SHARE * measure_rates(repeats=3).flops)
    else:
        seconds = tokens / rate
    prices = budgets.context.prices
    cost = seconds / 3600 * prices.machine_per_hour
    return TrainingTime(tokens, tokens / seconds, seconds, cost, prices.currency)


def _beside(budgets: Budgets, tokens: int, trained: int) -> float:
    """Return the operations of a teacher or a reference, which read the same tokens, maybe only once."""
    step, settings = budgets.largest_step, budgets.context.recipe.train
    shape = budgets.shape if isinstance(settings, DpoConfig) else budgets.teacher_shape
    if shape is None:
        return 0.0
    once = isinstance(settings, DpoConfig) or budgets.target_bytes > 0
    epochs = settings.epochs if once and isinstance(settings, SftConfig | DpoConfig) else 1.0
    operations = forward_operations(shape, tokens, trained, step.batch.longest or step.batch.length)
    return operations / max(1.0, epochs)


def _notes(budgets: Budgets) -> list[str]:
    notes = []
    if budgets.batches.unread:
        notes.append(
            f"the rows cannot be read, so all have train.max_length tokens ({budgets.batches.unread})"
        )
    if budgets.context.recipe.teacher is not None:
        notes.append(
            "the training is that of every row with its own target; how many answers of the teacher pass the "
            "filter is not known beforehand"
        )
    if budgets.place.kind != "cpu":
        notes.append("the figures for a GPU are derived from MLX's operations and were not measured on one")
    if budgets.state_bytes and budgets.place.kind == "cpu":
        notes.append("the states of the frozen blocks are a mapped file, which the system may drop")
    return notes

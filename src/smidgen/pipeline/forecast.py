"""`smidgen plan`: memory, disk, time and cost of a recipe from its settings alone; no step is run."""

from dataclasses import dataclass, replace
from typing import Any

from smidgen.backend import device
from smidgen.errors import ConfigError
from smidgen.figures.formatting import size
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.registry import stages_of
from smidgen.pipeline.rows_forecast import AskedRows, RowsForecast, forecast_rows, only_task
from smidgen.pipeline.teaching_forecast import TeachingForecast, forecast_teaching
from smidgen.pipeline.times import Times, times_of

MARGIN = 0.1
"""Share of the device's memory that is left to the system and to other programs."""


@dataclass(frozen=True)
class ForecastStage:
    """One stage: its peak memory, what of it must be there, its disk, in bytes, and its time in seconds."""

    name: str
    peak_bytes: int
    needed_bytes: int
    disk_bytes: int
    seconds: float | None = None


@dataclass(frozen=True)
class TrainingTime:
    """Expected time of the training's steps.

    Attributes:
        tokens: tokens of all steps.
        tokens_per_second: the rate.
        seconds: the time, without validations and measurements of the metric.
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
        time: time of the training's steps; None if their tokens are unknown.
        seconds: sum of the times of all stages for which one is known.
        cost: its price.
        currency: currency of the price.
        teaching: requests to the teacher of a distillation; None if it has none or the rows are unknown.
        rows: answers to many rows; None unless they are asked for.
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
    seconds: float
    cost: float
    currency: str
    teaching: TeachingForecast | None
    rows: RowsForecast | None
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


def forecast(
    budgets: Budgets, *, available: int, rate: float | None = None, asked: AskedRows | None = None
) -> Forecast:
    """Compute what a recipe takes; neither weights nor the run folder are touched.

    Args:
        budgets: the recipe's budgets.
        available: bytes of memory that it may take.
        rate: tokens per second of the training; from this device's rate of matrix products, which is
            measured in a second, if None.
        asked: rows to be answered beside, and where; None for none.

    Raises:
        UserError: the recipe is invalid.
    """
    if asked is not None:
        only_task(budgets)
    step, times = budgets.largest_step, times_of(budgets, rate)
    stages = [
        replace(needs, seconds=stage.seconds(times))
        for needs, stage in zip(stage_needs(budgets), stages_of(budgets.context), strict=True)
    ]
    seconds = sum(stage.seconds or 0.0 for stage in stages)
    return Forecast(
        recipe=budgets.context.recipe.name,
        device=budgets.place.kind,
        parameters=budgets.shape.parameters,
        trained_parameters=budgets.shape.trainable(step.lora),
        batch=step.batch._asdict(),
        training={name: dict(parts) for name, parts in budgets.training().budget.moments.items()},
        stages=stages,
        disk_bytes=sum(stage.disk_bytes for stage in stages),
        time=_time(times),
        seconds=seconds,
        cost=seconds / 3600 * budgets.context.prices.machine_per_hour,
        currency=budgets.context.prices.currency,
        teaching=None if budgets.batches.unread else forecast_teaching(budgets),
        rows=None if asked is None else forecast_rows(times, asked),
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


def _time(times: Times) -> TrainingTime | None:
    seconds, tokens = times.steps(), times.budgets.batches.tokens
    if seconds is None or tokens is None:
        return None
    prices = times.budgets.context.prices
    cost = seconds / 3600 * prices.machine_per_hour
    return TrainingTime(tokens, tokens / seconds, seconds, cost, prices.currency)


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
    if budgets.context.tasks:
        notes.append(
            "times take answers to be as long as those of the rows, and of evaluate.max_tokens where the "
            "untrained base is asked or a model thinks; a dash is not estimated"
        )
    return notes

"""The task's metric on validation rows, measured on the model that is being trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from smidgen.config import FinetuneConfig
from smidgen.data.types import Sample
from smidgen.errors import ConfigError
from smidgen.evaluation.collect import answers
from smidgen.evaluation.metrics import measure
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import LoadedModel
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.task_context import TaskContext
from smidgen.training.choosing import TaskMetric

MEAN = "mean"
"""Name of the mean over several tasks."""


def task_metric(context: RunContext, loaded: LoadedModel | None) -> TaskMetric | None:
    """Return the measurement that the recipe asks for; None for none.

    Args:
        context: the recipe and its rows.
        loaded: the model that is trained, with its tokenizer; None if the method has none.

    Raises:
        ConfigError: the recipe asks for one, and the training method has no model that answers.
    """
    settings = context.recipe.train
    if not isinstance(settings, FinetuneConfig) or not settings.metric_every:
        return None
    if loaded is None:
        raise ConfigError(
            f'method = "{settings.method}" cannot measure the metric of a task; set train.metric_every = 0'
        )
    return TaskMetric(
        _measurement(context, loaded), settings.metric_every, decides=settings.choose == "metric"
    )


def metric_samples(task: TaskContext, rows: int) -> Sequence[Sample]:
    """Return the samples of the first validation rows; those of one pair stay together."""
    return task.validation_part(rows)


def metric_rows(context: RunContext) -> int:
    """Return the number of rows that are measured, of all tasks together."""
    settings = context.specialist.train
    most = settings.metric_rows if isinstance(settings, FinetuneConfig) else 0
    return sum(
        min(most, sum(len(validation) for _, validation in task.split_rows.values()))
        for task in context.tasks
    )


def _measurement(context: RunContext, loaded: LoadedModel) -> Callable[[], Mapping[str, float]]:
    settings = context.specialist.train
    assert isinstance(settings, FinetuneConfig)
    asked = [(task, metric_samples(task, settings.metric_rows)) for task in context.tasks]
    sampling = replace(context.sampling, temperature=0.0)

    def headline(task: TaskContext, samples: Sequence[Sample], engine: MlxEngine) -> tuple[str, float]:
        completer = task.task.answer_with(engine, task.task.methods[0])
        records = answers(task.task, samples, completer, sampling)
        name, metric = next(iter(task.task.measures(records).items()))
        value = measure(metric).value
        return f"{task.name}_{name}".strip("_"), math.nan if value is None else value

    def figures() -> Mapping[str, float]:
        # A new engine copies the weights as they are now, and gives the memory back.
        engine = MlxEngine(
            loaded,
            thinking=context.specialist.model.thinking,
            batch_size=context.specialist.evaluate.batch_size,
        )
        try:
            found = dict(headline(task, samples, engine) for task, samples in asked)
        finally:
            engine.close()
        return found if len(found) == 1 else {MEAN: fmean(found.values()), **found}

    return figures

"""Which step of a training is kept, and when it stops: by the validation loss or by a metric of the task."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from smidgen.training.checkpoint import TrainingProgress


@dataclass(frozen=True)
class TaskMetric:
    """A metric of the model's answers, measured while it trains.

    Attributes:
        measure: returns figures of the model as it is, by name, the most important first; larger is better.
            It leaves the weights and the random state alone, so that the losses are those without it.
        every: steps between measurements; the last step is always measured.
        decides: whether it decides which step is kept, instead of the validation loss.
    """

    measure: Callable[[], Mapping[str, float]]
    every: int
    decides: bool = False


class Checked(NamedTuple):
    """What was found out about the model after a step; None for what was not due.

    Attributes:
        loss: validation loss.
        metric: the first figure of the task.
        metrics: all figures by name.
    """

    loss: float | None = None
    metric: float | None = None
    metrics: Mapping[str, float] = {}


def note(progress: TrainingProgress, found: Checked, patience: int, *, by_metric: bool) -> bool:
    """Record in `progress` what decides, and whether patience has ended; return whether it is a new best.

    Of equal metrics, that with the lower validation loss is the best, and of equal losses the first. A metric
    that is not a number, as where it is undefined, never is.
    """
    value = found.metric if by_metric else found.loss
    if value is None:
        return False
    if math.isfinite(value) and (not progress.has_best or _is_better(found, progress, by_metric)):
        progress.best_metric = found.metric if by_metric else None
        progress.best_loss = found.loss
        progress.validations_without_best = 0
        return True
    progress.validations_without_best += 1
    progress.stopped = patience > 0 and progress.validations_without_best >= patience
    return False


def _is_better(found: Checked, progress: TrainingProgress, by_metric: bool) -> bool:
    if by_metric and found.metric != progress.best_metric:
        assert found.metric is not None and progress.best_metric is not None
        return found.metric > progress.best_metric
    if found.loss is None or progress.best_loss is None:
        return False
    return found.loss < progress.best_loss

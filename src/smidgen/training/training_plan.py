"""The exact size of a training on rows, known before it starts."""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from smidgen.training.batches import BatchSource, StepBatch, all_steps


class ShapedBatch(StepBatch, Protocol):
    """The part of a batch that a plan reads besides."""

    @property
    def inputs(self) -> np.ndarray:
        """(B, L), padding included."""
        ...


R = TypeVar("R", bound=Sized)
S = TypeVar("S", bound=ShapedBatch)


@dataclass(frozen=True)
class TrainingPlan:
    """Exact size of a training run, known before it starts.

    Attributes:
        rows: number of training rows.
        longest: tokens of the longest row.
        tokens: unpadded tokens that go through the model in all steps.
        trained_tokens: tokens in the loss in all steps.
        padding: share of all input positions that is padding.
        steps: optimiser steps.
    """

    rows: int
    longest: int
    tokens: int
    trained_tokens: int
    padding: float
    steps: int


def plan_training(
    rows: Sequence[R], batches: BatchSource[S], drawn: Iterable[S] | None = None
) -> TrainingPlan:
    """Draw the batches of all steps without training; the position of `batches` is restored.

    Args:
        rows: the rows.
        batches: their batches.
        drawn: `all_steps(batches)`, if the caller looks at each of them too.
    """
    tokens = trained = positions = 0
    for batch in all_steps(batches) if drawn is None else drawn:
        tokens, trained = tokens + batch.tokens, trained + batch.trained_tokens
        positions += batch.inputs.size
    return TrainingPlan(
        rows=len(rows),
        longest=max(len(row) for row in rows),
        tokens=tokens,
        trained_tokens=trained,
        padding=1 - tokens / positions,
        steps=batches.num_steps,
    )

"""Training objectives: one file each; the training loop is independent of them.

An objective defines the loss for its kind of batch. If its batches are not rows of tokens (pairs, rollouts),
the same file defines their `BatchSource`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from smidgen.backend import mx, nn
from smidgen.training.batches import StepBatch

B_contra = TypeVar("B_contra", bound=StepBatch, contravariant=True)


class Mean(NamedTuple):
    """A metric of a part of a batch, with a divisor of its own: Σ total / Σ weight over all batches.

    Attributes:
        total: a float32 scalar, the sum over the part.
        weight: its divisor, such as the number of the part's tokens.
    """

    total: mx.array
    weight: float


class Losses(NamedTuple):
    """Sums over one batch.

    Attributes:
        loss: a float32 scalar, differentiated for the update.
        metrics: further scalars, not differentiated, or the means of parts of the batch.
    """

    loss: mx.array
    metrics: Mapping[str, mx.array | Mean]


class Objective(Protocol[B_contra]):
    """The loss that a training run minimises: Σ loss / Σ weight over all batches of a step.

    Losses are sums, and their weight is known in advance, so a step does not depend on how its rows are split
    into batches. Metrics are divided by the same weight, unless they are a `Mean`.
    """

    def weight(self, batch: B_contra) -> float:
        """Return the divisor of a batch's sums, such as the number of its trained tokens."""
        ...

    def loss(self, model: nn.Module, batch: B_contra) -> Losses:
        """Return the sums of a batch; randomness such as dropout has to respect `model.training`."""
        ...

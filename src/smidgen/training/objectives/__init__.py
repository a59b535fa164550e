"""What training minimises: each objective is one file, and the training loop knows none of them.

An objective brings a loss for its kind of batch; where its batches are not rows of tokens (pairs, rollouts),
the same file brings the `BatchSource` that makes them.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from smidgen.backend import mx, nn
from smidgen.training.batches import StepBatch

B_contra = TypeVar("B_contra", bound=StepBatch, contravariant=True)


class Losses(NamedTuple):
    """What an objective found of one batch.

    Attributes:
        loss: sum over the batch, a float32 scalar; its gradient is what moves the model.
        metrics: further sums over the batch, scalars without a gradient.
    """

    loss: mx.array
    metrics: Mapping[str, mx.array]


class Objective(Protocol[B_contra]):
    """What a training run minimises: Σ loss / Σ weight over all batches of a step.

    Losses are sums, and their weight is known before them, so that a step is the same however its rows are
    cut into batches. Metrics are divided by the same weight.
    """

    def weight(self, batch: B_contra) -> float:
        """Return what the sums of a batch are to be divided by, as the number of its trained tokens."""
        ...

    def loss(self, model: nn.Module, batch: B_contra) -> Losses:
        """Return the sums of a batch; what is random has to respect `model.training`."""
        ...

"""Maximum likelihood: the objective of pretraining and of supervised fine-tuning."""

from dataclasses import dataclass, field

import numpy as np

from smidgen.backend import mx, nn
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import trained_token_losses
from smidgen.training.objectives import Losses, Mean


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of the trained tokens, in nats per token or, with weights, per unit of weight.

    Attributes:
        how: how the body runs.
    """

    how: BodyPass = field(default_factory=BodyPass)

    def weight(self, batch: TrainBatch) -> float:
        """Return the number of trained tokens, or the sum of their weights."""
        if batch.weights is None:
            return batch.trained_tokens
        return float(batch.weights[: batch.trained_tokens].sum())

    def loss(self, model: nn.Module, batch: TrainBatch) -> Losses:
        """Return the weighted sum of -ln p(token)."""
        losses = trained_token_losses(model, batch, self.how)
        if batch.weights is not None:
            losses = losses * mx.array(batch.weights[: batch.trained_tokens])
        return Losses(losses.sum(), by_source(losses, batch))


def by_source(losses: mx.array, batch: TrainBatch) -> dict[str, Mean]:
    """Return the mean loss of each source in a batch, from the weighted losses (trained_tokens,)."""
    if batch.source_ids is None:
        return {}
    ids, means = batch.source_ids[: batch.trained_tokens], {}
    weights = np.ones(len(ids), np.float32) if batch.weights is None else batch.weights[: len(ids)]
    for index, name in enumerate(batch.sources):
        own = ids == index
        if own.any():
            total = mx.stop_gradient(losses * mx.array(own)).sum()
            means[f"loss/{name}"] = Mean(total, float(weights[own].sum(dtype=np.float64)))
    return means

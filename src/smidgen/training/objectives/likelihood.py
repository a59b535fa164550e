"""Maximum likelihood: the objective of pretraining and of supervised fine-tuning."""

from dataclasses import dataclass, field

from smidgen.backend import mx, nn
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import trained_token_losses
from smidgen.training.objectives import Losses


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
        return Losses(losses.sum(), {})

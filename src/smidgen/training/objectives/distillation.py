"""Logit distillation: learn the probabilities of a teacher, and the text itself.

The loss is that of `smidgen.cpu_kernels.distillation`. Positions and weights are those of the likelihood: the
teacher is asked only where something is learnt.
"""

from dataclasses import dataclass, field

from smidgen.backend import mx, nn
from smidgen.models.graph import head_weight
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import distillation_losses, has_frozen_head, trained_states
from smidgen.training.objectives import Losses
from smidgen.training.objectives.likelihood import Likelihood, by_source
from smidgen.training.teacher import Teacher


@dataclass(frozen=True)
class Distillation:
    """Mixed loss against a teacher and the text, in nats per token or, with weights, per unit of weight.

    Its metrics are both parts, `hard_loss`, the negative log-likelihood, and `divergence`, and the mixed loss
    of each source.

    Attributes:
        teacher: the teacher.
        how: how the body of the student runs.
    """

    teacher: Teacher
    how: BodyPass = field(default_factory=BodyPass)

    def weight(self, batch: TrainBatch) -> float:
        """Return the number of trained tokens, or the sum of their weights."""
        return Likelihood().weight(batch)

    def loss(self, model: nn.Module, batch: TrainBatch) -> Losses:
        """Return the weighted sums of the mixed loss and of its parts."""
        targets = self.teacher.targets(batch)
        losses = distillation_losses(
            trained_states(model, batch, self.how),
            head_weight(model),
            targets,
            self.teacher.mixing,
            weight_frozen=has_frozen_head(model),
        )[:, : batch.trained_tokens]
        if batch.weights is not None:
            losses = losses * mx.array(batch.weights[: batch.trained_tokens])
        loss, hard, divergence = losses.sum(axis=1)
        return Losses(loss, {"hard_loss": hard, "divergence": divergence, **by_source(losses[0], batch)})

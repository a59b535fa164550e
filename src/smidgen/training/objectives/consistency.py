"""Jacobi forcing: the model should choose after wrong guesses as it does after the right tokens.

The loss is that of CLLM (https://arxiv.org/abs/2403.00835) on the batches of `smidgen.training.jacobi`: the
divergence between the model's probabilities after a wrong guess and those, without a gradient, after the
right token in its place; and the negative log-likelihood of the answer, which keeps the model what it was.
Both are sums divided by the number of tokens of the answer, so neither depends on how many blocks it has, and
the divergences of several states of a block are averaged; where guesses are right the divergence is none.
"""

from dataclasses import dataclass, field

from smidgen.backend import mx, nn
from smidgen.cpu_kernels import Mixing, TeacherStates
from smidgen.models.graph import head_weight
from smidgen.training.hidden import BodyPass
from smidgen.training.jacobi import BlockBatch
from smidgen.training.losses import (
    TrainedStates,
    distillation_losses,
    has_frozen_head,
    token_losses,
    trained_states,
)
from smidgen.training.objectives import Losses, Mean


@dataclass(frozen=True)
class Consistency:
    """Divergence after wrong guesses plus weighted likelihood of the answer, in nats per token of it.

    Its metrics are `ar_loss`, the negative log-likelihood per token of the answer, and per wrong guess
    `divergence` and `guess_loss`, the negative log-likelihood of the right next token.

    Attributes:
        ar_weight: factor on the likelihood.
        temperature: T, which divides the logits of the divergence; it is multiplied by T².
        how: how the body runs.
    """

    ar_weight: float = 10.0
    temperature: float = 1.0
    how: BodyPass = field(default_factory=BodyPass)

    def weight(self, batch: BlockBatch) -> float:
        """Return the number of tokens of the answers."""
        return batch.num_right

    def loss(self, model: nn.Module, batch: BlockBatch) -> Losses:
        """Return the sums over the answers of a batch."""
        hidden, targets = trained_states(model, batch.answers, self.how)
        weight, frozen = head_weight(model), has_frozen_head(model)
        count, total = batch.num_right, batch.trained_tokens
        right = hidden[:count]
        likelihood = token_losses(right, weight, mx.array(targets[:count]), weight_frozen=frozen).sum()
        if count == total:
            return Losses(self.ar_weight * likelihood, {"ar_loss": likelihood})
        teacher = TeacherStates(mx.stop_gradient(right[mx.array(batch.teachers)]), mx.stop_gradient(weight))
        mixed, guess_loss, divergence = distillation_losses(
            TrainedStates(hidden[count:total], targets[count:total]),
            weight,
            teacher,
            Mixing(self.temperature, hard_weight=0.0),
            weight_frozen=frozen,
        ).sum(axis=1)
        metrics = {
            "ar_loss": likelihood,
            "divergence": Mean(divergence, total - count),
            "guess_loss": Mean(guess_loss, total - count),
        }
        return Losses(mixed / batch.num_guesses + self.ar_weight * likelihood, metrics)

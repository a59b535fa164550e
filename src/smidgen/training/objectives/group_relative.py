"""Group-relative policy optimisation: PPO's clipped surrogate with the advantage of an answer in its group.

Per token (https://arxiv.org/abs/2402.03300): -min(ρA, clip(ρ, 1 - ε, 1 + ε_high) A) · w + β KL. ρ is the
ratio of the token's probability to that before the first step on these answers, and w corrects for the
difference between the arithmetic of training and of sampling. The KL to the reference is estimated as
exp(d) - d - 1 with d = ln π_ref - ln π (k3, http://joschu.net/blog/kl-approx.html). TRL's loss is the same;
that is tested.
"""

from dataclasses import dataclass, field

from smidgen.backend import mx, nn
from smidgen.models.graph import head_weight
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import has_frozen_head, token_losses, trained_states
from smidgen.training.objectives import Losses, Mean
from smidgen.training.rollout_batches import RolloutBatch


def answer_token_logprobs(
    model: nn.Module, batch: TrainBatch, temperature: float = 1.0, how: BodyPass | None = None
) -> mx.array:
    """Return the log-probability of every trained token at a temperature, (T,) float32, in nats."""
    return state_logprobs(model, batch, trained_states(model, batch, how).hidden, temperature)


def state_logprobs(model: nn.Module, batch: TrainBatch, hidden: mx.array, temperature: float) -> mx.array:
    """Return the same from the hidden states (n, D) at the trained positions."""
    states = hidden if temperature == 1.0 else hidden / temperature
    targets = mx.array(batch.targets[: len(hidden)])
    losses = token_losses(states, head_weight(model), targets, weight_frozen=has_frozen_head(model))
    return -losses[: batch.trained_tokens]


@dataclass(frozen=True)
class GroupRelative:
    """The loss of rollouts.

    Attributes:
        clip_range: smallest and largest ratio that is not clipped.
        beta: factor on the divergence from the reference.
        reference: the base without an adapter; needed if `beta` is not 0.
        temperature: that of the sampling.
        cap: upper limit of the correction for the arithmetic of the sampling; None for no correction.
        how: how the body of the trained model runs.
    """

    clip_range: tuple[float, float] = (0.8, 1.2)
    beta: float = 0.0
    reference: nn.Module | None = None
    temperature: float = 1.0
    cap: float | None = 3.0
    how: BodyPass = field(default_factory=BodyPass)

    def weight(self, batch: RolloutBatch) -> float:
        """Return the share of the batch in the divisor of the step."""
        return batch.weight

    def loss(self, model: nn.Module, batch: RolloutBatch) -> Losses:
        """Return the weighted sum over the tokens of a batch, and figures as in `of_logprobs`."""
        hidden = trained_states(model, batch.answers, self.how).hidden
        logprobs = state_logprobs(model, batch.answers, hidden, self.temperature)
        plain = logprobs
        if self.temperature != 1.0 and batch.gap is None:
            plain = state_logprobs(model, batch.answers, hidden, 1.0)
        reference = self._reference_logprobs(batch) if self.beta else None
        return self.of_logprobs(logprobs, batch, reference, plain)

    def of_logprobs(
        self, logprobs: mx.array, batch: RolloutBatch, reference: mx.array | None, plain: mx.array
    ) -> Losses:
        """Return the weighted sum over the tokens of a batch, and means of figures over its tokens.

        Args:
            logprobs: (T,) log-probabilities of the tokens at the temperature of the sampling.
            batch: the answers.
            reference: (T,) those of the reference, if `beta` is not 0.
            plain: (T,) those of the model at temperature 1.

        Figures: `engine_gap`, the mean difference of log-probabilities in training and at sampling; `kl`, to
        the reference or else to the policy before the first step on these answers; `clip_ratio`, the share of
        tokens without a gradient. In the first step without a reference the last two are 0 and left out.
        """
        now = mx.stop_gradient(logprobs)
        old = now if batch.old is None else mx.array(batch.old)
        ratio = mx.exp(logprobs - (now if batch.is_first else old))
        advantages, (low, high) = mx.array(batch.advantages), self.clip_range
        surrogate = mx.minimum(ratio * advantages, mx.clip(ratio, low, high) * advantages)
        gap = mx.stop_gradient(plain) - mx.array(batch.logprobs)
        gap = gap if batch.gap is None else mx.array(batch.gap)
        if self.cap is not None:
            surrogate = surrogate * mx.minimum(mx.exp(gap / self.temperature), self.cap)
        losses = -surrogate
        divergence = _k3(old - logprobs)
        if reference is not None:
            losses = losses + self.beta * (divergence := _k3(reference - logprobs))
        figures = {"engine_gap": mx.abs(gap)}
        if reference is not None or not batch.is_first:
            clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
            figures |= {"kl": divergence, "clip_ratio": clipped}
        tokens = batch.trained_tokens
        metrics = {name: Mean(mx.stop_gradient(value).sum(), tokens) for name, value in figures.items()}
        return Losses((losses * mx.array(batch.weights)).sum(), metrics)

    def _reference_logprobs(self, batch: RolloutBatch) -> mx.array:
        assert self.reference is not None
        how = BodyPass(trunk=self.how.trunk)
        return mx.stop_gradient(answer_token_logprobs(self.reference, batch.answers, self.temperature, how))


def _k3(difference: mx.array) -> mx.array:
    """Return exp(d) - d - 1."""
    return mx.exp(difference) - difference - 1

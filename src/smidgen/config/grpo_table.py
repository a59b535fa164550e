"""`[train]` with `method = "grpo"`: learning from rewards of the model's own answers.

Names and meanings are those of TRL's `GRPOConfig`, where it has them.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section
from smidgen.config.train_table import FinetuneConfig


class RewardConfig(Section):
    """One part of the reward of an answer."""

    name: str
    """`score` (how right the task finds the answer), another reward of the task (a judge has `consistency`
    and `margin`), or `FILE.py:FUNCTION`, a function of sample and completion that returns a number."""
    weight: float = 1.0
    """Factor in the sum."""


class GrpoConfig(FinetuneConfig):
    """Group-relative policy optimisation (https://arxiv.org/abs/2402.03300).

    Of several answers to a prompt, those with more reward than the mean become more probable, others less.
    """

    method: Literal["grpo"]
    """Training on rewards."""
    steps: int = Field(default=200, gt=0)
    """Optimiser steps."""
    batch_size: int = Field(default=32, gt=0)
    """Answers per forward pass; times `gradient_accumulation`, a multiple of `num_generations`."""
    max_length: int = Field(default=1024, gt=8)
    """Maximum tokens of a prompt with its answer; longer prompts are left out, and counted."""
    num_generations: int = Field(default=8, ge=2)
    """Answers per group. A group is a prompt, or both orders of a pair for a judge."""
    max_completion_length: int = Field(default=256, gt=0)
    """Maximum tokens of an answer."""
    temperature: float = Field(default=1.0, ge=0.01)
    """Sampling temperature of the answers; the trained probabilities are those at this temperature."""
    rollout_batch_size: int = Field(default=64, gt=0)
    """Answers sampled together."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate decay after the warm-up."""
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo"
    """Mean over the tokens of an answer and then over answers (`grpo`); over all tokens of a step (`dapo`,
    https://arxiv.org/abs/2503.14476); or over answers of `max_completion_length` tokens (`dr_grpo`,
    https://arxiv.org/abs/2503.20783)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by: of the group, of all answers of a step, or none."""
    num_iterations: int = Field(default=1, gt=0)
    """Optimiser steps on the same answers."""
    epsilon: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The ratio to the probability at sampling is clipped below 1 − epsilon; needs `num_iterations` > 1 to
    have an effect."""
    epsilon_high: float | None = Field(default=None, gt=0.0)
    """The same above 1 + epsilon_high; default: `epsilon`."""
    beta: float = Field(default=0.0, ge=0.0)
    """Factor on the divergence from the base, which is the model with its adapter switched off."""
    mask_truncated_completions: bool = False
    """Learn nothing from answers that were cut off at `max_completion_length`."""
    resample: int = Field(default=0, ge=0, le=32)
    """How often groups whose answers all have the same reward, from which nothing can be learnt, are replaced
    by those of other prompts, before a step is taken with what there is."""
    rewards: tuple[RewardConfig, ...] = (RewardConfig(name="score"),)
    """The parts of the reward, which are added up."""
    format_gate: bool = True
    """Answers that the task cannot read have no reward, and never more than a readable one of the group."""
    length_penalty: float = Field(default=0.0, ge=0.0)
    """Taken from the reward of an answer of `max_completion_length` tokens, and in proportion; with
    `format_gate`, only of those that can be read."""
    importance_sampling_correction: bool = True
    """Weight each token by the ratio of its probabilities in training and at sampling, since the arithmetic
    of the two differs; to first order at temperatures other than 1."""
    importance_sampling_cap: float = Field(default=3.0, ge=1.0)
    """Upper limit of that ratio."""
    max_engine_gap: float = Field(default=0.1, gt=0.0)
    """Stop if the log-probabilities of the two differ by more than this in the mean, in nats per token."""
    max_kl: float = Field(default=10.0, gt=0.0)
    """Stop if the divergence exceeds this, in nats per token: from the base if `beta` > 0, else with
    `num_iterations` > 1 from the policy that sampled."""
    metric_every: int = Field(default=20, ge=0)
    """Steps between measurements of the task's first metric on validation rows; 0 measures none."""
    choose: Literal["loss", "metric"] = "metric"
    """What decides which step is kept: the metric; `loss` is the last step, since there is no such loss."""
    checkpoint_every: int = Field(default=20, ge=0)
    """Steps between resumable checkpoints; 0 saves none."""
    validate_every: int = Field(default=0, ge=0, le=0)
    """There is no validation loss; see `metric_every`."""

    @property
    def clip_range(self) -> tuple[float, float]:
        """Smallest and largest ratio that is not clipped."""
        return 1 - self.epsilon, 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)

    @property
    def groups_per_step(self) -> int:
        """Groups of answers of an optimiser step."""
        return self.batch_size * self.gradient_accumulation // self.num_generations

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unread := sorted({"trunk_cache", "trunk_cache_gb"} & self.changed()):
            raise ValueError(
                f"'{unread[0]}' is for rows that are the same in every epoch, unlike answers; leave it out"
            )
        answers = self.batch_size * self.gradient_accumulation
        if answers % self.num_generations:
            raise ValueError(
                f"batch_size · gradient_accumulation is {answers}, not a multiple of num_generations "
                f"({self.num_generations}); a step consists of whole groups"
            )
        if self.max_completion_length >= self.max_length:
            raise ValueError(
                f"max_completion_length is {self.max_completion_length}, which leaves no room for a prompt "
                f"in max_length ({self.max_length}); lower it or raise max_length"
            )
        if self.beta and self.lora is None:
            raise ValueError(
                "beta compares with the base, which is the model with its adapter switched off; add "
                "[train.lora] or set beta = 0"
            )
        if self.num_iterations > 1 and self.lora is not None and self.lora.dropout:
            raise ValueError(
                "with num_iterations > 1 the ratio of two probabilities is learnt from, and dropout would be "
                "most of it; set lora.dropout = 0 or num_iterations = 1"
            )
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards has no part with a weight; give at least one")
        names = [reward.name for reward in self.rewards]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"rewards names '{twice}' twice; keep one, with the sum of the weights")
        return self

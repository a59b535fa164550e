"""`[train]`: the settings that every method of training reads, and those of an adapter."""

from typing import Literal

from pydantic import Field

from smidgen.config.base import Rate, Section


class LoraConfig(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, gt=0)
    """Rank of the update."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the input of the update."""
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Names of the linear layers that get an update."""
    num_layers: int | None = Field(default=None, gt=0)
    """Only the last so many blocks; all when absent."""


class TrainConfig(Section):
    """What every method of training reads; each method is a table of its own that adds to it."""

    batch_size: int = Field(default=16, gt=0)
    """Rows in one forward pass."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Forward passes in one optimiser step; the loss is weighted by tokens, so it equals the bigger batch."""
    max_length: int = Field(default=512, gt=8)
    """Longest row in tokens; longer rows lose context from the left of the prompt, never the answer."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup: Rate = 0.03
    """Share of the steps in which the rate rises linearly from zero."""
    min_learning_rate_ratio: Rate = 0.0
    """The rate decays to this share of its peak."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decays of AdamW."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator of AdamW."""
    gradient_clip: float = Field(default=1.0, ge=0.0)
    """Largest global norm of the gradient; 0 never clips."""
    validate_every: int = Field(default=50, ge=0)
    """Steps between validations; 0 validates only at the end."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many validations without a new best; 0 never stops early."""
    checkpoint_every: int = Field(default=100, ge=0)
    """Steps between resumable checkpoints; 0 keeps none."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, data order and dropout."""


class FinetuneConfig(TrainConfig):
    """What every method that starts from a trained model reads."""

    lora: LoraConfig | None = None
    """Train a low-rank update; every weight is trained when absent."""

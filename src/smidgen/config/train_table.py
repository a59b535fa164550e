"""`[train]`: the settings shared by all training methods, and those of a LoRA adapter."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Rate, Section

DEFAULT_WARMUP = 0.03
"""Share of the steps that warm up if nothing else is said."""


class LoraConfig(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, gt=0)
    """Rank of the update matrices."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale it by alpha / √rank instead, so that a high rank learns as fast (https://arxiv.org/abs/2312.03732)."""
    plus: float = Field(default=1.0, ge=1.0)
    """LoRA+: learning rate of B as a multiple of A's, such as 16 (https://arxiv.org/abs/2402.12354)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the input of the update."""
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Names of the linear layers that are adapted."""
    num_layers: int | None = Field(default=None, gt=0)
    """Adapt only the last N blocks; default: all."""
    start: str | None = None
    """Folder of an adapter of the same rank, alpha and layers that the training starts from; default: a new
    one, which changes nothing at first."""

    @property
    def scale(self) -> float:
        """The factor of the update."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class TrainConfig(Section):
    """Settings shared by all training methods; each method has a table that extends them."""

    batch_size: int = Field(default=16, gt=0)
    """Rows per forward pass."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Forward passes per optimiser step; token-weighted, so equivalent to a larger batch."""
    max_length: int = Field(default=512, gt=8)
    """Maximum row length in tokens; longer rows lose the left end of the prompt, never the completion."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning-rate decay after the warm-up."""
    warmup: float | None = Field(default=None, ge=0.0, le=1.0)
    """Fraction of the steps over which the learning rate rises linearly from zero; default: 0.03, unless
    `warmup_steps` is given."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """The same as a number of steps."""
    min_learning_rate_ratio: Rate = 0.0
    """Final learning rate as a fraction of the peak."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decay rates of AdamW."""
    eps: float = Field(default=1e-8, gt=0)
    """Epsilon in the denominator of AdamW."""
    gradient_clip: float = Field(default=1.0, ge=0.0)
    """Maximum global gradient norm; 0 disables clipping."""
    validate_every: int = Field(default=50, ge=0)
    """Steps between validations; 0 validates only at the end."""
    patience: int = Field(default=0, ge=0)
    """Stop after N validations without a new best (measurements, with `choose = "metric"`); 0: never."""
    checkpoint_every: int = Field(default=100, ge=0)
    """Steps between resumable checkpoints; 0 saves none."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, data order and dropout."""

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup is not None and self.warmup_steps is not None:
            raise ValueError("'warmup' and 'warmup_steps' each set the length of the warm-up; keep one")
        return self

    def warmup_of(self, num_steps: int) -> int:
        """Return the steps of the warm-up of a training of `num_steps`."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((DEFAULT_WARMUP if self.warmup is None else self.warmup) * num_steps)


class FinetuneConfig(TrainConfig):
    """Settings shared by the methods that start from a base model."""

    lora: LoraConfig | None = None
    """Train a LoRA adapter; full fine-tuning when absent."""
    gradient_checkpointing: bool = False
    """Recompute every block in the backward pass: about a third more time, for much less memory."""
    trunk_cache: Literal["off", "float16", "float32"] = "float16"
    """With adapters in the last blocks only: dtype of the stored hidden states below them."""
    trunk_cache_gb: float = Field(default=8.0, gt=0)
    """Maximum size of these on disk in 10⁹ bytes; if they need more, they are computed in every epoch."""
    metric_every: int = Field(default=0, ge=0)
    """Steps between measurements of the task's first metric on validation rows, and after the last step; 0
    measures none. The model answers the rows greedily; with several tasks it is the mean of their metrics."""
    metric_rows: int = Field(default=64, gt=0)
    """Maximum number of these rows of each task, the same every time; never test rows."""
    choose: Literal["loss", "metric"] = "loss"
    """What decides which step is kept and when `patience` ends: the validation loss, or the metric."""

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if self.choose == "metric" and not self.metric_every:
            raise ValueError(
                'choose = "metric" needs measurements; set metric_every, such as metric_every = 50, or '
                'choose = "loss"'
            )
        return self

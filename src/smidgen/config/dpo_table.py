"""`[train]` with `method = "dpo"`: preference training on pairs of answers, without a reward model.

The reference is the base, which is the model with its adapter switched off.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.train_table import FinetuneConfig


class DpoConfig(FinetuneConfig):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290): chosen above rejected answers."""

    method: Literal["dpo"]
    """Preference training."""
    epochs: float = Field(default=1.0, gt=0)
    """Number of passes over the pairs."""
    batch_size: int = Field(default=8, gt=0)
    """Pairs per forward pass."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""
    beta: float = Field(default=0.1, gt=0)
    """How closely the model stays to the base: larger is closer."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """`sigmoid` is DPO; `ipo` (https://arxiv.org/abs/2310.12036) aims at a margin of 1 / 2·beta per token."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of pairs whose labels are swapped (`sigmoid` only)."""
    packing: bool = True
    """Lay short answers one after the other instead of padding them; the losses are the same."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lora is None:
            raise ValueError(
                "preferences are learnt against the base, which is the model with its adapter switched off; "
                "add [train.lora]"
            )
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError('label_smoothing is for loss = "sigmoid" only; leave it out')
        return self

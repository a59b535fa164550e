"""`[train]` with `method = "sft"`: supervised fine-tuning on samples and their answers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.train import FinetuneConfig


class SftConfig(FinetuneConfig):
    """Learn the answers of samples; their prompts are context."""

    method: Literal["sft"] = "sft"
    """Supervised fine-tuning."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows."""
    mask: Literal["last", "all"] = "last"
    """Which assistant turns are learnt: the last, or every one."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the output of every block when every weight is trained."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lora is not None and self.dropout:
            raise ValueError("dropout is for training every weight; with lora, set lora.dropout")
        return self

"""`[train]` with `method = "sft"`: supervised fine-tuning on prompts and completions."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.teacher_table import TopTeacherConfig
from smidgen.config.train_table import FinetuneConfig


class SftConfig(FinetuneConfig):
    """Supervised fine-tuning: the loss covers completions; prompts are context."""

    method: Literal["sft"] = "sft"
    """Supervised fine-tuning."""
    epochs: float = Field(default=1.0, gt=0)
    """Number of passes over the training rows."""
    mask: Literal["last", "all"] = "last"
    """Assistant turns that the loss covers: the last one, or all."""
    packing: bool = True
    """Lay short rows one after the other instead of padding them; the losses are the same."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the output of every block in full fine-tuning (without `[train.lora]`)."""

    teacher: TopTeacherConfig | None = None
    """Learn the probabilities of a teacher, too; only the text when absent."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lora is not None and self.dropout:
            raise ValueError("dropout is for full fine-tuning only; with lora, set lora.dropout instead")
        return self

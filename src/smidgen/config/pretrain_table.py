"""`[train]` with `method = "pretrain"`: pretraining on a stream of text."""

from typing import Literal

from pydantic import Field

from smidgen.config.teacher_table import TeacherConfig
from smidgen.config.train_table import TrainConfig


class PretrainConfig(TrainConfig):
    """Train on every token of a stream of documents, from random weights."""

    method: Literal["pretrain"]
    """Pretraining."""
    total_tokens: int = Field(gt=0)
    """Number of training tokens."""
    teacher: TeacherConfig | None = None
    """Learn the probabilities of a teacher with the same tokenizer, too; only the text when absent."""

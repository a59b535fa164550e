"""`[train]` with `method = "pretrain"`: learning a language from a stream of text."""

from typing import Literal

from pydantic import Field

from smidgen.config.train import TrainConfig


class PretrainConfig(TrainConfig):
    """Learn every token of a stream of documents, from random weights."""

    method: Literal["pretrain"]
    """Pretraining."""
    total_tokens: int = Field(gt=0)
    """Tokens to see."""

"""`[data]`: what the model learns from and is proven on."""

from typing import Literal

from pydantic import Field

from smidgen.config.base import Section


class DataConfig(Section):
    """What the model learns from and is proven on."""

    train: str = "world"
    """`world` (generated) or a file of rows; its format is detected from the rows."""
    train_splits: tuple[str, ...] = ("train",)
    """Rows whose `split` is one of these are trained on; a file without `split` is used whole."""
    train_limit: int | None = Field(default=None, gt=0)
    """At most so many training rows."""
    validation_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share of the training rows held back for the fixed validation set."""
    validation_limit: int = Field(default=200, gt=0)
    """At most so many validation rows."""
    test: str = "world"
    """`world` or a file of rows, for the evaluations before and after."""
    test_splits: tuple[str, ...] = ("test",)
    """Rows whose `split` is one of these are evaluated; a file without `split` is used whole."""
    test_limit: int | None = Field(default=None, gt=0)
    """At most so many test items."""
    seed: int = Field(default=0, ge=0)
    """Seed of generated rows and of splits."""


class PretrainDataConfig(Section):
    """The text that a model is pretrained on."""

    train: Literal["world"] = "world"
    """`world`, text generated from the demonstration world."""
    validation_limit: int = Field(default=200, gt=0)
    """Rows of packed text in the fixed validation set."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated text."""

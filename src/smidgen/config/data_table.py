"""`[data]`: training, validation and test data."""

from typing import Literal

from pydantic import Field

from smidgen.config.base import Section


class DataConfig(Section):
    """Training, validation and test data."""

    train: str = "world"
    """`world` (generated) or a file of rows; the format is detected from the rows."""
    train_splits: tuple[str, ...] = ("train",)
    """Train on rows whose `split` is one of these; a file without a `split` field is used in full."""
    train_limit: int | None = Field(default=None, gt=0)
    """Maximum number of training rows."""
    validation_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Fraction of the training rows held out as the fixed validation set."""
    validation_limit: int = Field(default=200, gt=0)
    """Maximum number of validation rows."""
    test: str = "world"
    """`world` or a file of rows, for the evaluations before and after training."""
    test_splits: tuple[str, ...] = ("test",)
    """Evaluate rows whose `split` is one of these; a file without a `split` field is used in full."""
    test_limit: int | None = Field(default=None, gt=0)
    """Maximum number of test items."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated rows and of the validation split."""


class PretrainDataConfig(Section):
    """The pretraining corpus."""

    train: Literal["world"] = "world"
    """`world`: text generated from the demonstration world."""
    validation_limit: int = Field(default=200, gt=0)
    """Packed rows in the fixed validation set."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated text."""

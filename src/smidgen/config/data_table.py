"""`[data]`: training, validation and test data."""

from collections import Counter
from typing import Self

from pydantic import Field, model_validator

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
    """`world`, a file of rows, `smidgen:memorize-cases` or `smidgen:arbitrate-cases`, for the evaluations
    before and after training."""
    test_splits: tuple[str, ...] = ("test",)
    """Evaluate rows whose `split` is one of these; a file without a `split` field is used in full."""
    test_limit: int | None = Field(default=None, gt=0)
    """Maximum number of test items."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated rows and of the validation split."""


class SourceConfig(Section):
    """One of several sources of text, drawn in proportion to its weight."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Its name in the metrics and in the weights of a phase."""
    path: str
    """`world` (generated), or a file of documents: `.jsonl`, `.parquet` or `.txt`, the first and the last
    also with `.gz`. Blank lines separate the documents of a `.txt`."""
    weight: float = Field(default=1.0, ge=0.0)
    """Share of the training tokens, in proportion to the weights of the other sources."""
    text: str | None = None
    """Jinja template of a document over the fields of a row, such as `"{{ question }}\\n{{ answer }}"`;
    default: the field `text`, `content` or `raw_content`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.path == "world" and self.text is not None:
            raise ValueError(f"the source '{self.name}' is generated, so it has no fields; leave 'text' out")
        return self


class PretrainDataConfig(Section):
    """The pretraining corpus."""

    train: str | None = None
    """The only source: `world`, which is the default, or a file as in `path` of `[[data.sources]]`."""
    sources: tuple[SourceConfig, ...] = ()
    """Several sources that are mixed; replaces `train`."""
    validation_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Fraction of the documents of a file held out for the fixed validation set, at most 4,096."""
    validation_limit: int = Field(default=200, gt=0)
    """Maximum number of packed rows of each source in the fixed validation set."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated text."""

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The sources; that of `train` is named so."""
        if self.sources:
            return self.sources
        return (SourceConfig(name="train", path=self.train or "world"),)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sources and self.train is not None:
            raise ValueError("there are both 'train' and [[data.sources]]; move 'train' into a source")
        names = Counter(source.name for source in self.sources)
        if twice := next((name for name, number in names.items() if number > 1), None):
            raise ValueError(f"two of [[data.sources]] have the name '{twice}'; names must be unique")
        return self

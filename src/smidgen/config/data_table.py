"""`[data]`: training, validation and test data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from smidgen.config.base import Section

WORLD = "world"
"""The name that stands for generated data."""


class MixedSource(Section):
    """One of several sources, drawn in proportion to its weight."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Its name in the metrics."""
    weight: float = Field(default=1.0, ge=0.0)
    """Its share, in proportion to the weights of the other sources."""


class RowSourceConfig(MixedSource):
    """One of several sources of training rows, drawn row by row in proportion to its weight."""

    path: str
    """`world` (generated) or a file of rows; the format is detected from the rows."""


class SourceConfig(MixedSource):
    """One of several sources of text, of which each has a share of the training tokens."""

    path: str
    """`world` (generated), or a file of documents: `.jsonl`, `.parquet` or `.txt`, the first and the last
    also with `.gz`. Blank lines separate the documents of a `.txt`."""
    text: str | None = None
    """Jinja template of a document over the fields of a row, such as `"{{ question }}\\n{{ answer }}"`;
    default: the field `text`, `content` or `raw_content`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.path == WORLD and self.text is not None:
            raise ValueError(f"the source '{self.name}' is generated, so it has no fields; leave 'text' out")
        return self


class DataConfig(Section):
    """Training, validation and test data."""

    train: str | None = None
    """`world` (generated), which is the default, or a file of rows; the format is detected from the rows."""
    sources: tuple[RowSourceConfig, ...] = ()
    """Several sources that are mixed (`method = "sft"`); replaces `train`."""
    train_splits: tuple[str, ...] = ("train",)
    """Train on rows whose `split` is one of these; a file without a `split` field is used in full."""
    train_limit: int | None = Field(default=None, gt=0)
    """Maximum number of training rows, of each source."""
    validation_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Fraction of the training rows of each source held out as the fixed validation set."""
    validation_limit: int = Field(default=200, gt=0)
    """Maximum number of validation rows, of each source."""
    test: str = WORLD
    """`world`, a file of rows, `smidgen:memorize-cases` or `smidgen:arbitrate-cases`, for the evaluations
    before and after training."""
    test_splits: tuple[str, ...] = ("test",)
    """Evaluate rows whose `split` is one of these; a file without a `split` field is used in full."""
    test_limit: int | None = Field(default=None, gt=0)
    """Maximum number of test items."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generated rows and of the validation split."""

    @property
    def all_sources(self) -> tuple[RowSourceConfig, ...]:
        """The sources; that of `train` is named so."""
        return self.sources or (RowSourceConfig(name="train", path=self.train or WORLD),)

    @property
    def trained_on(self) -> str:
        """The training data, for messages."""
        return ", ".join(source.path for source in self.all_sources)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_ambiguous(self.train, self.sources)
        if self.sources:
            weights = {source.name: source.weight for source in self.sources}
            if not any(weights.values()):
                raise ValueError(all_zero("[[data.sources]]"))
            refuse_undrawn([weights])
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
        return (SourceConfig(name="train", path=self.train or WORLD),)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_ambiguous(self.train, self.sources)
        return self


def refuse_ambiguous(train: str | None, sources: Sequence[MixedSource]) -> None:
    """Refuse sources beside a single one, and names that occur twice."""
    if sources and train is not None:
        raise ValueError("there are both 'train' and [[data.sources]]; move 'train' into a source")
    names = Counter(source.name for source in sources)
    if twice := next((name for name, number in names.items() if number > 1), None):
        raise ValueError(f"two of [[data.sources]] have the name '{twice}'; names must be unique")


def all_zero(where: str) -> str:
    """Say that there is nothing to draw from."""
    return f"all weights of {where} are 0; give one source a weight above 0"


def refuse_undrawn(phases: Sequence[Mapping[str, float]]) -> None:
    """Refuse sources that no phase draws, from the weights of all sources in each phase."""
    for name in phases[0]:
        if not any(weights[name] for weights in phases):
            raise ValueError(f"the source '{name}' is never drawn; give it a weight above 0, or remove it")

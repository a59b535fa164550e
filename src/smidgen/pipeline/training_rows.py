"""The rows of a recipe's tasks as its method trains on them, and their batches, also for plans."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from smidgen.config import DpoConfig, SftConfig
from smidgen.data.templates import Tokenizer
from smidgen.pipeline.context import RunContext
from smidgen.training.batches import BatchSource, ShuffledBatches, TrainRow, collated
from smidgen.training.mixed_batches import MixedBatches
from smidgen.training.objectives.preference import PreferencePair, pair_batch
from smidgen.training.preferences import pair_rows
from smidgen.training.pretrain import weighted
from smidgen.training.rendering import RenderedRows
from smidgen.training.sft import sft_rows

RowSettings = SftConfig | DpoConfig
Parts = tuple[Sequence[Any], Sequence[Any]]
"""Training and validation samples, or preferences."""


def samples_of(context: RunContext) -> Parts:
    """Return the training and validation samples of a recipe, or its preferences.

    Raises:
        ConfigError: the recipe learns preferences, and a task has no worse answers.
    """
    if isinstance(context.recipe.train, DpoConfig):
        return context.preferences
    return context.training_samples, context.validation_samples


def rows_of(
    parts: Parts, tokenizer: Tokenizer, settings: RowSettings, *, thinking: bool
) -> tuple[RenderedRows[Any], RenderedRows[Any]]:
    """Return the training and validation rows, or pairs of rows.

    Raises:
        DataError: a sample cannot be trained on.
    """

    def rendered(part: Sequence[Any]) -> RenderedRows[Any]:
        if isinstance(settings, DpoConfig):
            return pair_rows(part, tokenizer, settings, thinking=thinking)
        return sft_rows(part, tokenizer, settings, thinking=thinking)

    training, validation = map(rendered, parts)
    return training, validation


def collate_of(settings: RowSettings, capacity: int | None) -> Callable[[Sequence[Any]], Any]:
    """Return what makes a batch of rows, or of pairs of rows, packed up to a capacity if there is one."""
    collate = collated(capacity)
    return partial(pair_batch, collate=collate) if isinstance(settings, DpoConfig) else collate


def shuffled(
    rows: Sequence[Any],
    settings: RowSettings,
    capacity: int | None,
    shares: Mapping[str, float] | None = None,
) -> BatchSource[Any]:
    """Return the batches of all epochs, mixed by the shares of the rows' sources if there are several."""
    collate = collate_of(settings, capacity)
    kind = partial(MixedBatches, shares=shares) if shares else ShuffledBatches
    return kind(
        rows,
        collate,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs,
        seed=settings.seed,
    )


def mixed_as(
    training: Sequence[TrainRow], validation: Sequence[TrainRow], shares: Mapping[str, float]
) -> list[TrainRow]:
    """Return validation rows with weights, so that their mean loss is one of rows mixed as those trained on.

    A source counts by its share in the trained tokens, which is larger where its rows have more of them.
    """
    trained, held_out = _by_source(training), _by_source(validation)
    tokens = {
        name: share * fmean(row.trained_tokens for row in trained[name]) for name, share in shares.items()
    }
    return weighted(held_out, {name: mean / sum(tokens.values()) for name, mean in tokens.items()})


def _by_source(rows: Sequence[TrainRow]) -> dict[str, list[TrainRow]]:
    found: dict[str, list[TrainRow]] = {}
    for row in rows:
        found.setdefault(row.source, []).append(row)
    return found


def texts_of(rows: Sequence[TrainRow | PreferencePair]) -> Iterator[TrainRow]:
    """Yield the rows of pairs, or rows as they are."""
    for row in rows:
        yield from (row,) if isinstance(row, TrainRow) else (row.chosen, row.rejected)

"""The rows of a recipe's tasks as its method trains on them, and their batches, also for plans."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from smidgen.config import DpoConfig, JacobiConfig, SftConfig
from smidgen.data.templates import Tokenizer
from smidgen.errors import DataError
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.trajectory_rows import block_rows, collected_parts
from smidgen.training.batches import BatchSource, ShuffledBatches, TrainRow, collated
from smidgen.training.jacobi import BlockRow, Noise, TrajectoryBatches
from smidgen.training.mixed_batches import MixedBatches
from smidgen.training.objectives.preference import PreferencePair, pair_batch
from smidgen.training.preferences import pair_rows
from smidgen.training.pretrain import weighted
from smidgen.training.rendering import RenderedRows
from smidgen.training.sft import sft_rows

RowSettings = SftConfig | DpoConfig | JacobiConfig
Parts = tuple[Sequence[Any], Sequence[Any]]
"""Training and validation samples, preferences or trajectories."""


def samples_of(context: RunContext) -> Parts:
    """Return the training and validation samples of a recipe, its preferences, or its trajectories.

    Before trajectories are collected, as in a plan, the samples stand for them.

    Raises:
        ConfigError: the recipe learns preferences, and a task has no worse answers.
        DataError: the rows have no answers, and the teacher has not been asked.
    """
    if context.awaits_answers:
        raise DataError(
            "the rows have no answers to train on, and the teacher has not been asked yet; run the recipe"
        )
    if isinstance(context.recipe.train, DpoConfig):
        return context.preferences
    if isinstance(context.recipe.train, JacobiConfig) and (parts := collected_parts(context)) is not None:
        return parts
    return context.training_samples, context.validation_samples


def rows_of(
    parts: Parts, tokenizer: Tokenizer, settings: RowSettings, *, thinking: bool
) -> tuple[RenderedRows[Any], RenderedRows[Any]]:
    """Return the training and validation rows, pairs of rows, or trajectories.

    Raises:
        DataError: a sample cannot be trained on.
    """

    def rendered(part: Sequence[Any]) -> RenderedRows[Any]:
        if isinstance(settings, DpoConfig):
            return pair_rows(part, tokenizer, settings, thinking=thinking)
        if isinstance(settings, JacobiConfig):
            return block_rows(part, tokenizer, settings, thinking=thinking)
        return sft_rows(part, tokenizer, settings, thinking=thinking)

    training, validation = map(rendered, parts)
    return training, validation


def collate_of(settings: RowSettings, capacity: int | None) -> Callable[[Sequence[Any]], Any]:
    """Return what makes a batch of rows, or of pairs of rows, packed up to a capacity if there is one."""
    collate = collated(capacity)
    return partial(pair_batch, collate=collate) if isinstance(settings, DpoConfig) else collate


def noise_of(settings: JacobiConfig) -> Noise:
    """Return how noisy the guesses are that a recipe trains on."""
    return Noise(settings.noise_window, settings.context, settings.seed)


def shuffled(
    rows: Sequence[Any],
    settings: RowSettings,
    capacity: int | None,
    shares: Mapping[str, float] | None = None,
) -> BatchSource[Any]:
    """Return the batches of all epochs, mixed by the shares of the rows' sources if there are several."""
    steps: dict[str, Any] = {
        name: getattr(settings, name) for name in ("batch_size", "gradient_accumulation", "epochs", "seed")
    }
    if isinstance(settings, JacobiConfig):
        return TrajectoryBatches(rows, noise_of(settings), **steps)
    collate = collate_of(settings, capacity)
    return MixedBatches(rows, collate, shares, **steps) if shares else ShuffledBatches(rows, collate, **steps)


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


def texts_of(rows: Sequence[TrainRow | PreferencePair | BlockRow]) -> Iterator[TrainRow]:
    """Yield the rows of pairs, prompts with their answers, or rows as they are."""
    for row in rows:
        if isinstance(row, PreferencePair):
            yield from (row.chosen, row.rejected)
        else:
            yield row.text if isinstance(row, BlockRow) else row

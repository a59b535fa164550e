"""Padded batches of training rows, bucketed by length: every row once per epoch, resumable at any step.

Rows of similar length share a batch, so there is little padding, and padded lengths come from a small set, so
buffers are reused. Padding is on the right, where a causal model cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from smidgen.errors import DataError

LENGTH_STEP = 32
"""Lengths are padded to multiples of this."""
TARGET_STEP = 64
"""Numbers of trained positions are padded to multiples of this."""
WINDOW = 32
"""Steps whose shuffled rows are sorted by length together; larger windows pad less and shuffle less."""


@dataclass(frozen=True)
class TrainRow:
    """One training row.

    Attributes:
        token_ids: (L,) int32.
        loss_mask: (L,) bool; whether the loss counts the prediction of the token. The first is never counted.
        weights: (L,) float32 factors on the loss of each token; None for 1.
        segment_ids: (L,) int32 from 0: the text of each token, if the row is packed from several texts. The
            first token of a text is not trained.
    """

    token_ids: np.ndarray
    loss_mask: np.ndarray
    weights: np.ndarray | None = None
    segment_ids: np.ndarray | None = None

    @property
    def trained_tokens(self) -> int:
        """Number of tokens in the loss."""
        return int(self.loss_mask[1:].sum())


@dataclass(frozen=True)
class TrainBatch:
    """Padded rows for one forward pass.

    Attributes:
        inputs: (B, L) int32, right-padded.
        positions: (N,) int32 flat indices into (B · L) whose next token is trained; None if all are.
        targets: (N,) int32 next tokens at these positions.
        trained_tokens: how many of the N are in the loss; the rest is padding to a multiple of `TARGET_STEP`.
        tokens: number of unpadded input tokens.
        weights: (N,) float32 factors on the loss of each target; None for 1.
        segment_ids: (B, L) int32, the text of each input; None if every row is one text. A token attends only
            to its own text.
        position_ids: (B, L) int32 for the rotary embedding; None if they are the indices in the row.
    """

    inputs: np.ndarray
    positions: np.ndarray | None
    targets: np.ndarray
    trained_tokens: int
    tokens: int
    weights: np.ndarray | None = None
    segment_ids: np.ndarray | None = None
    position_ids: np.ndarray | None = None


class StepBatch(Protocol):
    """The part of a batch that the training loop reads; the rest is between batch source and objective."""

    @property
    def trained_tokens(self) -> int:
        """Number of tokens in the loss."""
        ...

    @property
    def tokens(self) -> int:
        """Number of unpadded tokens that go through the model."""
        ...


B_co = TypeVar("B_co", bound=StepBatch, covariant=True)


class BatchSource(Protocol[B_co]):
    """Source of the training loop's batches."""

    num_steps: int

    def next_step(self) -> Sequence[B_co]:
        """Return the batches of the next optimiser step."""
        ...

    def epoch(self) -> float:
        """Return the number of passes over the data so far."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        ...


class RowBatches:
    """Batches of a fixed set of rows, reshuffled each epoch.

    The rows of a step depend only on `batch_size · gradient_accumulation`, so accumulation does not change
    the results.
    """

    def __init__(
        self,
        rows: Sequence[TrainRow],
        *,
        batch_size: int,
        gradient_accumulation: int = 1,
        epochs: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not rows:
            raise DataError("there are no training rows; check the file, its splits and the limits in [data]")
        self._rows = rows
        self._batch_size = batch_size
        self._rows_per_step = batch_size * gradient_accumulation
        self._seed = seed
        self._steps_per_epoch = math.ceil(len(rows) / self._rows_per_step)
        self._step = 0
        self._order: tuple[int, list[np.ndarray]] | None = None
        self.num_steps = max(1, round(epochs * self._steps_per_epoch))

    def next_step(self) -> list[TrainBatch]:
        """Return the batches of the next optimiser step."""
        epoch, index = divmod(self._step, self._steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        self._step += 1
        rows = [self._rows[i] for i in self._order[1][index]]
        return [pad(rows[i : i + self._batch_size]) for i in range(0, len(rows), self._batch_size)]

    def epoch(self) -> float:
        """Return the number of passes over the rows so far."""
        return self._step / self._steps_per_epoch

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._step = state["step"]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each step of an epoch: bucketed by length in windows, then shuffled."""
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._rows))
        lengths = np.array([len(row.token_ids) for row in self._rows])
        steps = []
        window = WINDOW * self._rows_per_step
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(lengths[part], kind="stable")]
            steps += [part[i : i + self._rows_per_step] for i in range(0, len(part), self._rows_per_step)]
        return [steps[i] for i in generator.permutation(len(steps))]


def fixed_batches(rows: Sequence[TrainRow], batch_size: int) -> list[TrainBatch]:
    """Return the batches of a validation set: every row once, sorted by length."""
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    return [pad(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]


def pad(rows: Sequence[TrainRow]) -> TrainBatch:
    """Pad rows on the right to one length and collect the positions whose next token is trained."""
    longest = max(len(row.token_ids) for row in rows) - 1
    shape = len(rows), math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
    inputs, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    trained = np.zeros(shape, bool)
    for i, row in enumerate(rows):
        end = len(row.token_ids) - 1
        inputs[i, :end] = row.token_ids[:-1]
        targets[i, :end] = row.token_ids[1:]
        trained[i, :end] = row.loss_mask[1:]
    tokens = sum(len(row.token_ids) - 1 for row in rows)
    weights = _weights(rows, shape)
    segment_ids, position_ids = _segments(rows, shape)
    if trained.all():
        filled, count, targets = None, targets.size, targets.reshape(-1)
    else:
        positions = np.flatnonzero(trained).astype(np.int32)
        filled, count = np.pad(positions, (0, -len(positions) % TARGET_STEP)), len(positions)
        targets = targets.reshape(-1)[filled]
        weights = None if weights is None else weights[filled]
    return TrainBatch(inputs, filled, targets, count, tokens, weights, segment_ids, position_ids)


def join_rows(rows: Sequence[TrainRow]) -> TrainRow:
    """Pack several texts into one row, in which each keeps its own attention and positions."""
    weighted = any(row.weights is not None for row in rows)
    ones = [np.ones(len(row.token_ids), np.float32) for row in rows]
    weights = [one if row.weights is None else row.weights for row, one in zip(rows, ones, strict=True)]
    masks = [row.loss_mask.copy() for row in rows]
    for mask in masks:
        mask[0] = False
    return TrainRow(
        np.concatenate([row.token_ids for row in rows]),
        np.concatenate(masks),
        np.concatenate(weights) if weighted else None,
        np.repeat(np.arange(len(rows), dtype=np.int32), [len(row.token_ids) for row in rows]),
    )


def _weights(rows: Sequence[TrainRow], shape: tuple[int, int]) -> np.ndarray | None:
    """Return the weight of every target of a padded batch, flat; None if no row has weights."""
    if all(row.weights is None for row in rows):
        return None
    weights = np.ones(shape, np.float32)
    for i, row in enumerate(rows):
        if row.weights is not None:
            weights[i, : len(row.weights) - 1] = row.weights[1:]
    return weights.reshape(-1)


def _segments(
    rows: Sequence[TrainRow], shape: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the segment of each input, -1 for padding, and its position in it; None without packed rows."""
    if all(row.segment_ids is None for row in rows):
        return None, None
    segments = np.full(shape, -1, np.int32)
    for i, row in enumerate(rows):
        segments[i, : len(row.token_ids) - 1] = 0 if row.segment_ids is None else row.segment_ids[:-1]
    places = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    begins = np.ones(shape, bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return segments, places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)


@dataclass(frozen=True)
class TrainingPlan:
    """Exact size of a training run, known before it starts.

    Attributes:
        rows: number of training rows.
        longest: tokens of the longest row.
        tokens: unpadded tokens that go through the model in all steps.
        trained_tokens: tokens in the loss in all steps.
        padding: share of all input positions that is padding.
        steps: optimiser steps.
    """

    rows: int
    longest: int
    tokens: int
    trained_tokens: int
    padding: float
    steps: int


def plan_training(rows: Sequence[TrainRow], batches: RowBatches) -> TrainingPlan:
    """Draw the batches of all steps without training; the position of `batches` is restored."""
    position = batches.state()
    drawn = [batch for _ in range(batches.num_steps) for batch in batches.next_step()]
    batches.restore(position)
    tokens = sum(batch.tokens for batch in drawn)
    return TrainingPlan(
        rows=len(rows),
        longest=max(len(row.token_ids) for row in rows),
        tokens=tokens,
        trained_tokens=sum(batch.trained_tokens for batch in drawn),
        padding=1 - tokens / sum(batch.inputs.size for batch in drawn),
        steps=batches.num_steps,
    )

"""Rows to padded batches: real length buckets, every row once an epoch, resumable at any step.

Rows of similar length share a batch, so little is computed on padding, and padded lengths come from a small
set, so buffers are reused. Padding stands on the right, where a causal model cannot see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from smidgen.errors import DataError

LENGTH_STEP = 32
"""Padded lengths are multiples of this."""
TARGET_STEP = 64
"""Counts of learnt positions are filled up to multiples of this."""
WINDOW = 32
"""Steps' worth of shuffled rows that are sorted by length together: many find neighbours, few stay mixed."""


@dataclass(frozen=True)
class Row:
    """One training row.

    Attributes:
        token_ids: (L,) int32.
        loss_mask: (L,) bool; whether the token is learnt when it is predicted. The first cannot be.
    """

    token_ids: np.ndarray
    loss_mask: np.ndarray

    @property
    def trained_tokens(self) -> int:
        """How many tokens the loss counts."""
        return int(self.loss_mask[1:].sum())


@dataclass(frozen=True)
class Batch:
    """Padded rows for one forward pass.

    Attributes:
        inputs: (B, L) int32, right-padded.
        positions: (N,) int32 flat indices into (B · L) whose next token is learnt, or None when all are.
        targets: (N,) int32 next tokens there.
        trained_tokens: how many of the N count; the rest fills N up to a multiple, so that sizes recur.
        tokens: unpadded input tokens.
    """

    inputs: np.ndarray
    positions: np.ndarray | None
    targets: np.ndarray
    trained_tokens: int
    tokens: int


class BatchSource(Protocol):
    """Where the training loop takes its batches from."""

    num_steps: int

    def next_step(self) -> list[Batch]:
        """Return the batches of the next optimiser step."""
        ...

    def epoch(self) -> float:
        """Return the passes over the data so far."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a position that `state` returned."""
        ...


class RowBatches:
    """Batches of a fixed set of rows, shuffled anew each epoch.

    The rows of a step depend only on `batch_size · gradient_accumulation`, so accumulation changes no result.
    """

    def __init__(
        self,
        rows: Sequence[Row],
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

    def next_step(self) -> list[Batch]:
        """Return the batches of the next optimiser step."""
        epoch, index = divmod(self._step, self._steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        self._step += 1
        chosen = [self._rows[i] for i in self._order[1][index]]
        return [pad(chosen[i : i + self._batch_size]) for i in range(0, len(chosen), self._batch_size)]

    def epoch(self) -> float:
        """Return the passes over the rows so far."""
        return self._step / self._steps_per_epoch

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a position that `state` returned."""
        self._step = state["step"]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        """The rows of each step of an epoch: sorted by length within shuffled windows, then shuffled."""
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


def fixed_batches(rows: Sequence[Row], batch_size: int) -> list[Batch]:
    """Return every row once, sorted by length: the batches of a validation set."""
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    return [pad(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]


def pad(rows: Sequence[Row]) -> Batch:
    """Pad rows on the right to one length and find the positions whose next token is learnt."""
    longest = max(len(row.token_ids) for row in rows) - 1
    length = math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
    inputs = np.zeros((len(rows), length), np.int32)
    targets = np.zeros((len(rows), length), np.int32)
    learnt = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        end = len(row.token_ids) - 1
        inputs[i, :end] = row.token_ids[:-1]
        targets[i, :end] = row.token_ids[1:]
        learnt[i, :end] = row.loss_mask[1:]
    tokens = sum(len(row.token_ids) - 1 for row in rows)
    if learnt.all():
        return Batch(inputs, None, targets.reshape(-1), targets.size, tokens)
    positions = np.flatnonzero(learnt).astype(np.int32)
    filled = np.pad(positions, (0, -len(positions) % TARGET_STEP))
    return Batch(inputs, filled, targets.reshape(-1)[filled], len(positions), tokens)


@dataclass(frozen=True)
class Plan:
    """What a training run is going to do, known before it starts.

    Attributes:
        rows: training rows.
        longest: tokens of the longest row.
        tokens: unpadded tokens that go through the model in all steps.
        trained_tokens: tokens that the loss counts in all steps.
        padding: share of what is computed that is padding.
        steps: optimiser steps.
    """

    rows: int
    longest: int
    tokens: int
    trained_tokens: int
    padding: float
    steps: int


def plan(rows: Sequence[Row], batches: RowBatches) -> Plan:
    """Walk through the steps of a run without training; `batches` is left where it was."""
    position = batches.state()
    drawn = [batch for _ in range(batches.num_steps) for batch in batches.next_step()]
    batches.restore(position)
    tokens = sum(batch.tokens for batch in drawn)
    return Plan(
        rows=len(rows),
        longest=max(len(row.token_ids) for row in rows),
        tokens=tokens,
        trained_tokens=sum(batch.trained_tokens for batch in drawn),
        padding=1 - tokens / sum(batch.inputs.size for batch in drawn),
        steps=batches.num_steps,
    )

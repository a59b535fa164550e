"""Batches of training rows, bucketed by length: every row once per epoch, resumable at any step.

Rows of similar length share a batch, so there is little padding, and padded lengths come from a small set, so
buffers are reused. Padding is on the right, where a causal model cannot see it. Short rows can be packed,
which is laying them one after the other, each with its own attention and positions.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

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
        id: the id of its sample, for messages; empty if it has none.
        source: name of the source that the row is from, if its loss is reported apart; else empty.
    """

    token_ids: np.ndarray
    loss_mask: np.ndarray
    weights: np.ndarray | None = None
    segment_ids: np.ndarray | None = None
    id: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.token_ids)

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
        visible: (B, L, L) bool, which inputs of its text, up to itself, a token attends to; None for all.
        spans: (rows, 2) int32, first input of each training row in (B · L) and number of its inputs.
        rows: the training rows, in the order of `spans`.
        sources: names of the sources whose losses are reported apart.
        source_ids: (N,) int32, index into `sources` of each target; None without sources.
    """

    inputs: np.ndarray
    positions: np.ndarray | None
    targets: np.ndarray
    trained_tokens: int
    tokens: int
    weights: np.ndarray | None = None
    segment_ids: np.ndarray | None = None
    position_ids: np.ndarray | None = None
    visible: np.ndarray | None = None
    spans: np.ndarray | None = None
    rows: tuple[TrainRow, ...] = ()
    sources: tuple[str, ...] = ()
    source_ids: np.ndarray | None = None

    def singly(self) -> Iterator[tuple[str, "TrainBatch"]]:
        """Yield the name of every row and a batch of it alone."""
        for number, row in enumerate(self.rows, start=1):
            yield f"'{row.id}'" if row.id else f"{number} of its batch", pad([row])


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


R = TypeVar("R", bound=Sized)
B = TypeVar("B", bound=StepBatch)
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


@runtime_checkable
class FigureSource(Protocol):
    """A batch source that also tells how far it is, such as the epochs of each of several files."""

    def figures(self) -> Mapping[str, float]:
        """Return figures of the position after the last step by name, for `metrics.jsonl`."""
        ...


class ShuffledBatches(Generic[R, B]):
    """Batches of a fixed set of rows or pairs of rows, reshuffled each epoch.

    The rows of a step depend only on `batch_size · gradient_accumulation`, so accumulation does not change
    the results. `collate` makes a batch of its rows.
    """

    def __init__(
        self,
        rows: Sequence[R],
        collate: Callable[[Sequence[R]], B],
        *,
        batch_size: int,
        gradient_accumulation: int = 1,
        epochs: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not rows:
            raise DataError("there are no training rows; check the file, its splits and the limits in [data]")
        self._rows = rows
        self._collate = collate
        self._batch_size = batch_size
        self._rows_per_step = batch_size * gradient_accumulation
        self._seed = seed
        self._steps_per_epoch = math.ceil(len(rows) / self._rows_per_step)
        self._step = 0
        self._order: tuple[int, list[np.ndarray]] | None = None
        self.num_steps = max(1, round(epochs * self._steps_per_epoch))

    def next_step(self) -> list[B]:
        """Return the batches of the next optimiser step."""
        epoch, index = divmod(self._step, self._steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        self._step += 1
        rows = [self._rows[i] for i in self._order[1][index]]
        parts = [rows[i : i + self._batch_size] for i in range(0, len(rows), self._batch_size)]
        return [self._batch(part, epoch) for part in parts]

    def epoch(self) -> float:
        """Return the number of passes over the rows so far."""
        return self._step / self._steps_per_epoch

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._step = state["step"]

    def _batch(self, rows: Sequence[R], epoch: int) -> B:
        """Return the batch of some rows in an epoch, which counts from 0."""
        return self._collate(rows)

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each step of an epoch: bucketed by length in windows, then shuffled."""
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._rows))
        lengths = np.array([len(row) for row in self._rows])
        window, steps = WINDOW * self._rows_per_step, list[np.ndarray]()
        for start in range(0, len(order), window):
            part = order[start : start + window]
            steps += by_length(part, lengths[part], self._rows_per_step)
        return [steps[i] for i in generator.permutation(len(steps))]


def by_length(order: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide rows, given as (n,) indices, into steps of rows of similar `lengths`, (n,)."""
    order = order[np.argsort(lengths, kind="stable")]
    return [order[i : i + size] for i in range(0, len(order), size)]


def all_steps(batches: BatchSource[B]) -> Iterator[B]:
    """Yield the batches of all steps without training; the position is restored."""
    position = batches.state()
    for _ in range(batches.num_steps):
        yield from batches.next_step()
    batches.restore(position)


class RowBatches(ShuffledBatches[TrainRow, TrainBatch]):
    """Batches of a fixed set of rows; with a `capacity`, the rows of a batch are packed."""

    def __init__(self, rows: Sequence[TrainRow], *, capacity: int | None = None, **settings: Any) -> None:
        super().__init__(rows, collated(capacity), **settings)


def fixed_batches(
    rows: Sequence[TrainRow], batch_size: int, *, capacity: int | None = None
) -> list[TrainBatch]:
    """Return the batches of a validation set: every row once, sorted by length; packed as in `RowBatches`."""
    return sorted_batches(rows, collated(capacity), batch_size)


def sorted_batches(rows: Sequence[R], collate: Callable[[Sequence[R]], B], batch_size: int) -> list[B]:
    """Return batches of every row once, sorted by length."""
    ordered = sorted(rows, key=len)
    return [collate(ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]


def collated(capacity: int | None) -> Callable[[Sequence[TrainRow]], TrainBatch]:
    """Return what makes a batch of rows: `pad`, or `pack` with a capacity."""
    return pad if capacity is None else partial(pack, capacity=capacity)


def pad(rows: Sequence[TrainRow]) -> TrainBatch:
    """Pad rows on the right to one length and collect the positions whose next token is trained."""
    return _collate([[row] for row in rows])


def pack(rows: Sequence[TrainRow], capacity: int) -> TrainBatch:
    """Lay rows one after the other, up to `capacity` tokens in a row of the batch, which is little padding.

    Every row keeps its own attention and positions, so the losses are those of `pad`.
    """
    bins: list[list[TrainRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.token_ids)):  # first fit, the longest first
        size = len(row.token_ids) - 1
        found = next((i for i, left in enumerate(room) if left >= size), None)
        if found is None:
            found = len(bins)
            bins.append([])
            room.append(max(capacity, size))
        bins[found].append(row)
        room[found] -= size
    return _collate(bins)


def _collate(bins: Sequence[Sequence[TrainRow]]) -> TrainBatch:
    """Lay the rows of each bin one after the other in a row of the batch, without their last tokens."""
    longest = max(sum(len(row.token_ids) - 1 for row in rows) for rows in bins)
    shape = len(bins), math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
    inputs, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    trained, weights = np.zeros(shape, bool), np.ones(shape, np.float32)
    segments, spans = np.full(shape, -1, np.int32), []
    sources = tuple(sorted({row.source for rows in bins for row in rows} - {""}))
    origins = np.full(shape, -1, np.int32)
    for i, rows in enumerate(bins):
        start = texts = 0
        for row in rows:
            size = len(row.token_ids) - 1
            place = slice(start, start + size)
            inputs[i, place], targets[i, place] = row.token_ids[:-1], row.token_ids[1:]
            trained[i, place] = row.loss_mask[1:]
            if row.weights is not None:
                weights[i, place] = row.weights[1:]
            own = np.zeros(size, np.int32) if row.segment_ids is None else row.segment_ids[:-1]
            segments[i, place] = texts + own
            if row.source:
                origins[i, place] = sources.index(row.source)
            spans.append((i * shape[1] + start, size))
            start, texts = start + size, texts + int(own.max(initial=0)) + 1
    all_rows = [row for rows in bins for row in rows]
    packed = len(all_rows) > len(bins) or any(row.segment_ids is not None for row in all_rows)
    weighted = any(row.weights is not None for row in all_rows)
    positions = None if trained.all() else np.flatnonzero(trained).astype(np.int32)
    if positions is not None:
        positions = np.pad(positions, (0, -len(positions) % TARGET_STEP))
    chosen = slice(None) if positions is None else positions
    return TrainBatch(
        inputs,
        positions,
        targets.reshape(-1)[chosen],
        trained_tokens=int(trained.sum()),
        tokens=sum(size for _, size in spans),
        weights=weights.reshape(-1)[chosen] if weighted else None,
        segment_ids=segments if packed else None,
        position_ids=_positions(segments) if packed else None,
        spans=np.array(spans, np.int32),
        rows=tuple(all_rows),
        sources=sources,
        source_ids=origins.reshape(-1)[chosen] if sources else None,
    )


def _positions(segments: np.ndarray) -> np.ndarray:
    """Return the position of each token in its text, (B, L) int32."""
    places = np.broadcast_to(np.arange(segments.shape[1], dtype=np.int32), segments.shape)
    begins = np.ones(segments.shape, bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)

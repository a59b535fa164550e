"""Batches of rows of several sources, drawn in proportion to their weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.errors import DataError
from smidgen.training.batches import WINDOW, TrainBatch, TrainRow, by_length
from smidgen.training.mixing import Mix


class MixedBatches:
    """Batches of rows whose sources a mix draws; a source is reshuffled each time all its rows were drawn.

    As in `ShuffledBatches`, the rows of a window of steps are sorted by length, and the rows of a step depend
    only on `batch_size · gradient_accumulation`. An epoch has as many rows as there are.
    """

    def __init__(
        self,
        rows: Sequence[TrainRow],
        collate: Callable[[Sequence[TrainRow]], TrainBatch],
        shares: Mapping[str, float],
        *,
        batch_size: int,
        gradient_accumulation: int = 1,
        epochs: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Start at the first step.

        Args:
            rows: the rows of all sources.
            collate: makes a batch of its rows.
            shares: share of each source in the rows that are drawn, by its name.
            batch_size: rows of a batch.
            gradient_accumulation: batches of a step.
            epochs: how many times as many rows are drawn as there are.
            seed: seed of all draws.

        Raises:
            DataError: a source has no rows.
        """
        self._names = list(shares)
        self._rows = [[row for row in rows if row.source == name] for name in shares]
        for name, own in zip(shares, self._rows, strict=True):
            if not own:
                raise DataError(f"the source '{name}' has no training rows; check its file and its splits")
        self._mix = Mix((len(rows),), (tuple(shares.values()),), seed)
        self._collate, self._batch_size, self._seed = collate, batch_size, seed
        self._rows_per_step = batch_size * gradient_accumulation
        self._steps_per_epoch = -(-len(rows) // self._rows_per_step)
        self.num_steps = max(1, round(epochs * self._steps_per_epoch))
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        none = [0] * len(shares)
        self.restore({"step": 0, "before": none, "rows": none, "tokens": none})

    def next_step(self) -> list[TrainBatch]:
        """Return the batches of the next optimiser step."""
        window, index = divmod(self._step, WINDOW)
        if index == 0:
            self._before, self._window = list(self._drawn), None
        if self._window is None:
            self._window = self._steps_of(window)
        self._step += 1
        step = self._window[index]
        for source, row in step:
            self._drawn[source] += 1
            self._tokens[source] += len(row) - 1
        rows = [row for _, row in step]
        parts = [rows[i : i + self._batch_size] for i in range(0, len(rows), self._batch_size)]
        return [self._collate(part) for part in parts]

    def epoch(self) -> float:
        """Return the number of rows so far as a multiple of those there are."""
        return self._step / self._steps_per_epoch

    def figures(self) -> dict[str, float]:
        """Return the training tokens of each source so far, and its epochs."""
        figures: dict[str, float] = {}
        for name, rows, drawn, tokens in zip(self._names, self._rows, self._drawn, self._tokens, strict=True):
            figures |= {f"tokens/{name}": tokens, f"epoch/{name}": drawn / len(rows)}
        return figures

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {
            "step": self._step,
            "before": list(self._before),  # rows of each source before the window
            "rows": list(self._drawn),
            "tokens": list(self._tokens),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._step, self._before = state["step"], list(state["before"])
        self._drawn, self._tokens = list(state["rows"]), list(state["tokens"])
        self._window: list[list[tuple[int, TrainRow]]] | None = None

    def _steps_of(self, window: int) -> list[list[tuple[int, TrainRow]]]:
        """Draw the rows of a window, each with the index of its source, and divide them into steps."""
        size, drawn, rows = self._rows_per_step, list(self._before), list[tuple[int, TrainRow]]()
        first = window * WINDOW
        for number in range(first * size, min(first + WINDOW, self.num_steps) * size):
            source = self._mix.source_of(number)
            rows.append((source, self._row(source, drawn[source])))
            drawn[source] += 1
        lengths = np.array([len(row) for _, row in rows])
        steps = by_length(np.arange(len(rows)), lengths, size)
        order = np.random.default_rng([self._seed, window, 0, 1]).permutation(len(steps))
        return [[rows[i] for i in steps[step]] for step in order]

    def _row(self, source: int, number: int) -> TrainRow:
        """Return the row that is drawn from a source after `number` others."""
        epoch, place = divmod(number, len(self._rows[source]))
        if self._orders.get(source, (None,))[0] != epoch:
            generator = np.random.default_rng([self._seed, source, epoch, 2])
            self._orders[source] = epoch, generator.permutation(len(self._rows[source]))
        return self._rows[source][self._orders[source][1][place]]

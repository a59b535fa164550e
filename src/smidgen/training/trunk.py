"""The frozen lower blocks of a model, whose output for a row is the same in every epoch.

With adapters in the last N blocks only, the hidden states below them are computed once per row and then read
from a memory-mapped file. States are rounded to the file's dtype before their first use, so every epoch sees
the same ones.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from smidgen.backend import mx, nn
from smidgen.errors import WorkError
from smidgen.models.graph import body, head_weight, named_arrays
from smidgen.training.batches import TrainBatch, TrainRow
from smidgen.training.row_cache import PendingCache, RowCache, row_key, weights_checksum

StateDtype = Literal["float16", "float32"]


def frozen_blocks(model: nn.Module) -> int:
    """Return the number of lowest blocks of which nothing is trained; 0 if the embedding is trained."""
    inner = body(model)
    if inner.embed_tokens.trainable_parameters():
        return 0
    trained = [bool(named_arrays(block.trainable_parameters())) for block in inner.layers]
    return trained.index(True) if True in trained else 0


class Trunk:
    """The lowest blocks of a model, none of them trained, with a cache of their output if one is given.

    Attributes:
        depth: number of blocks.
    """

    def __init__(self, depth: int, run: Callable[[TrainBatch], mx.array]) -> None:
        self.depth = depth
        self._run = run
        self._cache: RowCache | None = None

    def keep(self, cache: RowCache) -> None:
        """Store states from now on, and read those that are stored."""
        self._cache = cache

    def states(self, batch: TrainBatch) -> mx.array:
        """Return the hidden states (B, L, D) of a batch after the last block of the trunk."""
        if self._cache is None or batch.spans is None:
            return mx.stop_gradient(self._run(batch))
        return self._stored(batch, batch.spans, self._cache)

    def _stored(self, batch: TrainBatch, spans: np.ndarray, cache: RowCache) -> mx.array:
        """Return stored states; if any are missing, run the batch and store those."""
        rows, length = batch.inputs.shape
        places = [
            (row_key(row), slice(start, start + size))
            for row, (start, size) in zip(batch.rows, spans.tolist(), strict=True)
        ]
        found = np.zeros((rows * length, *cache.dtype.shape), np.float32)

        def compute() -> np.ndarray:
            fresh = self._run(batch)
            mx.eval(fresh)
            return np.array(fresh.astype(mx.float32)).reshape(rows * length, -1)

        cache.fill(found, places, compute, lambda states: _rounded(states, cache.dtype.base))
        return mx.array(found.reshape(rows, length, -1))


def _rounded(states: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return states as they are stored.

    Raises:
        WorkError: a number is too large for the dtype.
    """
    with np.errstate(over="ignore"):
        stored = states.astype(dtype)
    if not np.isfinite(stored).all():
        raise WorkError(
            f"a hidden state of {np.abs(states).max():.3g} does not fit {dtype}; "
            'set train.trunk_cache = "float32" or "off"'
        )
    return stored


def trunk_states(trunk: Trunk, model: nn.Module, rows: Sequence[TrainRow], dtype: StateDtype) -> PendingCache:
    """Return a cache of a trunk's states for some rows, with numbers of a dtype."""
    inner = body(model)
    return PendingCache(
        "trunk",
        "the states of the frozen blocks",
        "lower train.trunk_cache_gb",
        {row_key(row): len(row.token_ids) - 1 for row in rows},
        np.dtype((dtype, (head_weight(model).shape[1],))),
        lambda: weights_checksum([inner.embed_tokens, *inner.layers[: trunk.depth]]),
        trunk.keep,
    )

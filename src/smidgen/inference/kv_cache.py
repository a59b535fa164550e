"""The KV cache of the rows being decoded: slots in one buffer per layer.

The token at position p of a row is in column p of its slot, so rows of different lengths share a buffer
without left padding. A row joins by being written into a free slot and leaves by having the last row copied
over it. Columns past a row's end are hidden by the causal mask and overwritten later.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from smidgen.errors import ConfigError

GROWTH = 128  # columns are added in multiples of this
GROUP_SIZES = (64, 32)
"""Quantisation group sizes along a head's width: the first that divides the width is used."""


class Pass:
    """One forward pass over consecutive slots: the positions and numbers of new tokens.

    Attributes:
        start, stop: slot range of the B rows.
        cached: number of cached tokens per row (B,).
        counts: number of new tokens per row (B,), with sum T and maximum L.
        width: columns in use after the pass, W.
        shared: number of first columns in which all rows are equal to slot 0.
    """

    def __init__(
        self,
        start: int,
        cached: Sequence[int] | np.ndarray,
        counts: Sequence[int] | np.ndarray,
        shared: int = 0,
    ):
        self.start, self.stop = start, start + len(cached)
        self.cached = np.asarray(cached, np.int32)
        self.counts = np.asarray(counts, np.int32)
        self.width = int((self.cached + self.counts).max())
        self.shared = shared

    @cached_property
    def is_padding(self) -> np.ndarray:
        """Mask of the padding in the right-padded input (B, L)."""
        return np.arange(self.counts.max()) >= self.counts[:, None]

    @cached_property
    def slots(self) -> np.ndarray:
        """Slot of every new token (T,)."""
        return np.repeat(np.arange(self.start, self.stop), self.counts)

    @cached_property
    def columns(self) -> np.ndarray:
        """Position of every new token (T,)."""
        padded = self.cached[:, None] + np.arange(self.counts.max())
        return padded[~self.is_padding]

    def part(self, begin: int, end: int) -> "Pass":
        """Return the pass of the tokens from `begin` to `end` alone, which may cut rows in two."""
        ends = np.cumsum(self.counts)
        begins = ends - self.counts
        rows = slice(int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(begins, end)))
        first = np.maximum(begins[rows], begin)
        return Pass(
            self.start + rows.start,
            self.cached[rows] + first - begins[rows],
            np.minimum(ends[rows], end) - first,
            self.shared,
        )


class SlotCache:
    """Keys and values of one layer (S, K, C, D): S slots, K heads, C columns, heads of width D."""

    def __init__(self, xp: Any, num_heads: int, head_dim: int, dtype: Any):
        """Create a cache without slots; `xp` is `numpy` or `mlx.core`."""
        self._xp = xp
        self.keys = xp.zeros((0, num_heads, 0, head_dim), dtype=dtype)
        self.values = self.keys

    def reserve(self, slots: int, columns: int) -> None:
        """Grow to at least `slots` and `columns`, keeping the contents."""
        S, K, C, D = self.keys.shape
        if slots > S or columns > C:
            shape = (max(slots, S), K, max(-(-columns // GROWTH) * GROWTH, C), D)
            self.keys, self.values = self._grown(self.keys, shape), self._grown(self.values, shape)

    def keep(self, slots: int) -> None:
        """Release the memory of all but the first `slots` slots."""
        if self.keys.shape[0] > slots:
            self.keys, self.values = (self._xp.array(x[:slots]) for x in (self.keys, self.values))

    def copy(self, sources: Sequence[int], start: int, length: int) -> None:
        """Copy the first `length` columns of some slots to those from `start` on; reads all of them first."""
        if len(sources) and length:
            index = self._xp.array(sources)
            for buffer in (self.keys, self.values):
                buffer[start : start + len(sources), :, :length] = buffer[index, :, :length]

    def first(self, length: int) -> tuple[Any, ...]:
        """Return copies of the first `length` columns of the first slot, (1, K, length, D) each."""
        return tuple(self._xp.array(buffer[:1, :, :length]) for buffer in self.arrays)

    def set_first(self, arrays: Sequence[Any]) -> None:
        """Write what `first` returned into the first slot, which has room for it."""
        for buffer, array in zip(self.arrays, arrays, strict=True):
            buffer[:1, :, : array.shape[2]] = array

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the cache."""
        return self.keys, self.values

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one column of one slot."""
        _, K, _, D = self.keys.shape
        return 2 * K * D * self._xp.zeros(1, dtype=self.keys.dtype).nbytes

    def write(self, at: Pass, keys: Any, values: Any) -> None:
        """Store the keys and values (T, K, D) of the new tokens."""
        self.put(self._xp.array(at.slots), self._xp.array(at.columns), keys, values)

    def put(self, slots: Any, columns: Any, keys: Any, values: Any) -> None:
        """Store keys and values (T, K, D) of tokens at given slots and columns (T,)."""
        self.keys[slots, :, columns] = keys
        self.values[slots, :, columns] = values

    def read(self, at: Pass) -> tuple[Any, Any]:
        """Return the keys and values of the rows of a pass up to its width, (B, K, W, D)."""
        rows = slice(at.start, at.stop)
        return self.keys[rows, :, : at.width], self.values[rows, :, : at.width]

    def _grown(self, buffer: Any, shape: tuple[int, ...]) -> Any:
        grown = self._xp.zeros(shape, dtype=buffer.dtype)
        grown[: buffer.shape[0], :, : buffer.shape[2]] = buffer
        return grown


def group_size_of(head_dim: int) -> int:
    """Return the quantisation group size for a head width.

    Raises:
        ConfigError: the width is not a multiple of any group size.
    """
    for size in GROUP_SIZES:
        if head_dim % size == 0:
            return size
    raise ConfigError(
        f"kv_bits needs a head width that is a multiple of {min(GROUP_SIZES)}; this model's is "
        f"{head_dim}, so leave kv_bits out"
    )


class QuantisedSlotCache:
    """A `SlotCache` for MLX with keys and values quantised by `mx.quantize`.

    It consists of three plain caches: of the packed values, and of the scale and bias of each group along a
    head's width.

    Attributes:
        bits, group_size: quantisation parameters, read by mlx-lm's attention.
    """

    def __init__(self, mx: Any, num_heads: int, head_dim: int, dtype: Any, *, bits: int, group_size: int):
        """Create a cache without slots; `head_dim` is a multiple of `group_size`."""
        self.bits, self.group_size = bits, group_size
        self._mx = mx
        groups = head_dim // group_size
        shapes = [(head_dim * bits // 32, mx.uint32), (groups, dtype), (groups, dtype)]
        self._parts = [SlotCache(mx, num_heads, width, kind) for width, kind in shapes]

    def reserve(self, slots: int, columns: int) -> None:
        """Grow to at least `slots` and `columns`, keeping the contents."""
        for part in self._parts:
            part.reserve(slots, columns)

    def keep(self, slots: int) -> None:
        """Release the memory of all but the first `slots` slots."""
        for part in self._parts:
            part.keep(slots)

    def copy(self, sources: Sequence[int], start: int, length: int) -> None:
        """Copy the first `length` columns of some slots to those from `start` on; reads all of them first."""
        for part in self._parts:
            part.copy(sources, start, length)

    def first(self, length: int) -> tuple[Any, ...]:
        """Return copies of the first `length` columns of the first slot."""
        return tuple(chain.from_iterable(part.first(length) for part in self._parts))

    def set_first(self, arrays: Sequence[Any]) -> None:
        """Write what `first` returned into the first slot, which has room for it."""
        for i, part in enumerate(self._parts):
            part.set_first(arrays[2 * i : 2 * i + 2])

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the cache."""
        return tuple(chain.from_iterable(part.arrays for part in self._parts))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one column of one slot."""
        return sum(part.bytes_per_token for part in self._parts)

    def write(self, at: Pass, keys: Any, values: Any) -> None:
        """Store the keys and values (T, K, D) of the new tokens."""
        halves = (self._mx.quantize(x, group_size=self.group_size, bits=self.bits) for x in (keys, values))
        for part, key, value in zip(self._parts, *halves, strict=True):
            part.write(at, key, value)

    def read(self, at: Pass) -> tuple[Any, Any]:
        """Return the keys and values of a pass, each as packed values, scales and biases (B, K, W, …)."""
        keys, values = zip(*(part.read(at) for part in self._parts), strict=True)
        return keys, values

"""Keys and values of the rows that are being decoded, in slots of one buffer for each layer.

The token at position p of a row stands in column p of its slot, so rows of different lengths share a buffer
without padding on their left. A row joins by being written into a free slot and leaves by having the last row
copied over it. Whatever stands behind a row's end is hidden by the causal mask and overwritten later.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from smidgen.errors import ConfigError

GROWTH = 128  # columns are added by this many
GROUP_SIZES = (64, 32)
"""Neighbours along a head's width that share a scale: the first of these that divides the width."""


class Pass:
    """One forward pass over neighbouring slots: where its rows stand and how many tokens each brings.

    Attributes:
        start, stop: the slots of its B rows.
        held: tokens that each row already holds (B,).
        counts: tokens that each row brings (B,); T together, L at most.
        width: columns in use once the pass is done, W.
    """

    def __init__(self, start: int, held: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray):
        self.start, self.stop = start, start + len(held)
        self.held = np.asarray(held, np.int32)
        self.counts = np.asarray(counts, np.int32)
        self.width = int((self.held + self.counts).max())

    @cached_property
    def is_padding(self) -> np.ndarray:
        """Which entries of the right-padded input (B, L) are no tokens."""
        return np.arange(self.counts.max()) >= self.counts[:, None]

    @cached_property
    def slots(self) -> np.ndarray:
        """Slot of every new token (T,)."""
        return np.repeat(np.arange(self.start, self.stop), self.counts)

    @cached_property
    def columns(self) -> np.ndarray:
        """Position of every new token (T,)."""
        padded = self.held[:, None] + np.arange(self.counts.max())
        return padded[~self.is_padding]


class SlotCache:
    """Keys and values of one layer (S, K, C, D): S slots, K heads, C columns, heads of width D."""

    def __init__(self, xp: Any, num_heads: int, head_dim: int, dtype: Any):
        """Make a cache without slots; `xp` is `numpy` or `mlx.core`."""
        self._xp = xp
        self.keys = xp.zeros((0, num_heads, 0, head_dim), dtype=dtype)
        self.values = self.keys

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; what is there stays."""
        S, K, C, D = self.keys.shape
        if slots > S or columns > C:
            shape = (max(slots, S), K, max(-(-columns // GROWTH) * GROWTH, C), D)
            self.keys, self.values = self._grown(self.keys, shape), self._grown(self.values, shape)

    def keep(self, slots: int) -> None:
        """Give back the memory of all but the first `slots` slots."""
        if self.keys.shape[0] > slots:
            self.keys, self.values = (self._xp.array(x[:slots]) for x in (self.keys, self.values))

    def copy(self, sources: Sequence[int], start: int, length: int) -> None:
        """Copy the first `length` columns of some slots, all read first, into those from `start` on."""
        if len(sources) and length:
            index = self._xp.array(sources)
            for buffer in (self.keys, self.values):
                buffer[start : start + len(sources), :, :length] = buffer[index, :, :length]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What is held."""
        return self.keys, self.values

    @property
    def bytes_per_token(self) -> int:
        """Memory of one column of one slot."""
        _, K, _, D = self.keys.shape
        return 2 * K * D * self._xp.zeros(1, dtype=self.keys.dtype).nbytes

    def write(self, at: Pass, keys: Any, values: Any) -> None:
        """Put the keys and values (T, K, D) of the new tokens in their places."""
        slots, columns = self._xp.array(at.slots), self._xp.array(at.columns)
        self.keys[slots, :, columns] = keys
        self.values[slots, :, columns] = values

    def read(self, at: Pass) -> tuple[Any, Any]:
        """Return keys and values of the rows of a pass up to its width, (B, K, W, D)."""
        rows = slice(at.start, at.stop)
        return self.keys[rows, :, : at.width], self.values[rows, :, : at.width]

    def _grown(self, buffer: Any, shape: tuple[int, ...]) -> Any:
        grown = self._xp.zeros(shape, dtype=buffer.dtype)
        grown[: buffer.shape[0], :, : buffer.shape[2]] = buffer
        return grown


def group_size_of(head_dim: int) -> int:
    """Return how many neighbours along a head of some width share a scale.

    Raises:
        ConfigError: such heads cannot be held in few bits.
    """
    for size in GROUP_SIZES:
        if head_dim % size == 0:
            return size
    raise ConfigError(
        f"kv_bits needs heads whose width is a multiple of {min(GROUP_SIZES)}; this model's are "
        f"{head_dim} wide, so leave it out"
    )


class QuantisedSlotCache:
    """A `SlotCache` of MLX whose keys and values are held in few bits, in the form of `mx.quantize`.

    It is made of three plain ones: of the packed numbers, and of the scale and the bias of each group of
    neighbours along a head's width.

    Attributes:
        bits, group_size: of the quantisation; mlx-lm's attention looks for them.
    """

    def __init__(self, mx: Any, num_heads: int, head_dim: int, dtype: Any, *, bits: int, group_size: int):
        """Make a cache without slots; `head_dim` is a multiple of `group_size`."""
        self.bits, self.group_size = bits, group_size
        self._mx = mx
        groups = head_dim // group_size
        shapes = [(head_dim * bits // 32, mx.uint32), (groups, dtype), (groups, dtype)]
        self._parts = [SlotCache(mx, num_heads, width, kind) for width, kind in shapes]

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; what is there stays."""
        for part in self._parts:
            part.reserve(slots, columns)

    def keep(self, slots: int) -> None:
        """Give back the memory of all but the first `slots` slots."""
        for part in self._parts:
            part.keep(slots)

    def copy(self, sources: Sequence[int], start: int, length: int) -> None:
        """Copy the first `length` columns of some slots, all read first, into those from `start` on."""
        for part in self._parts:
            part.copy(sources, start, length)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What is held."""
        return tuple(chain.from_iterable(part.arrays for part in self._parts))

    @property
    def bytes_per_token(self) -> int:
        """Memory of one column of one slot."""
        return sum(part.bytes_per_token for part in self._parts)

    def write(self, at: Pass, keys: Any, values: Any) -> None:
        """Put the keys and values (T, K, D) of the new tokens in their places."""
        halves = (self._mx.quantize(x, group_size=self.group_size, bits=self.bits) for x in (keys, values))
        for part, key, value in zip(self._parts, *halves, strict=True):
            part.write(at, key, value)

    def read(self, at: Pass) -> tuple[Any, Any]:
        """Return keys and values of the rows of a pass, each as numbers, scales and biases (B, K, W, …)."""
        keys, values = zip(*(part.read(at) for part in self._parts), strict=True)
        return keys, values

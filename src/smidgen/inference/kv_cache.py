"""Keys and values of the rows that are being decoded, in slots of one buffer for each layer.

The token at position p of a row stands in column p of its slot, so rows of different lengths share a buffer without
padding on their left, a row joins by being written into a free slot, and leaves by having the last row copied over
it. Whatever stands behind a row's end is hidden by the causal mask and overwritten later.

The caches are what mlx-lm's models expect: `offset`, `make_mask` and `update_and_fetch`. On the CPU, where MLX
computes the exponentials of a softmax one by one, the attention that `smidgen.cpu_kernels` puts into a model
calls `attend` instead, which is numpy throughout.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from smidgen.backend import mx

GROWTH = 128  # columns are added by this many


class Pass:
    """One forward pass over neighbouring slots: where its rows stand and how many tokens each brings."""

    def __init__(self, start: int, held: Sequence[int], counts: Sequence[int]):
        """Describe a pass.

        Args:
            start: the first slot.
            held: tokens that each row already holds.
            counts: tokens that each row brings; the input is padded on its right to the longest.
        """
        self.start = start
        self.stop = start + len(held)
        self.held = np.asarray(held, np.int32)
        self.counts = np.asarray(counts, np.int32)
        self.width = int((self.held + self.counts).max())

    @cached_property
    def offset(self) -> mx.array:
        """Position of each row's first new token (B,), as rotary embeddings take it."""
        return mx.array(self.held)

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of every new token (B, L)."""
        return self.held[:, None] + np.arange(self.counts.max(), dtype=np.int32)

    @cached_property
    def mask(self) -> mx.array:
        """Which columns a token may look at (B, 1, L, W): those up to its own."""
        return mx.array(np.arange(self.width) <= self.positions[:, None, :, None])

    @cached_property
    def step_bias(self) -> np.ndarray:
        """What is added to the scores of a pass of one token a row (B, 1, 1, W): 0, or −∞ behind a row's end."""
        hidden = np.arange(self.width) > self.held[:, None, None, None]
        return np.where(hidden, np.float32(-np.inf), np.float32(0))


class SlotCache:
    """Keys and values of one layer as MLX arrays (S, K, C, D): S slots, K heads, C columns of width D."""

    xp: Any = mx

    def __init__(self) -> None:
        self.keys: Any = None
        self.values: Any = None
        self.current: Pass
        self._wanted = (0, 0)

    def reserve(self, slots: int, columns: int) -> None:
        """Make room; what is there stays."""
        columns = -(-columns // GROWTH) * GROWTH
        self._wanted = (max(slots, self._wanted[0]), max(columns, self._wanted[1]))
        if self.keys is not None:
            self.keys, self.values = self._grown(self.keys), self._grown(self.values)

    def copy(self, source: int, start: int, stop: int, length: int) -> None:
        """Copy the first `length` columns of slot `source` into the slots from `start` to `stop`."""
        if length and self.keys is not None:
            for buffer in (self.keys, self.values):
                buffer[start:stop, :, :length] = buffer[source : source + 1, :, :length]

    @property
    def offset(self) -> mx.array:
        """Position of each row's first new token (B,)."""
        return self.current.offset

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return the mask of the current pass (B, 1, N, W)."""
        assert window_size is None, "architectures with sliding windows are refused at loading"
        return self.current.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take the new keys and values (B, K, L, D); return those of all columns in use (B, K, W, D)."""
        self._write(keys, values)
        rows = slice(self.current.start, self.current.stop)
        width = self.current.width
        return mx.array(self.keys[rows, :, :width]), mx.array(self.values[rows, :, :width])

    def _write(self, keys: Any, values: Any) -> None:
        if self.keys is None:
            self.keys, self.values = self._empty(keys), self._empty(values)
        rows = self.xp.array(np.arange(self.current.start, self.current.stop)[:, None])
        columns = self.xp.array(np.minimum(self.current.positions, self.keys.shape[2] - 1))
        self.keys[rows, :, columns] = keys.transpose(0, 2, 1, 3)
        self.values[rows, :, columns] = values.transpose(0, 2, 1, 3)

    def _empty(self, like: Any) -> Any:
        _, K, _, D = like.shape
        return self.xp.zeros((self._wanted[0], K, self._wanted[1], D), dtype=like.dtype)

    def _grown(self, buffer: Any) -> Any:
        S, _, C, _ = buffer.shape
        if (S, C) == self._wanted:
            return buffer
        grown = self._empty(buffer)
        grown[:S, :, :C] = buffer
        return grown


class NumpySlotCache(SlotCache):
    """The same in numpy arrays, with the attention itself."""

    xp = np

    def _write(self, keys: Any, values: Any) -> None:
        super()._write(np.asarray(keys), np.asarray(values))

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        """Attend from the new tokens to those of their rows.

        Args:
            queries: rotated queries (B, H, L, D).
            keys: rotated keys (B, K, L, D) of the new tokens; each serves H / K query heads.
            values: values (B, K, L, D) of the new tokens.
            scale: factor on the scores.

        Returns:
            What each head read (B, H, L, D); 0 at padding.
        """
        self._write(keys, values)
        scaled = np.asarray(queries) * np.float32(scale)
        return mx.array(self._attend_step(scaled) if scaled.shape[2] == 1 else self._attend_rows(scaled))

    def _attend_step(self, queries: np.ndarray) -> np.ndarray:
        """One token a row: all rows at once."""
        B, H, _, D = queries.shape
        K = self.keys.shape[1]
        at = (slice(self.current.start, self.current.stop), slice(None), slice(self.current.width))
        scores = queries.reshape(B, K, H // K, D) @ self.keys[at].swapaxes(-1, -2)
        scores += self.current.step_bias
        return (_softmax(scores) @ self.values[at]).reshape(B, H, 1, D)

    def _attend_rows(self, queries: np.ndarray) -> np.ndarray:
        """Many tokens a row: row by row, which leaves the padding out and stays in the processor's cache."""
        _, H, _, D = queries.shape
        K = self.keys.shape[1]
        read = np.zeros_like(queries)
        for i, (held, count) in enumerate(zip(self.current.held, self.current.counts, strict=True)):
            slot, width = self.current.start + i, held + count
            row = queries[i, :, :count].reshape(K, -1, D)
            scores = (row @ self.keys[slot, :, :width].swapaxes(-1, -2)).reshape(H, count, width)
            scores[:, :, held:] += np.triu(np.full((count, count), -np.inf, np.float32), 1)
            weights = _softmax(scores).reshape(K, -1, width)
            read[i, :, :count] = (weights @ self.values[slot, :, :width]).reshape(H, count, D)
        return read


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores

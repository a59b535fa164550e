"""Packed rows: several texts in a row, each with its own attention and positions, or with a mask of its own.

The kernels read segments and positions directly. For layers that they do not support, this module does the
same with an explicit mask and a rotary embedding at given positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smidgen.backend import mx, nn


@dataclass(frozen=True)
class Packing:
    """Segments and positions of packed, padded rows.

    Attributes:
        segments: (B, L) int32; a token attends to itself and to earlier tokens of the same segment.
        positions: (B, L) int32 positions for the rotary embedding, from 0.
        visible: (B, L, L) bool, which of these tokens it attends to, itself included; None for all.
    """

    segments: np.ndarray
    positions: np.ndarray
    visible: np.ndarray | None = None

    @property
    def num_positions(self) -> int:
        """The maximum position plus 1."""
        return int(self.positions.max()) + 1

    def mask(self) -> mx.array:
        """Return the attention mask, (B, 1, L, L) bool."""
        segments = mx.array(self.segments)
        places = mx.arange(segments.shape[1])
        together = segments[:, None, :, None] == segments[:, None, None, :]
        mask = together & (places[:, None] >= places)
        return mask if self.visible is None else mask & mx.array(self.visible)[:, None]

    @cached_property
    def barred(self) -> mx.array | None:
        """Return -inf where a token does not attend to the j-th token of its segment, else 0, (B · L, L)."""
        if self.visible is None:
            return None
        places = np.arange(self.segments.shape[1])
        begins = np.ones(self.segments.shape, bool)
        begins[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
        starts = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
        columns = np.minimum(starts[..., None] + places, len(places) - 1)
        is_visible = np.take_along_axis(self.visible, columns, axis=2)
        return mx.array(np.where(is_visible, np.float32(0), -np.inf).reshape(-1, len(places)))

    def attend(self, attention: Any, x: mx.array) -> mx.array:
        """Run an attention layer on x (B, L, D) with this mask and these positions."""
        if getattr(attention, "takes_positions", False):
            return attention(x, self.mask(), None, mx.array(self.positions))
        with self.placed(attention):
            return attention(x, self.mask())

    @contextmanager
    def placed(self, attention: Any) -> Iterator[None]:
        """Make an attention layer use these positions for its rotary embedding."""
        rope = attention.rope
        attention["rope"] = _Placed(rope, mx.array(self.positions))
        try:
            yield
        finally:
            attention["rope"] = rope


class _Placed(nn.Module):
    """A rotary embedding at given positions (B, L) instead of the indices in the row."""

    def __init__(self, rope: Any, positions: mx.array) -> None:
        super().__init__()
        self._rope, self._positions = rope, positions

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate x (B, H, L, D/H)."""
        return rotate_at(self._rope, x, self._positions)


def rotate_at(rope: Callable[..., mx.array], x: mx.array, positions: mx.array) -> mx.array:
    """Return x (B, H, L, D/H) rotated by an embedding at positions (B, L), not at the indices in the row."""
    B, H, L, width = x.shape
    tokens = x.transpose(0, 2, 1, 3).reshape(B * L, H, 1, width)
    turned = rope(tokens, offset=positions.reshape(-1))
    return turned.reshape(B, L, H, width).transpose(0, 2, 1, 3)

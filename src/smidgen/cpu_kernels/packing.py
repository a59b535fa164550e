"""Rows that hold several texts: attention within each text, and positions of its own.

The kernels read the segments and positions themselves; for layers that they do not serve, the same is done
here by an explicit mask and a rotary embedding that is given the position of every token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.backend import mx, nn


@dataclass(frozen=True)
class Packing:
    """Which tokens of padded rows belong together.

    Attributes:
        segments: (B, L) int32; a token attends to itself and to the earlier tokens with its number.
        positions: (B, L) int32 positions for the rotary embedding, from 0.
    """

    segments: np.ndarray
    positions: np.ndarray

    @property
    def num_positions(self) -> int:
        """One more than the last position."""
        return int(self.positions.max()) + 1

    def mask(self) -> mx.array:
        """Which tokens each token attends to, (B, 1, L, L) bool."""
        segments = mx.array(self.segments)
        places = mx.arange(segments.shape[1])
        together = segments[:, None, :, None] == segments[:, None, None, :]
        return together & (places[:, None] >= places)

    @contextmanager
    def placed(self, attention: Any) -> Iterator[None]:
        """Let an attention layer turn every token by its own position."""
        rope = attention.rope
        attention["rope"] = _Placed(rope, mx.array(self.positions))
        try:
            yield
        finally:
            attention["rope"] = rope


class _Placed(nn.Module):
    """A rotary embedding at given positions (B, L) instead of at the places in the row."""

    def __init__(self, rope: Any, positions: mx.array) -> None:
        super().__init__()
        self._rope, self._positions = rope, positions

    def __call__(self, x: mx.array) -> mx.array:
        """Turn x (B, H, L, D/H)."""
        B, H, L, width = x.shape
        tokens = x.transpose(0, 2, 1, 3).reshape(B * L, H, 1, width)
        turned = self._rope(tokens, offset=self._positions.reshape(-1))
        return turned.reshape(B, L, H, width).transpose(0, 2, 1, 3)

"""How an attention layer places its tokens: the angles of its rotary embedding, and up to which length.

The kernels rotate pairs that are half a head apart. Embeddings that rotate neighbours (MobileLLM-R1) are the
same after the rows of the query and key projections are reordered, since scores do not depend on the order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from smidgen.backend import mx

NO_LIMIT = 1 << 30


class Rotary(NamedTuple):
    """The rotation of each position.

    Attributes:
        cosine: (head_dim / 2, L).
        sine: (head_dim / 2, L).
        neighbours: whether pairs are neighbours, and not half a head apart.
    """

    cosine: mx.array
    sine: mx.array
    neighbours: bool


def read_rotary(rope: Callable[..., mx.array] | None, half: int, length: int) -> Rotary | None:
    """Return the rotation of a layer, whatever its scaling; None if it rotates other pairs.

    It is found by rotating unit vectors. A layer without an embedding rotates by nothing.
    """
    if rope is None:
        return Rotary(mx.ones((half, length)), mx.zeros((half, length)), neighbours=False)
    one, zero = mx.ones((1, 1, length, half)), mx.zeros((1, 1, length, half))
    for neighbours in (False, True):
        first, second = (_turned(rope, pair, neighbours) for pair in ((one, zero), (zero, one)))
        cosine, sine = mx.contiguous(first[0].T), mx.contiguous(first[1].T)
        if mx.array_equal(second[1].T, cosine) & mx.array_equal(-second[0].T, sine):
            return Rotary(cosine, sine, neighbours)
    return None


def apart(rows: mx.array, half: int) -> mx.array:
    """Return rows (heads · head_dim, …) reordered so that neighbours in a head are half a head apart."""
    pairs = rows.reshape(-1, half, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def longest_text(attention: Any) -> int:
    """Return the tokens up to which a layer is plain causal attention, without chunks and temperatures."""
    chunk = getattr(attention, "chunk_size", None) or NO_LIMIT
    if not getattr(attention, "tuned", False):
        return chunk
    return min(chunk, int(attention.floor_scale) - 1)  # the factor of position p is 1 below floor_scale - 1


def _turned(
    rope: Callable[..., mx.array], pair: tuple[mx.array, mx.array], neighbours: bool
) -> tuple[mx.array, mx.array]:
    """Return both halves (L, head_dim / 2) of a rotated vector, given as its halves."""
    if neighbours:
        turned = rope(mx.stack([*pair], axis=-1).reshape(1, 1, pair[0].shape[2], -1))[0, 0]
        return turned[:, ::2], turned[:, 1::2]
    turned = rope(mx.concatenate([*pair], axis=-1))[0, 0]
    half = pair[0].shape[-1]
    return turned[:, :half], turned[:, half:]

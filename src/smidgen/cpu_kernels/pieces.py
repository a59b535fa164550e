"""Elementwise parts of a block and their gradients, on tiles that fit a core's cache.

Row-major tiles are (tokens, features); feature-major ones are (heads, head_dim, tokens), so that sums over a
head and rotations are long contiguous loops.
"""

from functools import lru_cache

import numpy as np

from smidgen.cpu_kernels.team import Array, scratch


def normalize(x: Array, weight: Array, eps: float, out: Array) -> Array:
    """Write the RMS norm (https://arxiv.org/abs/1910.07467) of rows to `out`.

    Returns:
        1 / √(mean square + eps) of each row, (rows, 1).
    """
    inverse = np.vecdot(x, x)[:, None]
    _finish_inverse(inverse, x.shape[1], eps)
    np.multiply(x, inverse, out=out)
    out *= weight
    return inverse


def normalize_back(dy: Array, x: Array, inverse: Array, weight: Array, dx: Array) -> Array:
    """Add the gradient of the normalised rows' inputs to `dx`; return the gradient of the weight."""
    unit = np.multiply(x, inverse, out=scratch("unit", *x.shape))
    shared = np.multiply(dy, unit, out=scratch("shared", *x.shape))
    dweight = shared.sum(axis=0)
    mean = np.matmul(shared, weight)[:, None]
    mean *= 1 / x.shape[1]
    scaled = np.multiply(dy, weight, out=shared)
    unit *= mean
    scaled -= unit
    scaled *= inverse
    dx += scaled
    return dweight


def normalize_heads(raw: Array, weight: Array, eps: float, out: Array, inverse: Array) -> None:
    """Write the RMS norm per head and token of (heads, head_dim, tokens); `weight` is (heads, head_dim, 1).

    1 / √(mean square + eps) is written to `inverse`, (heads, tokens).
    """
    square = np.multiply(raw, raw, out=scratch("square", *raw.shape))
    np.add.reduce(square, axis=1, out=inverse)
    _finish_inverse(inverse, raw.shape[1], eps)
    np.multiply(raw, inverse[:, None], out=out)
    out *= weight


def normalize_heads_back(gradient: Array, raw: Array, weight: Array, inverse: Array) -> Array:
    """Convert the gradient of normalised heads into that of the raw heads, in place.

    Returns:
        The gradient of the weight, (heads, head_dim).
    """
    unit = np.multiply(raw, inverse[:, None], out=scratch("unit", *raw.shape))
    shared = np.multiply(gradient, unit, out=scratch("square", *raw.shape))
    dweight = np.add.reduce(shared, axis=2)
    shared *= weight
    mean = np.add.reduce(shared, axis=1, keepdims=True)
    mean *= 1 / raw.shape[1]
    gradient *= weight
    unit *= mean
    gradient -= unit
    gradient *= inverse[:, None]
    return dweight


def _finish_inverse(sums: Array, size: int, eps: float) -> None:
    sums *= 1 / size
    sums += eps
    np.sqrt(sums, out=sums)
    np.reciprocal(sums, out=sums)


def rotate(x: Array, cosine: Array, sine: Array) -> None:
    """Rotate the halves of each head of (heads, head_dim, tokens) in place, by angles (head_dim / 2, tokens).

    The gradient is the same rotation with -sine.
    """
    half = x.shape[1] // 2
    first, second = x[:, :half], x[:, half:]
    to_second = np.multiply(first, sine, out=scratch("to_second", *first.shape))
    to_first = np.multiply(second, sine, out=scratch("to_first", *first.shape))
    first *= cosine
    first -= to_first
    second *= cosine
    second += to_second


def sigmoid(x: Array, out: Array) -> Array:
    """Write 1 / (1 + exp(-x)) to `out`; if exp overflows to infinity, its reciprocal is the correct zero."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)


def causal_mask(size: int) -> Array:
    """Return the additive causal mask (size, size): 0 up to the diagonal and -inf after it."""
    return _causal_mask(1 << size.bit_length())[:size, :size]  # few masks serve texts of every length


@lru_cache(16)
def _causal_mask(size: int) -> Array:
    return np.triu(np.full((size, size), -np.inf, np.float32), 1)


def drop(x: Array, rate: float, *seed: int) -> Array:
    """Apply dropout with `rate` to `x` in place, scaling up the rest; deterministic given the seed."""
    random = np.random.Generator(np.random.SFC64(seed))
    x *= random.integers(0, 1 << 16, x.shape, np.uint16) >= round(rate * (1 << 16))
    x *= 1 / (1 - rate)
    return x

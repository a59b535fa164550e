"""The elementwise parts of a block and their gradients, over tiles that fit a core's cache.

Row-major tiles are (tokens, features); feature-major ones (heads, head_dim, tokens), so that sums over a head
and rotations are long contiguous loops.
"""

from functools import lru_cache

import numpy as np

from smidgen.cpu_kernels.team import Array, scratch


def normalize(x: Array, weight: Array, eps: float, out: Array) -> Array:
    """RMS norm (https://arxiv.org/abs/1910.07467) of rows.

    Returns:
        1 / √(mean square + eps) of each row, (rows, 1).
    """
    inverse = np.vecdot(x, x)[:, None]
    _finish_inverse(inverse, x.shape[1], eps)
    np.multiply(x, inverse, out=out)
    out *= weight
    return inverse


def normalize_back(dy: Array, x: Array, inverse: Array, weight: Array, dx: Array) -> Array:
    """Add the gradient of the rows that were normalised to `dx`; returns that of the weight."""
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
    """RMS norm of each head and token of (heads, head_dim, tokens); `weight` is (heads, head_dim, 1).

    1 / √(mean square + eps) goes into `inverse`, (heads, tokens).
    """
    square = np.multiply(raw, raw, out=scratch("square", *raw.shape))
    np.add.reduce(square, axis=1, out=inverse)
    _finish_inverse(inverse, raw.shape[1], eps)
    np.multiply(raw, inverse[:, None], out=out)
    out *= weight


def normalize_heads_back(gradient: Array, raw: Array, weight: Array, inverse: Array) -> Array:
    """Turn the gradient of normalised heads, in place, into that of the raw ones.

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
    """Turn the halves of each head of (heads, head_dim, tokens), in place, by angles (head_dim / 2, tokens).

    The gradient is the same with -sine.
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
    """1 / (1 + exp(-x)); exp of a large -x overflows to infinity, whose reciprocal is the right zero."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)


@lru_cache(8)
def later(size: int) -> Array:
    """Return 0 up to the diagonal and -inf after it, (size, size)."""
    return np.triu(np.full((size, size), -np.inf, np.float32), 1)


def drop(x: Array, rate: float, *seed: int) -> Array:
    """Drop out a share `rate` of `x`, in place, and scale up the rest; the same seed drops the same."""
    random = np.random.Generator(np.random.SFC64(seed))
    x *= random.integers(0, 1 << 16, x.shape, np.uint16) >= round(rate * (1 << 16))
    x *= 1 / (1 - rate)
    return x

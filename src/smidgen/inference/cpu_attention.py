"""Causal attention of a CPU's forward pass, in numpy."""

import numpy as np

from smidgen.cpu_kernels.pieces import causal_mask
from smidgen.inference.kv_cache import Pass, SlotCache


def attend_step(queries: np.ndarray, at: Pass, cache: SlotCache, chunk: int) -> np.ndarray:
    """Attention of rows with one new token each: queries (B, H, D) to outputs (B, H, D), within chunks.

    The columns that all rows share with slot 0 are read once, for the queries of all rows together.
    """
    keys, values = cache.read(at)
    B, K, W, D = keys.shape
    S = at.shared if B > 1 else 0
    own = queries.reshape(B, K, -1, D)
    scores = np.empty((*own.shape[:-1], W), np.float32)
    if S:
        together = own.swapaxes(0, 1).reshape(K, -1, D)  # (K, B · H/K, D)
        found = (together @ cache.keys[0, :, :S].swapaxes(-1, -2)).reshape(K, B, -1, S)
        scores[..., :S] = found.swapaxes(0, 1)
    np.matmul(own, keys[:, :, S:].swapaxes(-1, -2), out=scores[..., S:])
    cached, columns = at.cached[:, None], np.arange(W)
    hidden = (columns > cached) | (columns < cached // chunk * chunk)
    scores += np.where(hidden, np.float32(-np.inf), np.float32(0))[:, None, None]
    totals = _exponentials(scores)
    means = scores[..., S:] @ values[:, :, S:]
    if S:
        shares = scores[..., :S].swapaxes(0, 1).reshape(K, -1, S)
        means += (shares @ cache.values[0, :, :S]).reshape(K, B, -1, D).swapaxes(0, 1)
    means /= totals
    return means.reshape(queries.shape)


def attend_rows(queries: np.ndarray, at: Pass, cache: SlotCache, chunk: int) -> np.ndarray:
    """Attention of rows with many new tokens, (T, H, D): row by row, so scores stay in a core's cache.

    A token attends no further back than the start of its chunk of `chunk` tokens.
    """
    T, H, D = queries.shape
    outputs = np.empty((T, H, D), np.float32)
    keys, values = cache.read(at)
    end = 0
    for i, (cached, count) in enumerate(zip(at.cached.tolist(), at.counts.tolist(), strict=True)):
        begin, end, width = end, end + count, cached + count
        row = queries[begin:end].swapaxes(0, 1).reshape(keys.shape[1], -1, D)  # (K, H/K · L, D)
        scores = (row @ keys[i, :, :width].swapaxes(-1, -2)).reshape(H, count, width)
        scores[:, :, cached:] += causal_mask(count)
        if width > chunk:
            begins = np.arange(cached, width)[:, None] // chunk * chunk
            scores[:, np.arange(width) < begins] = -np.inf
        scores = scores.reshape(keys.shape[1], -1, width)
        outputs[begin:end] = _weighted(scores, values[i, :, :width]).reshape(H, count, D).swapaxes(0, 1)
    return outputs


def _weighted(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return softmax(`scores`) (…, L, W) times `values` (…, W, D); overwrites `scores`."""
    totals = _exponentials(scores)
    means = scores @ values
    means /= totals
    return means


def _exponentials(scores: np.ndarray) -> np.ndarray:
    """Replace `scores` (…, W) by their exponentials, up to a factor; return the sums (…, 1)."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    return scores.sum(axis=-1, keepdims=True)

"""The forward pass of a small float32 model on the CPU, in numpy.

A decoding step of a small model is a hundred tiny operations. MLX spends 30 to 100 µs on each and computes
the exponentials of softmax and SwiGLU one by one; numpy spends 2 to 10 µs and vectorises them. Rows are
independent, so each processor core runs a share of them through the whole network.

Supported are the parts of Llama-like models: RMS norms, linear layers (plain, quantised, with a low-rank
update), rotary embeddings, SwiGLU, and MobileLLM-R1's attention. Any other model runs in MLX.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from smidgen.backend import blas, device, mx, nn
from smidgen.inference.kv_cache import Pass, SlotCache
from smidgen.models import mobilellm
from smidgen.models.graph import head_weight

LARGEST = 1 << 28
"""Number of weights of the largest model to run here; beyond it matrix products dominate."""
FEWEST_TOKENS = 8
"""Minimum tokens per core; splitting further costs more than it saves."""
LARGE_PRODUCT = 1_000_000_000
"""Tokens × weights from which BLAS uses its own threads; below, they mostly wait for each other."""


class Unsupported(Exception):
    """The model has a part that this module does not support."""


class CpuForward:
    """A model's forward pass over rows in KV-cache slots, on numpy arrays."""

    xp = np

    def __init__(self, model: Any):
        """Copy the current weights of `model`; later changes to the model have no effect.

        The embedding is a view of MLX's memory. All other matrices are copied once, transposed, and those
        with the same input are concatenated.

        Raises:
            Unsupported: the model has a part that this module does not support, or is too large.
        """
        layers = model.model.layers
        self._num_weights = _num_weights(model)
        if self._num_weights > LARGEST:
            raise Unsupported(f"{self._num_weights} weights")
        self._blocks = [_Block(layer) for layer in layers]
        self._embedding = _weight(model.model.embed_tokens)
        self._head = np.asarray(head_weight(model).astype(mx.float32)).T.copy()
        self._norm = _Norm(model.model.norm)
        first = next((layer for layer in layers if layer.self_attn.rope is not None), layers[0])
        self._rope, self._order = first.self_attn.rope, _order(first.self_attn, self._blocks[0].head_dim)
        self._angles = _rotations(self._rope, self._order, 512)
        self._blas = ThreadpoolController().select(user_api="blas")
        self._cores = min(device().cores, blas().threads or device().cores)
        self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="smidgen-decode")

    def new_caches(self) -> list[SlotCache]:
        """Return an empty KV cache per block."""
        return [SlotCache(np, block.kv_heads, block.head_dim, np.float32) for block in self._blocks]

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[SlotCache]) -> np.ndarray:
        """Return the normalised hidden states (T, D) of all new tokens, row by row."""
        if at.width > self._angles.shape[1]:
            self._angles = _rotations(self._rope, self._order, 2 * at.width)

        def share(rows: slice) -> np.ndarray:
            part = Pass(at.start + rows.start, at.cached[rows], at.counts[rows])
            return self._share(np.concatenate([np.asarray(row) for row in tokens[rows]]), part, caches)

        return self._in_shares(share, len(tokens), int(at.counts.sum()))

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits (T, V) of hidden states (T, D)."""
        return self._in_shares(lambda rows: hidden[rows] @ self._head, len(hidden), len(hidden))

    def _in_shares(self, work: Callable[[slice], np.ndarray], num_rows: int, num_tokens: int) -> np.ndarray:
        """Run `work` on slices of the rows, one per core, and concatenate the results."""
        shares = max(1, min(self._cores, num_rows, num_tokens // FEWEST_TOKENS))
        if shares == 1 and num_tokens * self._num_weights > LARGE_PRODUCT:
            return work(slice(0, num_rows))
        bounds = [num_rows * i // shares for i in range(shares + 1)]
        spread = self._pool.map if shares > 1 else map
        with self._blas.limit(limits=1):
            return np.concatenate(list(spread(work, map(slice, bounds[:-1], bounds[1:]))))

    def _share(self, tokens: np.ndarray, at: Pass, caches: Sequence[SlotCache]) -> np.ndarray:
        x = self._embedding[tokens]
        angles = self._angles[:, at.columns, None]  # (2, T, 1, D/2)
        with np.errstate(over="ignore"):  # SwiGLU far below zero is x / (1 + ∞) = 0, which is right
            for block, cache in zip(self._blocks, caches, strict=True):
                block.run(x, angles, at, cache)
        return self._norm(x)


class _Block:
    """One pre-norm block: attention, then SwiGLU, each added to the residual stream."""

    def __init__(self, layer: Any):
        attention, mlp = layer.self_attn, layer.get("mlp") or layer.get("feed_forward")
        if mlp is None:
            raise Unsupported(type(layer).__name__)
        self.heads, self.kv_heads = attention.n_heads, attention.n_kv_heads
        self._scale = np.float32(attention.scale)
        self._qkv = _Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._output = _Linear(attention.o_proj)
        self._gate_up = _Linear(mlp.gate_proj, mlp.up_proj)
        self._down = _Linear(mlp.down_proj)
        self._inner = self._gate_up.size // 2
        self._input_norm = _Norm(layer.input_layernorm)
        self._post_norm = _Norm(layer.post_attention_layernorm)
        self.head_dim = self._qkv.size // (self.heads + 2 * self.kv_heads)
        self._rotary = attention.rope is not None
        self._head_norm = self._chunk = self._tuning = None
        if "q_norm" in attention:
            self._head_norm = _Norm(attention.q_norm, self.heads, attention.k_norm, self.kv_heads)
        if isinstance(attention, mobilellm.Attention):
            self._qkv.reorder(_order(attention, self.head_dim), self.heads + self.kv_heads)
            self._chunk = attention.chunk_size
            if attention.norm_eps is not None:
                self._head_norm = _Norm(nn.RMSNorm(self.head_dim, attention.norm_eps))
            if attention.tuned:
                self._tuning = attention.attn_scale, attention.floor_scale

    def run(self, x: np.ndarray, angles: np.ndarray, at: Pass, cache: SlotCache) -> None:
        """Add the block's output to the residual stream `x` (T, D), and its keys and values to `cache`."""
        x += self._output(self._attention(self._input_norm(x), angles, at, cache))
        gate_up = self._gate_up(self._post_norm(x))
        gate, up = gate_up[:, : self._inner], gate_up[:, self._inner :]
        inner = np.exp(-gate)
        inner += 1
        np.divide(gate, inner, out=inner)
        inner *= up
        x += self._down(inner)

    def _attention(self, x: np.ndarray, angles: np.ndarray, at: Pass, cache: SlotCache) -> np.ndarray:
        heads = self._qkv(x).reshape(len(x), -1, self.head_dim)
        rotary = self.heads + self.kv_heads  # queries and keys are normalised and rotated together
        values = heads[:, rotary:]
        heads = heads[:, :rotary] if self._head_norm is None else self._head_norm(heads[:, :rotary])
        if self._rotary:
            heads = _rotated(heads, angles)
        queries = heads[:, : self.heads] * self._scale
        if self._tuning is not None:
            scale, floor = self._tuning
            factors = 1 + scale * np.log1p((at.columns + 1) // floor)
            queries *= factors[:, None, None].astype(np.float32)
        cache.write(at, heads[:, self.heads :], values)
        attend = _attend_step if at.counts.max() == 1 else _attend_rows
        return attend(queries, at, cache, self._chunk or at.width).reshape(len(x), -1)


class _Linear:
    """One matrix product for several linear layers with the same input; their outputs are concatenated."""

    def __init__(self, *layers: Any):
        weights = [_weight(layer) for layer in layers]
        biases = [_base(layer).get("bias") for layer in layers]
        # Transposed, because products of a few dozen rows are then a quarter faster.
        joined = np.concatenate(weights) if len(weights) > 1 else weights[0]
        self._weight, self.size = joined.T.copy(), len(joined)
        self._bias = None
        if any(bias is not None for bias in biases):
            full = [
                np.zeros(len(w)) if b is None else np.array(b) for w, b in zip(weights, biases, strict=True)
            ]
            self._bias = np.concatenate(full).astype(np.float32)

    def reorder(self, order: np.ndarray, heads: int) -> None:
        """Permute the outputs of the first `heads` heads, in the same way within each head."""
        columns = np.arange(self.size)
        size = heads * len(order)
        columns[:size] = (columns[:size].reshape(heads, -1)[:, order]).ravel()
        self._weight = np.ascontiguousarray(self._weight[:, columns])
        self._bias = None if self._bias is None else self._bias[columns]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        product = x @ self._weight
        if self._bias is not None:
            product += self._bias
        return product


class _Norm:
    """RMS norm over the last axis; with two norms, each is applied to its own number of heads."""

    def __init__(self, norm: Any, heads: int = 0, other: Any = None, other_heads: int = 0):
        if type(norm) is not nn.RMSNorm or (other is not None and other.eps != norm.eps):
            raise Unsupported(type(norm).__name__)
        self._weight, self._eps = np.array(norm.weight, np.float32), np.float32(norm.eps)
        if other is not None:
            rows = [*[self._weight] * heads, *[np.array(other.weight, np.float32)] * other_heads]
            self._weight = np.stack(rows)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        inverse = np.vecdot(x, x)
        inverse /= x.shape[-1]
        inverse += self._eps
        np.sqrt(inverse, out=inverse)
        normalized = x / inverse[..., None]
        normalized *= self._weight
        return normalized


def _attend_step(queries: np.ndarray, at: Pass, cache: SlotCache, chunk: int) -> np.ndarray:
    """Attention of rows with one new token each: queries (B, H, D) to outputs (B, H, D), within chunks."""
    keys, values = cache.read(at)
    B, K, W, D = keys.shape
    scores = queries.reshape(B, K, -1, D) @ keys.swapaxes(-1, -2)
    cached, columns = at.cached[:, None], np.arange(W)
    hidden = (columns > cached) | (columns < cached // chunk * chunk)
    scores += np.where(hidden, np.float32(-np.inf), np.float32(0))[:, None, None]
    return _weighted(scores, values).reshape(queries.shape)


def _attend_rows(queries: np.ndarray, at: Pass, cache: SlotCache, chunk: int) -> np.ndarray:
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
        scores[:, :, cached:] += _causal_mask(1 << count.bit_length())[:count, :count]
        if width > chunk:
            begins = np.arange(cached, width)[:, None] // chunk * chunk
            scores[:, np.arange(width) < begins] = -np.inf
        scores = scores.reshape(keys.shape[1], -1, width)
        outputs[begin:end] = _weighted(scores, values[i, :, :width]).reshape(H, count, D).swapaxes(0, 1)
    return outputs


def _weighted(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return softmax(`scores`) (…, L, W) times `values` (…, W, D); overwrites `scores`."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    means = scores @ values
    means /= scores.sum(axis=-1, keepdims=True)
    return means


@lru_cache(16)
def _causal_mask(size: int) -> np.ndarray:
    """Return the additive causal mask (size, size): 0 up to the diagonal and −∞ after it."""
    return np.triu(np.full((size, size), -np.inf, np.float32), 1)


def _rotated(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotate each pair (i, i + D/2) of heads (T, H, D) by its angle."""
    cosine, sine = angles
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = np.empty_like(x)
    np.multiply(first, cosine, out=turned[..., :half])
    np.multiply(second, cosine, out=turned[..., half:])
    turned[..., :half] -= second * sine
    turned[..., half:] += first * sine
    return turned


def _order(attention: Any, head_dim: int) -> np.ndarray:
    """Return the order of a head's dimensions (D,) in which the rotated pairs are D/2 apart."""
    dimensions = np.arange(head_dim)
    if isinstance(attention, mobilellm.Attention):  # rotates adjacent dimensions
        return np.concatenate([dimensions[::2], dimensions[1::2]])
    return dimensions


def _rotations(rope: Any, order: np.ndarray, length: int) -> np.ndarray:
    """Return cosines and sines (2, length, D/2) of a rotary embedding, found by rotating unit vectors."""
    half = len(order) // 2
    if rope is None:
        return np.zeros((2, length, half), np.float32)
    unit = np.zeros((2, 1, length, len(order)), np.float32)
    unit[0, ..., order[:half]] = unit[1, ..., order[half:]] = 1
    turned = np.array(rope(mx.array(unit), offset=0))[:, 0][..., order]
    cosine, sine = turned[0, :, :half], turned[0, :, half:]
    if not (np.allclose(turned[1, :, half:], cosine) and np.allclose(turned[1, :, :half], -sine)):
        raise Unsupported("rotary embedding of other pairs")
    return np.stack([cosine, sine])


def _num_weights(model: Any) -> int:
    """Return the number of weights of the model, counting quantised ones individually."""
    weighted = [module for module in model.modules() if "weight" in module]
    return sum(int(m.weight.size * (32 / m.bits if "scales" in m else 1)) for m in weighted)


def _base(layer: Any) -> Any:
    """Return the linear layer under a low-rank update, or the layer itself."""
    return layer.linear if "lora_a" in layer else layer


def _weight(layer: Any) -> np.ndarray:
    """Return the float32 matrix (out, in) of a linear layer or an embedding, low-rank update included."""
    base = _base(layer)
    if isinstance(base, nn.QuantizedLinear | nn.QuantizedEmbedding):
        matrix = mx.dequantize(
            base.weight, base.scales, base.get("biases"), base.group_size, base.bits, mode=base.mode
        )
    elif type(base) in (nn.Linear, nn.Embedding):
        matrix = base.weight
    else:
        raise Unsupported(type(base).__name__)
    if base is not layer:
        if type(layer).__name__ != "LoRALinear":
            raise Unsupported(type(layer).__name__)
        matrix = matrix + (layer.scale * layer.lora_b.T) @ layer.lora_a.T
    # A view with its own handle: the layer's array may be reassigned in place.
    return np.asarray(matrix.astype(mx.float32))

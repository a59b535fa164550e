"""The transformer block of a small float32 model on the CPU, in numpy; see `cpu_forward`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smidgen.backend import mx, nn
from smidgen.inference.cpu_attention import attend_rows, attend_step
from smidgen.inference.cpu_products import Matrix, parts
from smidgen.inference.kv_cache import Pass, SlotCache
from smidgen.models import mobilellm

TILE = 64
"""Maximum tokens of a tile: its hidden states of SwiGLU fit in a core's second cache, a megabyte."""


class Unsupported(Exception):
    """The model has a part that this module does not support."""


class Block:
    """One pre-norm block: attention, then SwiGLU, each added to the residual stream.

    Attributes:
        heads, kv_heads, head_dim: number of query heads and of key heads, and their width.
    """

    def __init__(self, layer: Any):
        """Copy the weights of a layer of mlx-lm.

        Raises:
            Unsupported: the layer has a part that this module does not support.
        """
        attention, mlp = layer.self_attn, layer.get("mlp") or layer.get("feed_forward")
        if mlp is None:
            raise Unsupported(type(layer).__name__)
        self.heads, self.kv_heads = attention.n_heads, attention.n_kv_heads
        self._scale = np.float32(attention.scale)
        self.head_dim = len(weight_of(attention.q_proj)) // self.heads
        order = dimension_order(attention, self.head_dim)
        self._qkv = Linear(attention.q_proj, attention.k_proj, attention.v_proj, orders=(order, order, None))
        self._output = Linear(attention.o_proj)
        self._gate_up = Linear(mlp.gate_proj, mlp.up_proj)
        self._down = Linear(mlp.down_proj)
        self._inner = self._gate_up.size // 2
        self._input_norm = Norm(layer.input_layernorm)
        self._post_norm = Norm(layer.post_attention_layernorm)
        self._rotary = attention.rope is not None
        self._head_norm = self._chunk = self._tuning = None
        if "q_norm" in attention:
            self._head_norm = Norm(attention.q_norm, self.heads, attention.k_norm, self.kv_heads)
        if isinstance(attention, mobilellm.Attention):
            self._chunk = attention.chunk_size
            if attention.norm_eps is not None:
                self._head_norm = Norm(nn.RMSNorm(self.head_dim, attention.norm_eps))
            if attention.tuned:
                self._tuning = attention.attn_scale, attention.floor_scale

    def run(
        self, x: np.ndarray, angles: np.ndarray, at: Pass, cache: SlotCache, meet: Callable[[], None]
    ) -> None:
        """Run the block over all tokens of a pass, tile by tile.

        Args:
            x: residual stream (T, D), to which the output is added.
            angles: cosines and sines of each token (2, T, 1, D/2).
            at: the pass.
            cache: keys and values of the block, to which those of the tokens are added.
            meet: called when they have been added; returns when they may be read.
        """
        tiles = list(parts(len(x), -(-len(x) // TILE)))
        queries = np.empty((len(x), self.heads, self.head_dim), np.float32)
        slots, columns = at.slots, at.columns
        for tile in tiles:
            heads = self._qkv(self._input_norm(x[tile])).reshape(tile.stop - tile.start, -1, self.head_dim)
            keys = self._turned(heads, angles[:, tile], columns[tile], queries[tile])
            cache.put(slots[tile], columns[tile], keys, heads[:, self.heads + self.kv_heads :])
        meet()
        attend = attend_step if at.counts.max() == 1 else attend_rows
        attended = attend(queries, at, cache, self._chunk or at.width).reshape(len(x), -1)
        for tile in tiles:
            stream = x[tile]
            stream += self._output(attended[tile])
            stream += self._swiglu(self._post_norm(stream))

    def _turned(
        self, heads: np.ndarray, angles: np.ndarray, columns: np.ndarray, queries: np.ndarray
    ) -> np.ndarray:
        """Normalise and rotate the heads of queries and keys; write `queries` and return the keys."""
        turned = heads[:, : self.heads + self.kv_heads]
        if self._head_norm is not None:
            turned = self._head_norm(turned)
        if self._rotary:
            turned = _rotated(turned, angles)
        np.multiply(turned[:, : self.heads], self._scale, out=queries)
        if self._tuning is not None:
            scale, floor = self._tuning
            factors = 1 + scale * np.log1p((columns + 1) // floor)
            queries *= factors[:, None, None].astype(np.float32)
        return turned[:, self.heads :]

    def _swiglu(self, x: np.ndarray) -> np.ndarray:
        gate_up = self._gate_up(x)
        gate, up = gate_up[:, : self._inner], gate_up[:, self._inner :]
        inner = np.negative(gate)
        np.exp(inner, out=inner)
        inner += 1
        np.divide(gate, inner, out=inner)
        inner *= up
        return self._down(inner)


class Linear:
    """One matrix product for several linear layers with the same input; their outputs are concatenated.

    Attributes:
        size: number of outputs.
    """

    def __init__(self, *layers: Any, orders: Sequence[np.ndarray | None] = ()):
        """Copy the weights of `layers`; with an order, the outputs of each of its heads are permuted."""
        ways = orders or [None] * len(layers)
        weights = [_ordered(weight_of(layer), way) for layer, way in zip(layers, ways, strict=True)]
        joined = np.concatenate(weights) if len(weights) > 1 else weights[0]
        self._matrix, self.size = Matrix(joined), len(joined)
        self._bias = None
        biases = [_base(layer).get("bias") for layer in layers]
        if any(bias is not None for bias in biases):
            full = [
                np.zeros(len(weight), np.float32)
                if bias is None
                else _ordered(np.array(bias.astype(mx.float32)), way)
                for weight, bias, way in zip(weights, biases, ways, strict=True)
            ]
            self._bias = np.concatenate(full)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs (T, size) of inputs (T, D)."""
        product = self._matrix(x)
        if self._bias is not None:
            product += self._bias
        return product


def _ordered(x: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Permute the first axis of `x` within each head of as many dimensions as `order` has."""
    if order is None:
        return x
    return x.reshape(-1, len(order), *x.shape[1:])[:, order].reshape(x.shape)


class Norm:
    """RMS norm over the last axis; with two norms, each is applied to its own number of heads."""

    def __init__(self, norm: Any, heads: int = 0, other: Any = None, other_heads: int = 0):
        if type(norm) is not nn.RMSNorm or (other is not None and other.eps != norm.eps):
            raise Unsupported(type(norm).__name__)
        self._weight, self._eps = np.array(norm.weight, np.float32), np.float32(norm.eps)
        if other is not None:
            rows = [*[self._weight] * heads, *[np.array(other.weight, np.float32)] * other_heads]
            self._weight = np.stack(rows)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the normalised `x`."""
        inverse = np.vecdot(x, x)
        inverse /= x.shape[-1]
        inverse += self._eps
        np.sqrt(inverse, out=inverse)
        normalized = x / inverse[..., None]
        normalized *= self._weight
        return normalized


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


def dimension_order(attention: Any, head_dim: int) -> np.ndarray:
    """Return the order of a head's dimensions (D,) in which the rotated pairs are D/2 apart."""
    dimensions = np.arange(head_dim)
    if isinstance(attention, mobilellm.Attention):  # rotates adjacent dimensions
        return np.concatenate([dimensions[::2], dimensions[1::2]])
    return dimensions


def rotations(rope: Any, order: np.ndarray, length: int) -> np.ndarray:
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


def _base(layer: Any) -> Any:
    """Return the linear layer under a low-rank update, or the layer itself."""
    return layer.linear if "lora_a" in layer else layer


def weight_of(layer: Any) -> np.ndarray:
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

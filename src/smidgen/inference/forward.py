"""The forward pass of a model over rows in KV-cache slots, in numpy or MLX depending on the device."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from smidgen.backend import device, mx, nn
from smidgen.inference.cpu_forward import CpuForward, Unsupported
from smidgen.inference.kv_cache import Pass, QuantisedSlotCache, SlotCache, group_size_of
from smidgen.models import graph

Cache = SlotCache | QuantisedSlotCache


class ForwardPass(Protocol):
    """The interface of a model for a decoder.

    Attributes:
        xp: module of its arrays, `numpy` or `mlx.core`.
        epsilon: smallest relative difference of two numbers of its arithmetic.
    """

    xp: Any
    epsilon: float

    def new_caches(self) -> Sequence[Cache]:
        """Return an empty KV cache per layer."""
        ...

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[Any]) -> Any:
        """Return the normalised hidden states (T, D) of all new tokens, row by row."""
        ...

    def logits(self, hidden: Any) -> Any:
        """Return the logits (T, V), float32, of hidden states (T, D)."""
        ...


def forward_of(model: nn.Module, *, kv_bits: int | None = None, in_numpy: bool = True) -> ForwardPass:
    """Return the fastest forward pass that supports `model` on this machine.

    Args:
        model: a model of mlx-lm.
        kv_bits: KV-cache bits; default: the dtype of the model.
        in_numpy: whether it may be the one in numpy, on a CPU.

    Raises:
        ConfigError: the model's head width does not allow a quantised KV cache.
    """
    # Evaluate everything, including rotary tables (not parameters): later passes may run in any thread.
    mx.eval([part for module in model.modules() for part in module.values() if isinstance(part, mx.array)])
    if in_numpy and device().kind == "cpu" and kv_bits is None:
        try:
            return CpuForward(model)
        except Unsupported:
            pass
    return MlxForward(model, kv_bits=kv_bits)


class MlxForward:
    """Any model of mlx-lm whose only state is a KV cache, on any device."""

    xp = mx

    def __init__(self, model: Any, *, kv_bits: int | None = None):
        self._model = model
        self._body = graph.body(model)
        self.epsilon = mx.finfo(model.model.norm.weight.dtype).eps
        attention = model.model.layers[0].self_attn
        projection = attention.k_proj.linear if "lora_a" in attention.k_proj else attention.k_proj
        self._heads = attention.n_kv_heads
        self._head_dim = projection.weight.shape[0] // self._heads
        self._quantisation: dict[str, int] = {}
        if kv_bits is not None:
            self._quantisation = {"bits": kv_bits, "group_size": group_size_of(self._head_dim)}

    def new_caches(self) -> list[Cache]:
        """Return an empty KV cache per layer."""
        kind = QuantisedSlotCache if self._quantisation else SlotCache
        dtype = self._model.model.norm.weight.dtype
        return [
            kind(mx, self._heads, self._head_dim, dtype, **self._quantisation)
            for _ in self._model.model.layers
        ]

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[Cache]) -> mx.array:
        """Return the normalised hidden states (T, D) of all new tokens, row by row."""
        padded = np.zeros(at.is_padding.shape, np.int32)
        padded[~at.is_padding] = np.concatenate([np.asarray(row) for row in tokens])
        hidden = self._body(mx.array(padded), cache=[_LayerView(cache, at) for cache in caches])
        # Also evaluate keys and values: the last layer's would otherwise keep the graph of the pass alive.
        mx.eval(hidden, [cache.arrays for cache in caches])
        return _packed(hidden, at)

    def logits(self, hidden: mx.array) -> mx.array:
        """Return the logits (T, V), float32, of hidden states (T, D)."""
        return graph.logits(self._model, hidden).astype(mx.float32)


class _LayerView:
    """Adapter that presents a slot cache as mlx-lm's cache of one layer, for one pass."""

    def __init__(self, slots: Cache, at: Pass):
        self._slots = slots
        self._at = at
        self.offset = mx.array(at.cached)
        if isinstance(slots, QuantisedSlotCache):  # mlx-lm's attention detects a quantised cache by `bits`
            self.bits, self.group_size = slots.bits, slots.group_size

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return the causal mask (B, 1, N, W): each token attends to the columns up to its own."""
        assert window_size is None, "sliding windows are refused when a model is loaded"
        positions = self.offset[:, None] + mx.arange(N)
        return mx.arange(self._at.width) <= positions[:, None, :, None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Store new keys and values (B, K, L, D); return those of all columns in use (B, K, W, D)."""
        new = (_packed(x.transpose(0, 2, 1, 3), self._at) for x in (keys, values))
        self._slots.write(self._at, *new)
        return self._slots.read(self._at)


def _packed(x: mx.array, at: Pass) -> mx.array:
    """Return the non-padding tokens (T, …) of a padded array (B, L, …)."""
    flat = x.reshape(-1, *x.shape[2:])
    return flat[mx.array(np.flatnonzero(~at.is_padding))] if at.is_padding.any() else flat

"""The forward pass of a model over rows that stand in slots, in the way that suits the device."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from smidgen.backend import device, mx, nn
from smidgen.inference.cpu_forward import CpuForward, Unsupported
from smidgen.inference.kv_cache import Pass, QuantisedSlotCache, SlotCache, group_size_of
from smidgen.models import graph

Cache = SlotCache | QuantisedSlotCache


class ForwardPass(Protocol):
    """What a decoder needs of a model.

    Attributes:
        xp: module of its arrays, `numpy` or `mlx.core`.
    """

    xp: Any

    def new_caches(self) -> Sequence[Cache]:
        """Return an empty cache for each layer."""
        ...

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[Any]) -> Any:
        """Return the normed hidden states (T, D) of all new tokens, row after row."""
        ...

    def logits(self, hidden: Any) -> Any:
        """Return the head's scores (T, V), float32, for hidden states (T, D)."""
        ...


def forward_of(model: nn.Module, *, kv_bits: int | None = None) -> ForwardPass:
    """Return the fastest forward pass that serves `model` on this machine.

    Args:
        model: of mlx-lm.
        kv_bits: how many bits a number of the keys and values is held in; as the model computes if None.

    Raises:
        ConfigError: the model's heads have a width that cannot be held so.
    """
    # Tables of rotary embeddings too, which are no parameters: passes may run in any thread.
    mx.eval([part for module in model.modules() for part in module.values() if isinstance(part, mx.array)])
    if device().kind == "cpu" and kv_bits is None:
        try:
            return CpuForward(model)
        except Unsupported:
            pass
    return MlxForward(model, kv_bits=kv_bits)


class MlxForward:
    """Any model of mlx-lm that keeps nothing but keys and values, on any device."""

    xp = mx

    def __init__(self, model: Any, *, kv_bits: int | None = None):
        self._model = model
        self._body = graph.body(model)
        attention = model.model.layers[0].self_attn
        projection = attention.k_proj.linear if "lora_a" in attention.k_proj else attention.k_proj
        self._heads = attention.n_kv_heads
        self._head_dim = projection.weight.shape[0] // self._heads
        self._quantisation: dict[str, int] = {}
        if kv_bits is not None:
            self._quantisation = {"bits": kv_bits, "group_size": group_size_of(self._head_dim)}

    def new_caches(self) -> list[Cache]:
        """Return an empty cache for each layer."""
        kind = QuantisedSlotCache if self._quantisation else SlotCache
        dtype = self._model.model.norm.weight.dtype
        return [
            kind(mx, self._heads, self._head_dim, dtype, **self._quantisation)
            for _ in self._model.model.layers
        ]

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[Cache]) -> mx.array:
        """Return the normed hidden states (T, D) of all new tokens, row after row."""
        padded = np.zeros(at.is_padding.shape, np.int32)
        padded[~at.is_padding] = np.concatenate([np.asarray(row) for row in tokens])
        hidden = self._body(mx.array(padded), cache=[_LayerView(cache, at) for cache in caches])
        # Keys and values too: the last layer's would otherwise keep the graph of the pass alive.
        mx.eval(hidden, [cache.arrays for cache in caches])
        return _packed(hidden, at)

    def logits(self, hidden: mx.array) -> mx.array:
        """Return the head's scores (T, V), float32, for hidden states (T, D)."""
        return graph.logits(self._model, hidden).astype(mx.float32)


class _LayerView:
    """What a model of mlx-lm takes for the cache of one layer during one pass."""

    def __init__(self, slots: Cache, at: Pass):
        self._slots = slots
        self._at = at
        self.offset = mx.array(at.held)
        if isinstance(slots, QuantisedSlotCache):  # what mlx-lm's attention tells a quantised cache by
            self.bits, self.group_size = slots.bits, slots.group_size

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return which columns each token may look at (B, 1, N, W): those up to its own."""
        assert window_size is None, "sliding windows are refused when a model is loaded"
        positions = self.offset[:, None] + mx.arange(N)
        return mx.arange(self._at.width) <= positions[:, None, :, None]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Take new keys and values (B, K, L, D); return those of all columns in use (B, K, W, D)."""
        new = (_packed(x.transpose(0, 2, 1, 3), self._at) for x in (keys, values))
        self._slots.write(self._at, *new)
        return self._slots.read(self._at)


def _packed(x: mx.array, at: Pass) -> mx.array:
    """The real tokens (T, …) of a padded array (B, L, …)."""
    flat = x.reshape(-1, *x.shape[2:])
    return flat[mx.array(np.flatnonzero(~at.is_padding))] if at.is_padding.any() else flat

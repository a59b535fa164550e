"""The forward pass of a small float32 model on the CPU, in numpy.

A decoding step of a small model is a hundred tiny operations. MLX spends 30 to 100 µs on each and computes
the exponentials of softmax and SwiGLU one by one; numpy spends 2 to 10 µs and vectorises them. Tokens depend
on each other only in attention, so each processor core runs a share of them through the whole network, and
waits for another core only if that has earlier tokens of the same row. Both read the same weights at about
the same time, so that the second finds them in the cache that they share.

Supported are the parts of Llama-like models: RMS norms, linear layers (plain, quantised, with a low-rank
update), rotary embeddings, SwiGLU, and MobileLLM-R1's attention. Any other model runs in MLX.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from smidgen.backend import blas, device, mx
from smidgen.inference.cpu_block import Block, Norm, Unsupported, dimension_order, rotations, weight_of
from smidgen.inference.cpu_products import Matrix, parts
from smidgen.inference.kv_cache import Pass, SlotCache
from smidgen.models.graph import head_weight

LARGEST = 1 << 28
"""Number of weights of the largest model to run here; beyond it matrix products dominate."""
SHARE, FEWEST = 20_000_000, 3
"""Minimum tokens × weights per core, and minimum tokens: splitting further costs more than it saves, since
each core reads all weights."""
LARGE_PRODUCT = 1_000_000_000
"""Tokens × weights from which BLAS uses its own threads; below, they mostly wait for each other."""


class CpuForward:
    """A model's forward pass over rows in KV-cache slots, on numpy arrays."""

    xp = np
    epsilon = float(np.finfo(np.float32).eps)

    def __init__(self, model: Any):
        """Copy the current weights of `model`; later changes to the model have no effect.

        The embedding is a view of MLX's memory. All other matrices are copied once, as `cpu_products.Matrix`,
        and those with the same input are concatenated.

        Raises:
            Unsupported: the model has a part that this module does not support, or is too large.
        """
        layers = model.model.layers
        self._num_weights = _num_weights(model)
        if self._num_weights > LARGEST:
            raise Unsupported(f"{self._num_weights} weights")
        self._blocks = [Block(layer) for layer in layers]
        self._embedding = weight_of(model.model.embed_tokens)
        self._head = Matrix(np.asarray(head_weight(model).astype(mx.float32)))
        self._norm = Norm(model.model.norm)
        first = next((layer for layer in layers if layer.self_attn.rope is not None), layers[0])
        self._rope, self._order = (
            first.self_attn.rope,
            dimension_order(first.self_attn, self._blocks[0].head_dim),
        )
        self._angles = rotations(self._rope, self._order, 512)
        self._blas = ThreadpoolController().select(user_api="blas")
        self._cores = min(device().cores, blas().threads or device().cores)
        self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="smidgen-decode")

    def new_caches(self) -> list[SlotCache]:
        """Return an empty KV cache per block."""
        return [SlotCache(np, block.kv_heads, block.head_dim, np.float32) for block in self._blocks]

    def hidden(self, tokens: Sequence[Sequence[int]], at: Pass, caches: Sequence[SlotCache]) -> np.ndarray:
        """Return the normalised hidden states (T, D) of all new tokens, row by row."""
        if at.width > self._angles.shape[1]:
            self._angles = rotations(self._rope, self._order, 2 * at.width)
        flat = np.concatenate([np.asarray(row) for row in tokens])
        hidden = self._embedding[flat]
        shares, slots = self._shares(len(flat)), at.slots
        written = [[threading.Event() for _ in self._blocks] for _ in shares]

        def share(number: int) -> None:
            tokens = shares[number]
            begin = tokens.start
            is_cut = begin > 0 and slots[begin] == slots[begin - 1]
            earlier = written[:number] if is_cut else []
            try:
                self._run(hidden[tokens], at.part(begin, tokens.stop), caches, written[number], earlier)
            finally:
                for event in written[number]:
                    event.set()

        self._spread(share, len(shares), len(flat))
        return hidden

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits (T, V) of hidden states (T, D)."""
        logits = np.empty((len(hidden), self._head.shape[1]), np.float32)
        shares = self._shares(len(hidden))

        def share(number: int) -> None:
            self._head.multiply(hidden[shares[number]], logits[shares[number]])

        self._spread(share, len(shares), len(hidden))
        return logits

    def _shares(self, num_tokens: int) -> list[slice]:
        """Return each core's share of the tokens."""
        count = max(1, min(self._cores, num_tokens // FEWEST, num_tokens * self._num_weights // SHARE))
        return list(parts(num_tokens, count))

    def _spread(self, work: Callable[[int], None], shares: int, num_tokens: int) -> None:
        """Run `work` for the numbers of all shares, one per core."""
        if shares == 1 and not self._head.is_packed and num_tokens * self._num_weights > LARGE_PRODUCT:
            work(0)
            return
        with self._blas.limit(limits=1):
            for _ in self._pool.map(work, range(shares)) if shares > 1 else map(work, [0]):
                pass

    def _run(
        self,
        x: np.ndarray,
        at: Pass,
        caches: Sequence[SlotCache],
        written: Sequence[threading.Event],
        earlier: Sequence[Sequence[threading.Event]],
    ) -> None:
        """Turn the embeddings of one share `x` (T, D) into hidden states, block by block.

        Keys and values that a block has `written` are announced. Before its attention it waits for those of
        `earlier` shares, which have the first tokens of the share's first row.
        """
        angles = self._angles[:, at.columns, None]  # (2, T, 1, D/2)
        with np.errstate(over="ignore"):  # SwiGLU far below zero is x / (1 + ∞) = 0, which is right
            for i, (block, cache) in enumerate(zip(self._blocks, caches, strict=True)):

                def meet(i: int = i) -> None:
                    written[i].set()
                    for share in earlier:
                        share[i].wait()

                block.run(x, angles, at, cache, meet)
        x[:] = self._norm(x)


def _num_weights(model: Any) -> int:
    """Return the number of weights of the model, counting quantised ones individually."""
    weighted = [module for module in model.modules() if "weight" in module]
    return sum(int(m.weight.size * (32 / m.bits if "scales" in m else 1)) for m in weighted)

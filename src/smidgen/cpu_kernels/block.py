"""One pass through one transformer block: its arrays as numpy views, and how its work is split.

Queries, keys and values are stored feature-major, (features, tokens of the whole batch): per-head norms,
rotation and the merge of heads are then long contiguous loops, and matrix products need no transposition.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.attention import Heads, split_texts, texts_of
from smidgen.cpu_kernels.pieces import drop
from smidgen.cpu_kernels.team import Array, product, scratch, team, view

TILE = 384
"""Maximum tokens per piece: matrix products gain nothing beyond, and narrow arrays stay in a core's cache."""
MERGED_ROWS = 256
"""Rows of a weight matrix that are copied and updated at a time."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
LINEARS = (*PROJECTIONS, "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Linear:
    """Static properties of a linear layer.

    Attributes:
        frozen: whether weight and bias get no gradient.
        bias: whether it has a bias.
        rank: rank of its low-rank update; 0 if it has none.
        scale: scale of its low-rank update.
        dropout: dropout rate on the input of its low-rank update.
        quantization: group size, bits and mode of a quantised weight, which is dequantised in every pass.
    """

    frozen: bool
    bias: bool = False
    rank: int = 0
    scale: float = 0.0
    dropout: float = 0.0
    quantization: tuple[int, int, str] | None = None


@dataclass(frozen=True)
class BlockPlan:
    """Static properties of a block; equal plans share one function.

    Attributes:
        heads: number of query heads.
        kv_heads: number of key and value heads, a divisor of `heads`.
        head_dim: width of one head.
        scale: factor on the attention scores.
        eps: eps of the block's two norms and of the head norms.
        head_norms: whether queries and keys are normalised per head.
        linears: linear layers by name.
        dropout: dropout rate on the block's output before the residual sum.
        chosen: whether only some tokens are output.
        keeps: whether the intermediate values for the gradient are stored.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    eps: tuple[float, float, float]
    head_norms: bool
    linears: tuple[tuple[str, Linear], ...]
    dropout: float
    chosen: bool
    keeps: bool


class Block:
    """The arrays of one pass and their layout; `Forward` and `Backward` do the computation.

    Args:
        plan: static properties of the block.
        x: (B, L, D) float32.
        arrays: by name: the norms' weights; `{linear}.weight`, `.scales`, `.biases`, `.bias`, `.lora_a`,
            `.lora_b`; `cosine` and `sine` (head_dim / 2, L); `chosen` (n,), positions in the flattened batch;
            `seed` (1,) of every dropout; `segments` and `positions` (B · L,) of packed rows, and `barred`
            (B · L, L) if they have a mask.
    """

    def __init__(self, plan: BlockPlan, x: mx.array, arrays: dict[str, mx.array]) -> None:
        mx.eval(x, arrays)
        self.plan = plan
        self.batch, self.length, self.width = x.shape
        self.tokens = self.batch * self.length
        self.x = view(x).reshape(self.tokens, self.width)
        self.w: dict[str, Any] = {name: view(array) for name, array in arrays.items()}
        self.linears = dict(plan.linears)
        for name, linear in plan.linears:
            if linear.quantization is not None:
                self.w[f"{name}.weight"] = _dequantized(arrays, name, *linear.quantization)
        if plan.head_norms:
            norms = [self.w["q_norm"]] * plan.heads + [self.w["k_norm"]] * plan.kv_heads
            self.head_norms = np.stack(norms)[:, :, None]
        queries, keys = plan.heads * plan.head_dim, plan.kv_heads * plan.head_dim
        self.rows = {
            "q_proj": slice(0, queries),
            "k_proj": slice(queries, queries + keys),
            "v_proj": slice(queries + keys, queries + 2 * keys),
        }
        self.rotary = slice(0, queries + keys)
        self.features = queries + 2 * keys
        self.inner = self.w["gate_proj.weight"].shape[0]
        self._merge()
        self.heads = [self._heads(head) for head in range(plan.kv_heads)]
        self.texts = split_texts(
            texts_of(self.batch, self.length, self.w.get("segments")), self.heads, team().size
        )
        self.is_chosen: np.ndarray | None = None
        self.num_outputs = self.tokens
        if plan.chosen:
            self.num_outputs = self.w["chosen"].size
            self.is_chosen = np.zeros(self.tokens, np.bool_)
            self.is_chosen[self.w["chosen"]] = True
        self.pitch = pitch(self.tokens)

    def _merge(self) -> None:
        """Add the low-rank updates to their weights, and make one matrix of queries, keys and values."""
        merged = {"qkv": scratch("merged qkv", self.features, self.width)}
        merged |= {name: merged["qkv"][rows] for name, rows in self.rows.items()}
        for name, linear in self.plan.linears:
            if linear.rank and not linear.dropout and name not in merged:
                merged[name] = scratch(f"merged {name}", *self.w[f"{name}.weight"].shape)
        pieces = [
            (name, slice(start, start + MERGED_ROWS))
            for name in merged
            if name != "qkv"
            for start in range(0, len(merged[name]), MERGED_ROWS)
        ]

        def work(piece: int) -> None:
            name, rows = pieces[piece]
            out, linear = merged[name][rows], self.linears[name]
            np.copyto(out, self.w[f"{name}.weight"][rows])
            if linear.rank and not linear.dropout:  # an update of a dropped input is a product of its own
                a, b = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"]
                product(b[:, rows].T, a.T, out, alpha=linear.scale, beta=1.0)

        team().run(work, len(pieces))
        self.w |= {f"{name}.weight": matrix for name, matrix in merged.items()}

    def dropped(self, name: str, x: Array, piece: int) -> Array:
        """Apply the dropout of a low-rank update to its input `x` (T, D), one tile, in place."""
        return drop(x, self.linears[name].dropout, int(self.w["seed"][0]), 1 + LINEARS.index(name), piece)

    def _heads(self, key_head: int) -> Heads:
        plan = self.plan
        keys, values = (
            slice(start + key_head * plan.head_dim, start + (key_head + 1) * plan.head_dim)
            for start in (self.rows["k_proj"].start, self.rows["v_proj"].start)
        )
        return Heads(key_head, plan.heads // plan.kv_heads, plan.head_dim, keys, values)

    def tile(self, piece: int, tokens: int) -> slice:
        """Return the tokens of one piece."""
        step = _tile_length(tokens, team().size)
        return slice(piece * step, min((piece + 1) * step, tokens))

    def tiles(self, tokens: int) -> int:
        """Return the number of pieces."""
        return -(-tokens // _tile_length(tokens, team().size))

    def origin(self, tile: slice) -> slice | np.ndarray:
        """Return the positions in the batch of a tile of output tokens."""
        return self.w["chosen"][tile] if self.plan.chosen else tile

    def angles(self, tile: slice) -> tuple[Array, Array]:
        """Return cosine and sine, (head_dim / 2, tokens of the tile)."""
        packed = self.w.get("positions")
        positions = np.arange(tile.start, tile.stop) % self.length if packed is None else packed[tile]
        return self.w["cosine"][:, positions], self.w["sine"][:, positions]

    def by_head(self, array: Array, tile: slice) -> Array:
        """Return queries and keys of a tile, (heads + kv_heads, head_dim, tokens)."""
        return array[self.rotary, tile].reshape(-1, self.plan.head_dim, tile.stop - tile.start)


def _dequantized(arrays: dict[str, mx.array], name: str, group_size: int, bits: int, mode: str) -> np.ndarray:
    packed, scales, biases = (arrays.get(f"{name}.{part}") for part in ("weight", "scales", "biases"))
    assert packed is not None and scales is not None
    weight = mx.dequantize(
        packed, scales, biases, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
    )
    mx.eval(weight)
    return view(weight)


def pitch(tokens: int) -> int:
    """Return the row length of feature-major arrays.

    An odd number of cache lines, because rows a power of two apart compete for a few cache sets.
    """
    return 16 * (-(-tokens // 16) | 1)


@lru_cache(256)
def _tile_length(tokens: int, threads: int) -> int:
    """Return a tile length of at most `TILE`, a multiple of a cache line, that balances the threads."""
    rounds = -(-tokens // (TILE * threads))
    return 16 * -(-tokens // (16 * rounds * threads))

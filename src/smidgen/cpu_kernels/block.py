"""One pass through one transformer block: its arrays as numpy views, and how its work is split.

Queries, keys and values are stored feature-major, (features, tokens of the whole batch): per-head norms,
rotation and the merge of heads are then long contiguous loops, and matrix products need no transposition.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.pieces import causal_mask
from smidgen.cpu_kernels.team import Array, product, scratch, team, view

TILE = 256
"""Maximum tokens per piece, so that the widest arrays of a small model stay in a core's own cache."""
QUERY_TILE = 128
"""Queries per piece of attention; keys after the last of them are not read."""

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
    """

    frozen: bool
    bias: bool = False
    rank: int = 0
    scale: float = 0.0


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
        arrays: by name: the norms' weights; `{linear}.weight`, `.bias`, `.lora_a`, `.lora_b`; `cosine` and
            `sine` (head_dim / 2, L); `chosen` (n,), positions in the flattened batch; `seed` (1,) of dropout;
            `segments` and `positions` (B · L,) of packed rows.
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
            if linear.rank:
                self.w[f"{name}.weight"] = self._merged(name, linear)
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
        self.num_outputs = self.tokens
        if plan.chosen:
            self.num_outputs = self.w["chosen"].size
            self.is_chosen = np.zeros(self.tokens, np.bool_)
            self.is_chosen[self.w["chosen"]] = True
        # An odd number of cache lines, because rows a power of two apart compete for a few cache sets.
        self.pitch = 16 * (-(-self.tokens // 16) | 1)

    def _merged(self, name: str, linear: Linear) -> Array:
        """Return the weight with its low-rank update, (out, in)."""
        a, b = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"]
        weight = self.w[f"{name}.weight"]
        merged = scratch(f"merged {name}", *weight.shape)
        np.copyto(merged, weight)
        return product(b.T, a.T, merged, alpha=linear.scale, beta=1.0)

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

    def attention_pieces(self, row: int, head: int) -> Iterator["HeadView"]:
        """Yield the query tiles of one row of the batch and one key head, the longest first.

        Tiles without any chosen token are skipped.
        """
        for first in reversed(range(0, self.length, QUERY_TILE)):
            piece = HeadView(self, row, head, first)
            if not self.plan.chosen or self.is_chosen[piece.columns].any():
                yield piece

    def heads(self) -> list[tuple[int, int]]:
        """Return all pairs of a row of the batch and a key head."""
        return [(row, head) for row in range(self.batch) for head in range(self.plan.kv_heads)]


@lru_cache(256)
def _tile_length(tokens: int, threads: int) -> int:
    """Return a tile length of at most `TILE`, a multiple of a cache line, that balances the threads."""
    rounds = -(-tokens // (TILE * threads))
    return 16 * -(-tokens // (16 * rounds * threads))


class HeadView:
    """The layout of one piece of attention: a batch row, a key head with its query heads, some queries."""

    def __init__(self, block: Block, row: int, head: int, first: int) -> None:
        plan, start = block.plan, row * block.length
        self.block, self.head = block, head
        self.group = plan.heads // plan.kv_heads
        self.query_heads = slice(head * self.group, (head + 1) * self.group)
        self.first, self.last = first, min(first + QUERY_TILE, block.length)
        self.columns = slice(start + first, start + self.last)
        self.visible = slice(start, start + self.last)

    def _queries(self, array: Array) -> Array:
        """Return a view (head_dim, group, queries) of a feature-major array with the query heads first."""
        size = self.block.plan.head_dim
        rows = slice(self.query_heads.start * size, self.query_heads.stop * size)
        return array[rows, self.columns].reshape(self.group, size, -1).transpose(1, 0, 2)

    def gather(self, array: Array, name: str) -> Array:
        """Return the query heads concatenated, (head_dim, group · queries), for a single matrix product."""
        source = self._queries(array)
        out = scratch(name, *source.shape)
        np.copyto(out, source)
        return out.reshape(source.shape[0], -1)

    def scatter(self, gathered: Array, array: Array) -> None:
        """Write back an array with the layout of `gather`."""
        target = self._queries(array)
        np.copyto(target, gathered.reshape(target.shape))

    def keys(self, qkv: Array) -> Array:
        """Return the keys that the last query attends to, (head_dim, keys)."""
        return qkv[self._rows("k_proj"), self.visible]

    def values(self, qkv: Array) -> Array:
        """Return the values of these keys, (head_dim, keys)."""
        return qkv[self._rows("v_proj"), self.visible]

    def _rows(self, name: str) -> slice:
        size, start = self.block.plan.head_dim, self.block.rows[name].start
        return slice(start + self.head * size, start + (self.head + 1) * size)

    def scores(self, queries: Array, keys: Array) -> Array:
        """Return scaled scores (group · queries, keys), -inf where a query does not attend to a key."""
        out = scratch("scores", queries.shape[1], keys.shape[1])
        product(queries.T, keys, out, alpha=self.block.plan.scale)
        size = self.last - self.first
        by_query = out.reshape(self.group, size, -1)
        by_query[:, :, self.first :] += causal_mask(size)
        if (segments := self.block.w.get("segments")) is not None:
            apart = segments[self.columns][:, None] != segments[self.visible]
            np.copyto(by_query, -np.inf, where=apart)
        return out

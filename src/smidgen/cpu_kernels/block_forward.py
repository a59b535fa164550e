"""The forward pass of a transformer block."""

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.attention import QueryTile, query_tiles
from smidgen.cpu_kernels.block import PROJECTIONS, Block
from smidgen.cpu_kernels.pieces import drop, normalize, normalize_heads, rotate, sigmoid
from smidgen.cpu_kernels.team import Array, new, product, products, scratch, team, view


class Forward(Block):
    """The forward pass of a block.

    Attention stores a log-sum-exp per row instead of its probabilities, as in FlashAttention
    (https://arxiv.org/abs/2205.14135).
    """

    def run(self) -> dict[str, mx.array]:
        """Run the block.

        Returns:
            `y`, (B, L, D) or (n, D) of the chosen tokens, and, if `plan.keeps`, the inputs of `Backward`.
        """
        plan, queries = self.plan, self.plan.heads * self.plan.head_dim
        shapes = {
            "qkv": (self.features, self.pitch),
            "raw": (self.rotary.stop if plan.head_norms else 0, self.pitch),
            "inverse": (plan.heads + plan.kv_heads, self.pitch),
            "attended": (queries, self.pitch),
            "logsumexp": (plan.heads, self.pitch),
            "middle": (self.num_outputs, self.width),
            "gate": (self.num_outputs, self.inner),
            "up": (self.num_outputs, self.inner),
        }
        kept = new({"y": (self.num_outputs, self.width)} | (shapes if plan.keeps else {}))
        memory = {name: view(array) for name, array in kept.items()}
        if not plan.keeps:  # the other arrays are not shared between tiles, so each tile uses its own scratch
            memory |= {name: scratch(f"all {name}", *shapes[name]) for name in list(shapes)[:5]}
        self.y, self.qkv, self.raw = memory["y"], memory["qkv"], memory["raw"]
        self.inverse, self.attended, self.logsumexp = (
            memory[name] for name in ("inverse", "attended", "logsumexp")
        )
        if plan.keeps:
            self.middle, self.gate, self.up = memory["middle"], memory["gate"], memory["up"]
        crew = team()
        crew.run(self._project, self.tiles(self.tokens))
        pieces = [piece for some in self.texts for piece in query_tiles(*some, self.is_chosen)]
        crew.run(lambda piece: self._attend(pieces[piece]), len(pieces))
        crew.run(self._finish, self.tiles(self.num_outputs))
        if not plan.chosen:
            kept["y"] = kept["y"].reshape(self.batch, self.length, self.width)
        return kept

    def _project(self, piece: int) -> None:
        """Compute norm, queries, keys and values, their norms and their rotation for one tile of tokens."""
        tile, plan = self.tile(piece, self.tokens), self.plan
        x = self.x[tile]
        normed = scratch("normed", *x.shape)
        normalize(x, self.w["input_layernorm"], plan.eps[0], normed)
        product(self.w["qkv.weight"], normed.T, self.qkv[:, tile])
        for name in PROJECTIONS:
            out = self.qkv[self.rows[name], tile].T
            self._add_update(name, normed, out, piece)
            if self.linears[name].bias:
                out += self.w[f"{name}.bias"]
        turned = self.by_head(self.qkv, tile)
        if plan.head_norms:
            raw = self.by_head(self.raw, tile)
            np.copyto(raw, turned)
            normalize_heads(raw, self.head_norms, plan.eps[2], turned, self.inverse[:, tile])
        rotate(turned, *self.angles(tile))

    def _attend(self, piece: QueryTile) -> None:
        """Compute causal attention of one tile of queries of the heads that share a key head."""
        queries = piece.gather(self.qkv, "queries")
        scores = piece.scores(queries, piece.keys(self.qkv), self.plan.scale, self.w.get("barred"))
        highest = np.maximum.reduce(scores, axis=2, keepdims=True)
        scores -= highest
        np.exp(scores, out=scores)
        total = np.add.reduce(scores, axis=2)
        attended = scratch("attended", *queries.shape)
        products(piece.values(self.qkv), scores.transpose(0, 2, 1), attended)
        attended /= total[:, None]
        piece.scatter(attended, self.attended)
        np.log(total, out=total)
        total += highest[:, :, 0]
        logsumexp = piece.by_token(self.logsumexp)
        np.copyto(logsumexp, total.reshape(logsumexp.shape))

    def _finish(self, piece: int) -> None:
        """Compute output projection, residual, norm, SwiGLU and residual for one tile of output tokens."""
        tile, plan = self.tile(piece, self.num_outputs), self.plan
        origin = self.origin(tile)
        x, y = self.x[origin], self.y[tile]
        middle = self.middle[tile] if plan.keeps else scratch("middle", *x.shape)
        self._join(x, self.attended[:, origin].T, "o_proj", middle, piece)
        normed = scratch("normed", *x.shape)
        normalize(middle, self.w["post_attention_layernorm"], plan.eps[1], normed)
        shape = (x.shape[0], self.inner)
        gate = self.gate[tile] if plan.keeps else scratch("gate", *shape)
        up = self.up[tile] if plan.keeps else scratch("up", *shape)
        for name, out in (("gate_proj", gate), ("up_proj", up)):
            product(normed, self.w[f"{name}.weight"].T, out)
            self._add_update(name, normed, out, piece)
            if self.linears[name].bias:
                out += self.w[f"{name}.bias"]
        inner = sigmoid(gate, scratch("inner", *shape))
        inner *= gate
        inner *= up
        self._join(middle, inner, "down_proj", y, piece)
        if plan.dropout:
            y -= x
            drop(y, plan.dropout, int(self.w["seed"][0]), piece)
            y += x

    def _join(self, residual: Array, x: Array, name: str, out: Array, piece: int) -> None:
        """Set `out` to residual + linear(x)."""
        np.copyto(out, residual)
        product(x, self.w[f"{name}.weight"].T, out, beta=1.0)
        self._add_update(name, x, out, piece)
        if self.linears[name].bias:
            out += self.w[f"{name}.bias"]

    def _add_update(self, name: str, x: Array, out: Array, piece: int) -> None:
        """Add the low-rank update of a dropped input `x` (T, D) to `out` (T, features) of any layout."""
        linear = self.linears[name]
        if linear.dropout:
            dropped = scratch("dropped", *x.shape)
            np.copyto(dropped, x)
            a, b = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"]
            inner = product(self.dropped(name, dropped, piece), a, scratch("update", len(x), linear.rank))
            if out.strides[1] == out.itemsize:
                product(inner, b, out, alpha=linear.scale, beta=1.0)
            else:
                product(b.T, inner.T, out.T, alpha=linear.scale, beta=1.0)

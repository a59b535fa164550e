"""The gradient of a transformer block."""

from collections.abc import Callable

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.attention import Heads, Texts, query_tiles
from smidgen.cpu_kernels.block import Block
from smidgen.cpu_kernels.pieces import (
    drop,
    normalize,
    normalize_back,
    normalize_heads_back,
    rotate,
    sigmoid,
)
from smidgen.cpu_kernels.team import Array, new, product, products, scratch, team, view


class Backward(Block):
    """The gradient of a block. Attention probabilities are recomputed; nothing of size L² is stored."""

    def run(self, kept: dict[str, mx.array], dy: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        """Return the gradients of `x` and of the trainable arrays.

        Args:
            kept: the outputs of `Forward.run`.
            dy: the gradient of its `y`.
        """
        mx.eval(dy, kept)
        plan, tokens, width, num_outputs = self.plan, self.tokens, self.width, self.num_outputs
        self.dy = view(dy).reshape(num_outputs, width)
        self.kept = {name: view(array) for name, array in kept.items()}
        out = new({"x": (tokens, width)})["x"]
        self.dx = view(out)
        self._allocate()
        crew = team()
        crew.run(self._finish_back, self.tiles(num_outputs))
        crew.run(lambda piece: self._attend_back(*self.texts[piece]), len(self.texts))
        if plan.chosen:
            self.dx[self.w["chosen"]] = self._residual_gradient(slice(None))
        crew.run(self._project_back, self.tiles(tokens))
        gradients = self._norm_gradients() | self._weight_gradients()
        return out.reshape(self.batch, self.length, width), gradients

    def _allocate(self) -> None:
        """Allocate the intermediate arrays; the next block reuses the memory."""
        plan, tokens, width, num_outputs = self.plan, self.tokens, self.width, self.num_outputs
        queries = plan.heads * plan.head_dim
        self.normed = scratch("all normed", tokens, width)
        self.normed_middle = scratch("all normed_middle", num_outputs, width)
        self.dmiddle = scratch("all dmiddle", num_outputs, width)
        # Gradients of the down projection's output, and of the path around the dropped block.
        self.ddown = scratch("all ddown", num_outputs, width) if plan.dropout else self.dy
        self.bypass = scratch("all bypass", num_outputs, width) if plan.dropout else None
        self.act = scratch("all act", num_outputs, self.inner)
        self.dgate = scratch("all dgate", num_outputs, self.inner)
        self.dup = scratch("all dup", num_outputs, self.inner)
        self.attended = scratch("all chosen", queries, num_outputs) if plan.chosen else self.kept["attended"]
        self.dattended = scratch("all dattended", queries, self.pitch)
        self.dot = scratch("all dot", plan.heads, self.pitch)
        self.dqkv = scratch("all dqkv", self.features, self.pitch)
        if plan.chosen:  # queries of other tokens have no gradient
            self.dattended.fill(0)
            self.dot.fill(0)
            self.dqkv.fill(0)
        self.norms: dict[str, Array] = {
            "input_layernorm": np.zeros((self.tiles(tokens), width), np.float32),
            "post_attention_layernorm": np.zeros((self.tiles(num_outputs), width), np.float32),
        }
        if plan.head_norms:
            self.norms["heads"] = np.zeros(
                (self.tiles(tokens), plan.heads + plan.kv_heads, plan.head_dim), np.float32
            )

    def _finish_back(self, piece: int) -> None:
        """The gradient of `Forward._finish`."""
        tile, w = self.tile(piece, self.num_outputs), self.w
        ddown, middle = self.ddown[tile], self.kept["middle"][tile]
        if self.bypass is not None:
            np.copyto(ddown, self.dy[tile])
            drop(ddown, self.plan.dropout, int(w["seed"][0]), piece)
            np.subtract(self.dy[tile], ddown, out=self.bypass[tile])
        normed, weight = self.normed_middle[tile], w["post_attention_layernorm"]
        inverse = normalize(middle, weight, self.plan.eps[1], normed)
        dgate, dup = self._swiglu_back(tile, ddown, piece)
        dnormed = product(dgate, w["gate_proj.weight"], scratch("dnormed", *middle.shape))
        product(dup, w["up_proj.weight"], dnormed, beta=1.0)
        self._add_update_back("gate_proj", dgate, dnormed, piece)
        self._add_update_back("up_proj", dup, dnormed, piece)
        dmiddle = self.dmiddle[tile]
        np.copyto(dmiddle, ddown)
        self.norms["post_attention_layernorm"][piece] = normalize_back(
            dnormed, middle, inverse, weight, dmiddle
        )
        origin = self.origin(tile)
        attended = self.kept["attended"][:, origin]
        dattended = product(w["o_proj.weight"].T, dmiddle.T, scratch("dattended", *attended.shape))
        self._add_update_back("o_proj", dmiddle, dattended.T, piece)
        self.dattended[:, origin] = dattended
        if self.plan.chosen:
            self.attended[:, tile] = attended
        dattended *= attended
        self.dot[:, origin] = dattended.reshape(self.plan.heads, -1, dattended.shape[1]).sum(axis=1)

    def _swiglu_back(self, tile: slice, ddown: Array, piece: int) -> tuple[Array, Array]:
        """Return the gradients of gate and up projection; also recompute the down projection's input."""
        gate, up = self.kept["gate"][tile], self.kept["up"][tile]
        dgate, dup = self.dgate[tile], self.dup[tile]
        dact = product(ddown, self.w["down_proj.weight"], scratch("dact", *gate.shape))
        self._add_update_back("down_proj", ddown, dact, piece)
        σ = sigmoid(gate, scratch("sigmoid", *gate.shape))
        silu = np.multiply(gate, σ, out=scratch("silu", *gate.shape))
        np.multiply(silu, up, out=self.act[tile])
        np.multiply(dact, silu, out=dup)
        # silu' = σ + silu (1 - σ)
        np.subtract(1, σ, out=dgate)
        dgate *= silu
        dgate += σ
        dgate *= up
        dgate *= dact
        return dgate, dup

    def _attend_back(self, texts: Texts, heads: Heads) -> None:
        """The gradient of `Forward._attend` for every query of some texts and one key head."""
        scale, qkv = self.plan.scale, self.kept["qkv"]
        # The last queries come first and see every key, so they can overwrite the old contents.
        beta = float(self.plan.chosen)
        for piece in query_tiles(texts, heads, self.is_chosen):
            keys, values = piece.keys(qkv), piece.values(qkv)
            queries = piece.gather(qkv, "queries")
            dattended = piece.gather(self.dattended, "dattended")
            weights = piece.scores(queries, keys, scale, self.w.get("barred"))
            weights -= piece.by_token(self.kept["logsumexp"]).reshape(texts.count, -1, 1)
            np.exp(weights, out=weights)
            dscores = scratch("dscores", *weights.shape)
            products(dattended.transpose(0, 2, 1), values, dscores)
            products(dattended, weights, piece.values(self.dqkv), beta=beta)
            dscores -= piece.by_token(self.dot).reshape(texts.count, -1, 1)
            dscores *= weights
            dqueries = scratch("dqueries", *queries.shape)
            products(keys, dscores.transpose(0, 2, 1), dqueries, alpha=scale)
            piece.scatter(dqueries, self.dqkv)
            products(queries, dscores, piece.keys(self.dqkv), alpha=scale, beta=beta)
            beta = 1.0

    def _project_back(self, piece: int) -> None:
        """The gradient of `Forward._project`."""
        tile, plan = self.tile(piece, self.tokens), self.plan
        x, dx, weight = self.x[tile], self.dx[tile], self.w["input_layernorm"]
        inverse = normalize(x, weight, plan.eps[0], self.normed[tile])
        heads = self.by_head(self.dqkv, tile)
        cosine, sine = self.angles(tile)
        rotate(heads, cosine, -sine)
        if plan.head_norms:
            raw = self.by_head(self.kept["raw"], tile)
            self.norms["heads"][piece] = normalize_heads_back(
                heads, raw, self.head_norms, self.kept["inverse"][:, tile]
            )
        dnormed = product(self.dqkv[:, tile].T, self.w["qkv.weight"], scratch("dnormed", *x.shape))
        for name, rows in self.rows.items():
            self._add_update_back(name, self.dqkv[rows, tile].T, dnormed, piece)
        if not plan.chosen:
            np.copyto(dx, self._residual_gradient(tile))
        self.norms["input_layernorm"][piece] = normalize_back(dnormed, x, inverse, weight, dx)

    def _residual_gradient(self, tile: slice) -> Array:
        """Return the gradient of `x` through the residual connections, without the attention."""
        return self.dmiddle[tile] if self.bypass is None else self.dmiddle[tile] + self.bypass[tile]

    def _norm_gradients(self) -> dict[str, mx.array]:
        sums = {name: part.sum(axis=0) for name, part in self.norms.items()}
        if self.plan.head_norms:
            heads = sums.pop("heads")
            sums["q_norm"] = heads[: self.plan.heads].sum(axis=0)
            sums["k_norm"] = heads[self.plan.heads :].sum(axis=0)
        return {name: mx.array(value) for name, value in sums.items()}

    def _weight_gradients(self) -> dict[str, mx.array]:
        """Return the gradients of the linear layers, each a sum over all tokens."""
        t = slice(0, self.tokens)
        inputs_and_gradients = {
            **{name: (self.normed, self.dqkv[rows, t].T) for name, rows in self.rows.items()},
            "o_proj": (self.attended[:, : self.num_outputs].T, self.dmiddle),
            "gate_proj": (self.normed_middle, self.dgate),
            "up_proj": (self.normed_middle, self.dup),
            "down_proj": (self.act, self.ddown),
        }
        trainable = [
            f"{name}.{part}"
            for name, linear in self.plan.linears
            for part in ([] if linear.frozen else ["weight"]) + (["lora_a", "lora_b"] if linear.rank else [])
        ]
        gradients = new({name: self.w[name].shape for name in trainable})
        jobs: list[Callable[[], object]] = []
        for name, linear in self.plan.linears:
            x, dy = inputs_and_gradients[name]
            if linear.rank:
                jobs.append(lambda name=name, x=x, dy=dy: self._low_rank(name, x, dy, gradients))
            if linear.frozen:
                continue
            dweight = view(gradients[f"{name}.weight"])
            step = -(-dy.shape[1] // team().size)
            for start in range(0, dy.shape[1], step):
                part = slice(start, start + step)
                jobs.append(lambda x=x, dy=dy[:, part], out=dweight[part]: product(dy.T, x, out))
            if linear.bias:
                gradients[f"{name}.bias"] = mx.array(dy.sum(axis=0))
        team().run(lambda piece: jobs[piece](), len(jobs))
        return gradients

    def _add_update_back(self, name: str, dy: Array, dx: Array, piece: int) -> None:
        """Add the gradient of a low-rank update's dropped input to `dx` (T, D), for `dy` (T, features)."""
        linear = self.linears[name]
        if linear.dropout:
            a, b = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"]
            inner = product(dy, b.T, scratch("update", len(dy), linear.rank))
            dupdate = product(inner, a.T, scratch("dropped", *dx.shape), alpha=linear.scale)
            dx += self.dropped(name, dupdate, piece)

    def _low_rank(self, name: str, x: Array, dy: Array, gradients: dict[str, mx.array]) -> None:
        """Write the gradients of a low-rank update: dA = s xᵀ(dy Bᵀ) and dB = s (x A)ᵀ dy."""
        a, b, linear = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"], self.linears[name]
        if linear.dropout:
            kept = scratch("all dropped", *x.shape)
            np.copyto(kept, x)
            for piece in range(self.tiles(len(x))):
                self.dropped(name, kept[self.tile(piece, len(x))], piece)
            x = kept
        inner = product(dy, b.T, scratch("low_rank", len(x), linear.rank))
        product(x.T, inner, view(gradients[f"{name}.lora_a"]), alpha=linear.scale)
        product(x, a, inner)
        product(inner.T, dy, view(gradients[f"{name}.lora_b"]), alpha=linear.scale)

"""Transformer blocks and cross-entropy for float32 on the CPU, several times faster than MLX's own ops there.

MLX's elementwise ops, softmax, normalisation and layout changes are single-threaded scalar loops on Linux. Here a whole
pre-norm block (Qwen3, Qwen2, Llama) is one `mx.custom_function` with a hand-written gradient. Its work is cut into
pieces that fit the cache; a few threads take them in turn, and each calls numpy's vectorised loops and OpenBLAS on
one thread. Which thread takes a piece never changes a sum, so results do not depend on timing.

Queries, keys and values are kept feature-major, (features, tokens): per-head norms, rotation and the merge of heads are
then long contiguous loops. Attention keeps the log-sum-exp of each row and recomputes probabilities in the gradient, as
FlashAttention does (https://arxiv.org/abs/2205.14135); the cross-entropy never stores its logits whole.

What the kernels do not cover (other dtypes, explicit masks, decoding with a filled cache, quantised layers) goes to the
MLX ops of the modules they replace, with the same result. A frozen weight gets no gradient: its entry is zero.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import blas, blas_library, device, mx, nn

TILE = 256
"""Tokens a thread works on at a time: the widest arrays of a small model then stay in a core's own cache."""
QUERY_TILE = 128
"""Queries of one attention piece; keys after the last of them are never touched."""
LOGIT_TILE = 1 << 20
"""Logits that exist at one time."""
FEW_TOKENS = 32
"""Below this many tokens the cost of leaving MLX outweighs the gain."""

_ARCHITECTURES = ("mlx_lm.models.qwen3", "mlx_lm.models.qwen2", "mlx_lm.models.llama")
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Array = np.ndarray[Any, np.dtype[np.float32]]


# ---------------------------------------------------------------------------------------------- threads and products


class _Team:
    """A few threads that take numbered pieces of work in turn, while OpenBLAS itself keeps to one thread."""

    def __init__(self) -> None:
        self.size = max(1, blas().threads)
        self._pool = ThreadPoolExecutor(max(1, self.size - 1), thread_name_prefix="smidgen-kernel")
        self._turn = threading.Lock()

    def run(self, work: Callable[[int], None], pieces: int) -> None:
        """Call `work` for 0, 1, … `pieces` - 1."""
        library = blas_library()
        assert library is not None
        numbers = itertools.count()

        def take() -> None:
            while (piece := next(numbers)) < pieces:
                work(piece)

        with self._turn:
            library.openblas_set_num_threads(1)
            try:
                others = [self._pool.submit(take) for _ in range(min(self.size, pieces) - 1)]
                take()
                for other in others:
                    other.result()
            finally:
                library.openblas_set_num_threads(self.size)


@lru_cache(1)
def _team() -> _Team:
    return _Team()


@lru_cache(1)
def _sgemm() -> Callable[..., None]:
    library = blas_library()
    assert library is not None
    i, f, p = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    library.cblas_sgemm.argtypes = [i, i, i, i, i, i, f, p, i, p, i, f, p, i]
    library.cblas_sgemm.restype = None
    return library.cblas_sgemm


def _product(a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> Array:
    """out = alpha · a b + beta · out, for matrices with one contiguous axis each; `out` is row-major."""
    (m, k), n = a.shape, b.shape[1]
    plain_a, plain_b = a.strides[1] == 4, b.strides[1] == 4
    lda = max(a.strides[0] // 4, k) if plain_a else a.strides[1] // 4
    ldb = max(b.strides[0] // 4, n) if plain_b else b.strides[1] // 4
    _sgemm()(
        101, 111 if plain_a else 112, 111 if plain_b else 112, m, n, k,
        alpha, a.ctypes.data, lda, b.ctypes.data, ldb, beta, out.ctypes.data, max(out.strides[0] // 4, n),
    )  # fmt: skip
    return out


_SCRATCH = threading.local()


def _scratch(name: str, *shape: int) -> Array:
    """A named array of this thread, reused by the next piece; its content is whatever was there."""
    size = int(np.prod(shape))
    held = _SCRATCH.__dict__.get(name)
    if held is None or held.size < size:
        held = _SCRATCH.__dict__[name] = np.empty(size, np.float32)
    return held[:size].reshape(shape)


def _empty(*shape: int) -> tuple[mx.array, Array]:
    """An array of MLX and a writable view of it."""
    array = mx.empty(shape, mx.float32)
    mx.eval(array)
    return array, np.array(array, copy=False)


def _temporary(*shape: int) -> Array:
    return _empty(*shape)[1]


def _view(array: mx.array) -> Array:
    return np.array(array, copy=False)


# ------------------------------------------------------------------------------------------------------ small pieces


def _normalize(x: Array, weight: Array, eps: float, out: Array) -> Array:
    """RMS norm of rows; returns the reciprocal of each row's root mean square, (rows, 1)."""
    inverse = np.vecdot(x, x)[:, None]
    inverse *= 1 / x.shape[1]
    inverse += eps
    np.sqrt(inverse, out=inverse)
    np.reciprocal(inverse, out=inverse)
    np.multiply(x, inverse, out=out)
    out *= weight
    return inverse


def _normalize_back(dy: Array, x: Array, inverse: Array, weight: Array, dx: Array) -> Array:
    """Add the gradient of rows that were normalised to `dx`; returns that of the weight."""
    unit = np.multiply(x, inverse, out=_scratch("unit", *x.shape))
    dweight = np.einsum("td,td->d", dy, unit)
    scaled = np.multiply(dy, weight, out=_scratch("scaled", *x.shape))
    mean = np.vecdot(scaled, unit)[:, None]
    mean *= 1 / x.shape[1]
    unit *= mean
    scaled -= unit
    scaled *= inverse
    dx += scaled
    return dweight


def _rotate(x: Array, cosine: Array, sine: Array, sign: float = 1.0) -> None:
    """Rotate (heads, head_dim, tokens) in place by the angles of (head_dim / 2, tokens), or back with sign -1."""
    half = x.shape[1] // 2
    first, second = x[:, :half], x[:, half:]
    shape = first.shape
    to_second = np.multiply(first, sine, out=_scratch("to_second", *shape))
    to_first = np.multiply(second, sine, out=_scratch("to_first", *shape))
    first *= cosine
    second *= cosine
    if sign > 0:
        first -= to_first
        second += to_second
    else:
        first += to_first
        second -= to_second


def _normalize_heads(raw: Array, weight: Array, eps: float, out: Array) -> None:
    """RMS norm of each head and token of (heads, head_dim, tokens)."""
    np.multiply(raw, _head_inverse(raw, eps), out=out)
    out *= weight[:, None]


def _head_inverse(raw: Array, eps: float) -> Array:
    square = np.multiply(raw, raw, out=_scratch("square", *raw.shape))
    inverse = square.sum(axis=1, keepdims=True)
    inverse *= 1 / raw.shape[1]
    inverse += eps
    np.sqrt(inverse, out=inverse)
    return np.reciprocal(inverse, out=inverse)


def _normalize_heads_back(gradient: Array, raw: Array, weight: Array, eps: float) -> Array:
    """Turn the gradient of normalised heads, in place, into that of the raw ones; returns that of the weight."""
    inverse = _head_inverse(raw, eps)
    unit = np.multiply(raw, inverse, out=_scratch("unit_heads", *raw.shape))
    product = np.multiply(gradient, unit, out=_scratch("square", *raw.shape))
    dweight = product.sum(axis=(0, 2))
    product *= weight[:, None]
    mean = product.sum(axis=1, keepdims=True)
    mean *= 1 / raw.shape[1]
    gradient *= weight[:, None]
    unit *= mean
    gradient -= unit
    gradient *= inverse
    return dweight


def _silu(gate: Array, sigmoid: Array) -> None:
    """Put 1 / (1 + exp(-gate)) into `sigmoid`."""
    np.negative(gate, out=sigmoid)
    np.exp(sigmoid, out=sigmoid)
    sigmoid += 1
    np.reciprocal(sigmoid, out=sigmoid)


@lru_cache(8)
def _later(size: int) -> Array:
    """0 up to the diagonal and -inf after it."""
    return np.triu(np.full((size, size), -np.inf, np.float32), 1)


# ------------------------------------------------------------------------------------------------------------- block


@dataclass(frozen=True)
class _Linear:
    """What is known of a linear layer besides its arrays."""

    frozen: bool
    bias: bool = False
    rank: int = 0
    scale: float = 0.0


@dataclass(frozen=True)
class _Plan:
    """What is known of a block besides its arrays; equal plans share one compiled function."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    eps: tuple[float, float, float]
    head_norms: bool
    linears: tuple[tuple[str, _Linear], ...]
    keeps: bool


class _Block:
    """One pass through one block: its arrays as numpy views, and the pieces of work."""

    def __init__(self, plan: _Plan, x: mx.array, arrays: dict[str, mx.array]) -> None:
        mx.eval(x, arrays)
        self.plan = plan
        self.batch, self.length, self.width = x.shape
        self.tokens = self.batch * self.length
        self.x = _view(x).reshape(self.tokens, self.width)
        self.w = {name: _view(array) for name, array in arrays.items()}
        self.linears = dict(plan.linears)
        for name, linear in plan.linears:
            if linear.rank:
                self.w[f"{name}.weight"] = self._merged(name, linear)
        queries, keys = plan.heads * plan.head_dim, plan.kv_heads * plan.head_dim
        self.rows = {
            "q_proj": slice(0, queries),
            "k_proj": slice(queries, queries + keys),
            "v_proj": slice(queries + keys, queries + 2 * keys),
        }
        self.features = queries + 2 * keys
        self.inner = self.w["gate_proj.weight"].shape[0]
        # An odd number of cache lines: rows a power of two apart would all fall into the same few sets of the cache.
        self.pitch = 16 * (-(-self.tokens // 16) | 1)
        self.num_tiles = -(-self.tokens // TILE)

    def _merged(self, name: str, linear: _Linear) -> Array:
        """The weight with its low-rank update, (out, in)."""
        weight = self.w[f"{name}.weight"]
        merged = np.array(weight)
        return _product(
            self.w[f"{name}.lora_b"].T, self.w[f"{name}.lora_a"].T, merged, alpha=linear.scale, beta=1.0
        )

    def tile(self, piece: int) -> slice:
        return slice(piece * TILE, min((piece + 1) * TILE, self.tokens))

    def angles(self, tile: slice) -> tuple[Array, Array]:
        """Cosine and sine of (head_dim / 2, tokens of the tile)."""
        positions = np.arange(tile.start, tile.stop) % self.length
        return self.w["cosine"][:, positions], self.w["sine"][:, positions]

    def by_head(self, array: Array, name: str, tile: slice) -> Array:
        """The heads of one projection, (heads, head_dim, tokens of the tile)."""
        return array[self.rows[name], tile].reshape(-1, self.plan.head_dim, tile.stop - tile.start)


class _Forward(_Block):
    """The block's value."""

    def run(self) -> dict[str, mx.array]:
        """Return the output `y` (B, L, D) and, if the plan keeps them, what the gradient needs."""
        plan = self.plan
        kept: dict[str, mx.array] = {}

        def array(name: str, *shape: int) -> Array:
            kept[name], view = _empty(*shape)
            return view

        queries = plan.heads * plan.head_dim
        self.y = array("y", self.batch, self.length, self.width).reshape(self.tokens, self.width)
        self.qkv = array("qkv", self.features, self.pitch)
        self.raw = self.qkv
        if plan.head_norms and plan.keeps:
            self.raw = array("raw", self.rows["k_proj"].stop, self.pitch)
        self.attended = array("attended", queries, self.pitch)
        self.logsumexp = array("logsumexp", plan.heads, self.pitch)
        if plan.keeps:
            self.middle = array("middle", self.tokens, self.width)
            self.gate = array("gate", self.tokens, self.inner)
            self.up = array("up", self.tokens, self.inner)
        team = _team()
        team.run(self._project, self.num_tiles)
        pieces = list(self._attention_pieces())
        team.run(lambda piece: self._attend(*pieces[piece]), len(pieces))
        team.run(self._finish, self.num_tiles)
        return kept

    def _project(self, piece: int) -> None:
        """Norm, queries, keys, values, their norms and their rotation for one tile of tokens."""
        tile, plan, w = self.tile(piece), self.plan, self.w
        x = self.x[tile]
        normed = _scratch("normed", *x.shape)
        _normalize(x, w["input_layernorm"], plan.eps[0], normed)
        angles = self.angles(tile)
        for name in ("q_proj", "k_proj", "v_proj"):
            raw = self.qkv if name == "v_proj" else self.raw
            rows = raw[self.rows[name], tile]
            _product(w[f"{name}.weight"], normed.T, rows)
            if self.linears[name].bias:
                rows += w[f"{name}.bias"][:, None]
            if name == "v_proj":
                continue
            heads = self.by_head(self.qkv, name, tile)
            if plan.head_norms:
                norm = "q_norm" if name == "q_proj" else "k_norm"
                _normalize_heads(self.by_head(raw, name, tile), w[norm], plan.eps[2], heads)
            _rotate(heads, *angles)

    def _attention_pieces(self) -> Iterator[tuple[int, int, int]]:
        """Row of the batch, key head and first query; the longest pieces first."""
        for first in reversed(range(0, self.length, QUERY_TILE)):
            for row in range(self.batch):
                for head in range(self.plan.kv_heads):
                    yield row, head, first

    def _attend(self, row: int, head: int, first: int) -> None:
        """Causal attention of one tile of queries of the heads that share one key head."""
        view = _HeadView(self, row, head, first)
        queries = view.gather(self.qkv, "queries")
        scores = view.scores(queries, view.keys(self.qkv))
        highest = scores.max(axis=1, keepdims=True)
        scores -= highest
        np.exp(scores, out=scores)
        total = scores.sum(axis=1)
        attended = _product(view.values(self.qkv), scores.T, _scratch("attended", *queries.shape))
        attended /= total
        view.scatter(attended, self.attended)
        np.log(total, out=total)
        total += highest[:, 0]
        self.logsumexp[view.query_heads, view.columns] = total.reshape(view.group, -1)

    def _finish(self, piece: int) -> None:
        """Output projection, residual, norm, SwiGLU and residual for one tile of tokens."""
        tile, plan, w = self.tile(piece), self.plan, self.w
        x, y = self.x[tile], self.y[tile]
        middle = self.middle[tile] if plan.keeps else _scratch("middle", *x.shape)
        self._add(x, self.attended[:, tile].T, "o_proj", middle)
        normed = _scratch("normed", *x.shape)
        _normalize(middle, w["post_attention_layernorm"], plan.eps[1], normed)
        shape = (x.shape[0], self.inner)
        gate = self.gate[tile] if plan.keeps else _scratch("gate", *shape)
        up = self.up[tile] if plan.keeps else _scratch("up", *shape)
        for name, out in (("gate_proj", gate), ("up_proj", up)):
            _product(normed, w[f"{name}.weight"].T, out)
            if self.linears[name].bias:
                out += w[f"{name}.bias"]
        inner = _scratch("inner", *shape)
        _silu(gate, inner)
        inner *= gate
        inner *= up
        self._add(middle, inner, "down_proj", y)

    def _add(self, residual: Array, x: Array, name: str, out: Array) -> None:
        """out = residual + linear(x)."""
        np.copyto(out, residual)
        _product(x, self.w[f"{name}.weight"].T, out, beta=1.0)
        if self.linears[name].bias:
            out += self.w[f"{name}.bias"]


class _HeadView:
    """Where one attention piece lies: a row of the batch, one key head and its query heads, a range of queries."""

    def __init__(self, block: _Block, row: int, head: int, first: int) -> None:
        plan = block.plan
        start = row * block.length
        self.block, self.head = block, head
        self.group = plan.heads // plan.kv_heads
        self.query_heads = slice(head * self.group, (head + 1) * self.group)
        last = min(first + QUERY_TILE, block.length)
        self.first, self.last = first, last
        self.columns = slice(start + first, start + last)
        self.seen = slice(start, start + last)

    def _queries(self, array: Array) -> Array:
        """(head_dim, group, queries) of a feature-major array whose first rows are the query heads'."""
        size = self.block.plan.head_dim
        rows = slice(self.query_heads.start * size, self.query_heads.stop * size)
        return array[rows, self.columns].reshape(self.group, size, -1).transpose(1, 0, 2)

    def gather(self, array: Array, name: str) -> Array:
        """The query heads side by side, (head_dim, group · queries), so that one product serves them all."""
        source = self._queries(array)
        out = _scratch(name, *source.shape)
        np.copyto(out, source)
        return out.reshape(source.shape[0], -1)

    def scatter(self, gathered: Array, array: Array) -> None:
        target = self._queries(array)
        np.copyto(target, gathered.reshape(target.shape))

    def keys(self, qkv: Array) -> Array:
        return qkv[self._rows("k_proj"), self.seen]

    def values(self, qkv: Array) -> Array:
        return qkv[self._rows("v_proj"), self.seen]

    def _rows(self, name: str) -> slice:
        size, start = self.block.plan.head_dim, self.block.rows[name].start
        return slice(start + self.head * size, start + (self.head + 1) * size)

    def scores(self, queries: Array, keys: Array) -> Array:
        """Scaled scores (group · queries, keys), -inf where the key comes after the query."""
        out = _scratch("scores", queries.shape[1], keys.shape[1])
        _product(queries.T, keys, out, alpha=self.block.plan.scale)
        size = self.last - self.first
        out.reshape(self.group, size, -1)[:, :, self.first :] += _later(size)
        return out


class _Backward(_Block):
    """The block's gradient."""

    def run(self, kept: dict[str, mx.array], dy: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        """Return the gradients of `x` and of the arrays."""
        mx.eval(dy)
        plan, tokens, width = self.plan, self.tokens, self.width
        self.dy = _view(dy).reshape(tokens, width)
        self.kept = {name: _view(array) for name, array in kept.items()}
        self.raw = self.kept.get("raw", self.kept["qkv"])
        out, self.dx = _empty(tokens, width)
        self.normed, self.normed_middle = _temporary(tokens, width), _temporary(tokens, width)
        self.dmiddle = _temporary(tokens, width)
        self.inner_value, self.dgate, self.dup = (_temporary(tokens, self.inner) for _ in range(3))
        self.dattended = _temporary(plan.heads * plan.head_dim, self.pitch)
        self.dot = _temporary(plan.heads, self.pitch)
        self.dqkv = _temporary(self.features, self.pitch)
        self.norms = {
            name: np.zeros((self.num_tiles, self.w[name].size), np.float32)
            for name in ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
            if name in self.w
        }
        team = _team()
        team.run(self._unfinish, self.num_tiles)
        heads = [(row, head) for row in range(self.batch) for head in range(plan.kv_heads)]
        team.run(lambda piece: self._unattend(*heads[piece]), len(heads))
        team.run(self._unproject, self.num_tiles)
        gradients = {name: mx.array(part.sum(axis=0)) for name, part in self.norms.items()}
        gradients |= self._weight_gradients(team)
        return out.reshape(self.batch, self.length, width), gradients

    def _unfinish(self, piece: int) -> None:
        """The gradient of `_finish`."""
        tile, w = self.tile(piece), self.w
        dy, middle = self.dy[tile], self.kept["middle"][tile]
        gate, up = self.kept["gate"][tile], self.kept["up"][tile]
        inverse = _normalize(
            middle, w["post_attention_layernorm"], self.plan.eps[1], self.normed_middle[tile]
        )
        shape = gate.shape
        dinner = _product(dy, w["down_proj.weight"], _scratch("dinner", *shape))
        sigmoid = _scratch("sigmoid", *shape)
        _silu(gate, sigmoid)
        silu = np.multiply(gate, sigmoid, out=_scratch("silu", *shape))
        np.multiply(silu, up, out=self.inner_value[tile])
        dup, dgate = self.dup[tile], self.dgate[tile]
        np.multiply(dinner, silu, out=dup)
        # silu' = σ + silu (1 - σ)
        np.subtract(1, sigmoid, out=dgate)
        dgate *= silu
        dgate += sigmoid
        dgate *= up
        dgate *= dinner
        dnormed = _product(dgate, w["gate_proj.weight"], _scratch("dnormed", *dy.shape))
        _product(dup, w["up_proj.weight"], dnormed, beta=1.0)
        dmiddle = self.dmiddle[tile]
        np.copyto(dmiddle, dy)
        self.norms["post_attention_layernorm"][piece] = _normalize_back(
            dnormed, middle, inverse, w["post_attention_layernorm"], dmiddle
        )
        dattended, attended = self.dattended[:, tile], self.kept["attended"][:, tile]
        _product(w["o_proj.weight"].T, dmiddle.T, dattended)
        product = np.multiply(dattended, attended, out=_scratch("product", *attended.shape))
        product.reshape(self.plan.heads, -1, product.shape[1]).sum(axis=1, out=self.dot[:, tile])

    def _unattend(self, row: int, head: int) -> None:
        """The gradient of `_attend` for every query of one key head; the last queries first, for they see every key."""
        scale, qkv = self.plan.scale, self.kept["qkv"]
        beta = 0.0
        for first in reversed(range(0, self.length, QUERY_TILE)):
            view = _HeadView(self, row, head, first)
            keys, values = view.keys(qkv), view.values(qkv)
            queries = view.gather(qkv, "queries")
            dattended = view.gather(self.dattended, "dattended")
            weights = view.scores(queries, keys)
            weights -= self.kept["logsumexp"][view.query_heads, view.columns].reshape(-1, 1)
            np.exp(weights, out=weights)
            dscores = _product(dattended.T, values, _scratch("dscores", *weights.shape))
            _product(dattended, weights, view.values(self.dqkv), beta=beta)
            dscores -= self.dot[view.query_heads, view.columns].reshape(-1, 1)
            dscores *= weights
            dqueries = _product(keys, dscores.T, _scratch("dqueries", *queries.shape), alpha=scale)
            view.scatter(dqueries, self.dqkv)
            _product(queries, dscores, view.keys(self.dqkv), alpha=scale, beta=beta)
            beta = 1.0

    def _unproject(self, piece: int) -> None:
        """The gradient of `_project`."""
        tile, plan, w = self.tile(piece), self.plan, self.w
        x, dx = self.x[tile], self.dx[tile]
        inverse = _normalize(x, w["input_layernorm"], plan.eps[0], self.normed[tile])
        angles = self.angles(tile)
        dnormed, beta = _scratch("dnormed", *x.shape), 0.0
        for name in ("q_proj", "k_proj", "v_proj"):
            if name != "v_proj":
                heads = self.by_head(self.dqkv, name, tile)
                _rotate(heads, *angles, sign=-1.0)
                if plan.head_norms:
                    norm = "q_norm" if name == "q_proj" else "k_norm"
                    self.norms[norm][piece] = _normalize_heads_back(
                        heads, self.by_head(self.raw, name, tile), w[norm], plan.eps[2]
                    )
            _product(self.dqkv[self.rows[name], tile].T, w[f"{name}.weight"], dnormed, beta=beta)
            beta = 1.0
        np.copyto(dx, self.dmiddle[tile])
        self.norms["input_layernorm"][piece] = _normalize_back(
            dnormed, x, inverse, w["input_layernorm"], dx
        )

    def _weight_gradients(self, team: _Team) -> dict[str, mx.array]:
        """Gradients of the linear layers, each a sum over all tokens."""
        t = slice(0, self.tokens)
        inputs_and_gradients = {
            **{name: (self.normed, self.dqkv[rows, t].T) for name, rows in self.rows.items()},
            "o_proj": (self.kept["attended"][:, t].T, self.dmiddle),
            "gate_proj": (self.normed_middle, self.dgate),
            "up_proj": (self.normed_middle, self.dup),
            "down_proj": (self.inner_value, self.dy),
        }
        gradients: dict[str, mx.array] = {}
        jobs: list[Callable[[], None]] = []
        for name, linear in self.plan.linears:
            x, dy = inputs_and_gradients[name]
            if linear.rank:
                for part in ("lora_a", "lora_b"):
                    gradients[f"{name}.{part}"], _ = _empty(*self.w[f"{name}.{part}"].shape)
                jobs.append(lambda name=name, x=x, dy=dy: self._low_rank_gradient(name, x, dy, gradients))
            if linear.frozen:
                continue
            gradients[f"{name}.weight"], dweight = _empty(dy.shape[1], x.shape[1])
            step = max(16, -(-dy.shape[1] // team.size))
            for start in range(0, dy.shape[1], step):
                part = slice(start, start + step)
                jobs.append(lambda x=x, dy=dy[:, part], out=dweight[part]: _product(dy.T, x, out))
            if linear.bias:
                gradients[f"{name}.bias"] = mx.array(dy.sum(axis=0))
        team.run(lambda piece: jobs[piece](), len(jobs))
        return gradients

    def _low_rank_gradient(self, name: str, x: Array, dy: Array, gradients: dict[str, mx.array]) -> None:
        """dA = s xᵀ(dy Bᵀ) and dB = s (x A)ᵀ dy."""
        a, b, scale = self.w[f"{name}.lora_a"], self.w[f"{name}.lora_b"], self.linears[name].scale
        shape = (self.tokens, a.shape[1])
        inner = _product(dy, b.T, _scratch("low_rank", *shape))
        _product(x.T, inner, _view(gradients[f"{name}.lora_a"]), alpha=scale)
        inner = _product(x, a, inner)
        _product(inner.T, dy, _view(gradients[f"{name}.lora_b"]), alpha=scale)


@lru_cache(64)
def _block_function(plan: _Plan) -> Callable[..., dict[str, mx.array]]:
    @mx.custom_function
    def block(x: mx.array, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        return _Forward(plan, x, arrays).run()

    @block.vjp
    def gradient(
        primals: tuple[mx.array, dict[str, mx.array]],
        cotangents: dict[str, mx.array],
        kept: dict[str, mx.array],
    ) -> tuple[mx.array, dict[str, mx.array]]:
        x, arrays = primals
        dx, darrays = _Backward(plan, x, arrays).run(kept, cotangents["y"])
        return dx, {name: darrays.get(name, mx.zeros_like(value)) for name, value in arrays.items()}

    return block


# ----------------------------------------------------------------------------------------------------- cross-entropy


def linear_cross_entropy(
    hidden: mx.array, weight: mx.array, targets: mx.array, *, weight_frozen: bool = False
) -> mx.array:
    """Return -ln softmax(hidden weightᵀ)[target] of each token, without storing the logits.

    Args:
        hidden: (N, D) float32.
        weight: the head's matrix, (V, D) float32.
        targets: (N,) integers.
        weight_frozen: spare the gradient of `weight`, which is then zero.

    Returns:
        (N,) float32, in nats.
    """
    if not _usable(hidden, weight) or targets.size == 0:
        return nn.losses.cross_entropy(hidden @ weight.T, targets)
    return _cross_entropy(weight_frozen)(hidden, weight, targets)


@lru_cache(2)
def _cross_entropy(weight_frozen: bool) -> Callable[..., mx.array]:
    @mx.custom_function
    def cross_entropy(hidden: mx.array, weight: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        return _Head(hidden, weight, targets).losses()

    @cross_entropy.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        hidden, weight, targets = primals
        dhidden, dweight = _Head(hidden, weight, targets).gradients(outputs[1], cotangents[0], weight_frozen)
        return dhidden, dweight, mx.zeros_like(targets)

    return lambda *arrays: cross_entropy(*arrays)[0]


class _Head:
    """The head and its cross-entropy, over chunks of tokens whose logits exist together."""

    def __init__(self, hidden: mx.array, weight: mx.array, targets: mx.array) -> None:
        mx.eval(hidden, weight, targets)
        self.hidden, self.weight, self.targets = _view(hidden), _view(weight), np.array(targets)
        self.tokens, self.vocabulary = hidden.shape[0], weight.shape[0]
        self.chunk = max(1, min(self.tokens, LOGIT_TILE // self.vocabulary))

    def losses(self) -> tuple[mx.array, mx.array]:
        """Loss and log-sum-exp of each token."""
        team = _team()
        loss, losses = _empty(self.tokens)
        logsumexp, log_totals = _empty(self.tokens)
        tile = max(1, -(-self.chunk // team.size))

        def work(piece: int) -> None:
            rows = slice(piece * tile, min((piece + 1) * tile, self.tokens))
            hidden = self.hidden[rows]
            logits = _product(hidden, self.weight.T, _scratch("logits", len(hidden), self.vocabulary))
            chosen = logits[np.arange(len(hidden)), self.targets[rows]]
            highest = logits.max(axis=1, keepdims=True)
            logits -= highest
            np.exp(logits, out=logits)
            np.log(logits.sum(axis=1), out=log_totals[rows])
            log_totals[rows] += highest[:, 0]
            np.subtract(log_totals[rows], chosen, out=losses[rows])

        team.run(work, -(-self.tokens // tile))
        return loss, logsumexp

    def gradients(
        self, logsumexp: mx.array, dloss: mx.array, weight_frozen: bool
    ) -> tuple[mx.array, mx.array]:
        """Gradients of `hidden` and `weight`."""
        team = _team()
        mx.eval(logsumexp, dloss)
        log_totals, dlosses = _view(logsumexp), np.array(dloss)
        dhidden_array, dhidden = _empty(*self.hidden.shape)
        dweight_array, dweight = _empty(*self.weight.shape) if not weight_frozen else (None, None)
        dlogits = _temporary(self.chunk, self.vocabulary)
        span = -(-self.vocabulary // (2 * team.size))
        for start in range(0, self.tokens, self.chunk):
            chunk = slice(start, min(start + self.chunk, self.tokens))
            size = chunk.stop - chunk.start
            tile = -(-size // team.size)

            def per_token(piece: int) -> None:
                inside = slice(piece * tile, min((piece + 1) * tile, size))
                rows = slice(start + inside.start, start + inside.stop)
                out = _product(self.hidden[rows], self.weight.T, dlogits[inside])
                out -= log_totals[rows, None]
                np.exp(out, out=out)
                out[np.arange(len(out)), self.targets[rows]] -= 1
                out *= dlosses[rows, None]
                _product(out, self.weight, dhidden[rows])

            def per_word(piece: int) -> None:
                words = slice(piece * span, min((piece + 1) * span, self.vocabulary))
                _product(
                    dlogits[:size, words].T, self.hidden[chunk], dweight[words], beta=float(start > 0)
                )

            team.run(per_token, -(-size // tile))
            if dweight is not None:
                team.run(per_word, -(-self.vocabulary // span))
        return dhidden_array, mx.zeros(self.weight.shape) if dweight_array is None else dweight_array


# ----------------------------------------------------------------------------------------------------------- modules


def _usable(*arrays: mx.array) -> bool:
    """Whether the kernels serve these arrays on this machine."""
    return (
        blas_library() is not None
        and device().kind == "cpu"
        and all(array.dtype == mx.float32 for array in arrays)
    )


def accelerate(model: nn.Module) -> None:
    """Put the kernels under the blocks of a Qwen3, Qwen2 or Llama of mlx-lm, in place; does nothing off the CPU.

    Parameters keep their names, and layers that are replaced later (low-rank updates) are seen.
    """
    if blas_library() is None or device().kind != "cpu":
        return
    layers = model.model.layers
    for index, layer in enumerate(layers):
        if type(layer).__module__ in _ARCHITECTURES:
            layers[index] = FusedBlock(layer)


class FusedBlock(nn.Module):
    """A transformer block of mlx-lm that runs as one kernel where it can."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(block.__dict__)
        dict.update(self, block)
        self._angles: dict[int, tuple[mx.array, mx.array] | None] = {}

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        call = self._call(x, mask, cache)
        if call is None:
            x = x + self.self_attn(self.input_layernorm(x), mask, cache)
            return x + self.mlp(self.post_attention_layernorm(x))
        plan, arrays = call
        return _block_function(plan)(x, arrays)["y"]

    def _call(self, x: mx.array, mask: Any, cache: Any) -> tuple[_Plan, dict[str, mx.array]] | None:
        """The plan and the arrays of a call that the kernels serve."""
        if not isinstance(mask, str) or mask != "causal" or cache is not None:
            return None
        attention, mlp = self.self_attn, self.mlp
        angles = self._rotation(x.shape[1])
        if x.shape[0] * x.shape[1] < FEW_TOKENS or angles is None:
            return None
        arrays = {
            "input_layernorm": self.input_layernorm.weight,
            "post_attention_layernorm": self.post_attention_layernorm.weight,
            "cosine": angles[0],
            "sine": angles[1],
        }
        norms = [self.input_layernorm, self.post_attention_layernorm]
        if "q_norm" in attention:
            arrays |= {"q_norm": attention.q_norm.weight, "k_norm": attention.k_norm.weight}
            norms.append(attention.q_norm)
        linears = []
        for name in _LINEARS:
            module = attention[name] if name in attention else mlp[name]
            linear = _describe(module)
            if linear is None:
                return None
            linears.append((name, linear))
            base = module.linear if linear.rank else module
            arrays[f"{name}.weight"] = base.weight
            if linear.bias:
                arrays[f"{name}.bias"] = base.bias
            if linear.rank:
                arrays |= {f"{name}.lora_a": module.lora_a, f"{name}.lora_b": module.lora_b}
        if not _usable(x, *arrays.values()):
            return None
        eps = (norms[0].eps, norms[1].eps, norms[-1].eps)
        heads, kv_heads = attention.n_heads, attention.n_kv_heads
        plan = _Plan(
            heads, kv_heads, angles[0].shape[0] * 2, attention.scale, eps, "q_norm" in attention,
            tuple(linears), self.training,
        )  # fmt: skip
        return plan, arrays

    def _rotation(self, length: int) -> tuple[mx.array, mx.array] | None:
        """Cosine and sine of the block's rotary embedding, (head_dim / 2, length), read off by turning unit vectors."""
        if length not in self._angles:
            attention = self.self_attn
            half = attention.k_proj.weight.shape[0] // attention.n_kv_heads // 2
            self._angles[length] = _read_angles(attention.rope, half, length)
        return self._angles[length]


def _read_angles(rope: Callable[..., mx.array], half: int, length: int) -> tuple[mx.array, mx.array] | None:
    one, zero = mx.ones((1, 1, length, half)), mx.zeros((1, 1, length, half))
    first = rope(mx.concatenate([one, zero], axis=-1))[0, 0]
    second = rope(mx.concatenate([zero, one], axis=-1))[0, 0]
    cosine, sine = mx.contiguous(first[:, :half].T), mx.contiguous(first[:, half:].T)
    if not (mx.allclose(second[:, half:].T, cosine) and mx.allclose(-second[:, :half].T, sine)):
        return None
    mx.eval(cosine, sine)
    return cosine, sine


def _describe(module: nn.Module) -> _Linear | None:
    """What the kernels need to know of a linear layer; None when they do not serve it."""
    if type(module) is nn.Linear:
        return _Linear("weight" in module._no_grad, "bias" in module)
    if type(module).__name__ != "LoRALinear" or type(module.linear) is not nn.Linear:
        return None
    if module.training and module.dropout._p_1 < 1:
        return None
    frozen = "weight" in module.linear._no_grad
    return _Linear(frozen, "bias" in module.linear, module.lora_a.shape[1], module.scale)

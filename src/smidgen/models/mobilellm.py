"""MobileLLM-R1 (https://arxiv.org/abs/2509.24945): the dense decoder that transformers calls `llama4_text`.

Grouped-query attention, SwiGLU and RMS norms as in Llama, and per layer either rotary positions or none:

- A layer with rotary positions turns neighbouring pairs, norms queries and keys without a weight, and looks
  no further back than the beginning of its chunk of `attention_chunk_size` tokens.
- A layer without them is neither normed nor chunked. Where `attn_temperature_tuning` is on, its query at
  position p (from 0) is multiplied by 1 + `attn_scale` · ln(1 + ⌊(p + 1) / `floor_scale`⌋)
  (https://arxiv.org/abs/2501.19399); `attn_scale` is nothing else.

mlx-lm has a `llama4_text` too. Unlike it, the head is tied through `as_linear`, so that a quantised embedding
serves as one, layers without positions are not normed, and tuning, chunks and rotary scaling are honoured.
Mixtures of experts are refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.rope_utils import initialize_rope

from smidgen.backend import mx, nn
from smidgen.errors import ModelError

SWIGLU = frozenset({"gate_proj", "up_proj", "down_proj"})
EXPERTS = frozenset({"experts", "router", "shared_expert"})


@dataclass
class ModelArgs:
    """The keys of `config.json` that are read.

    Attributes:
        intermediate_size_mlp: width of the dense layers; `intermediate_size` is that of experts.
        head_dim: 128 where nothing is said, hidden_size / num_attention_heads where it is None.
        no_rope_layers: for each layer 1 if it has rotary positions, 0 if not (the name says the opposite);
            where it is empty, every layer but each `no_rope_layer_interval`th has them.
        attention_chunk_size: 8192 where nothing is said; no chunks where it is None.
        layer_types: chunked_attention or full_attention for each layer; chunks go with rotary positions where
            it is None.
        moe_layers: must be empty; None stands for every `interleave_moe_layer_step`th layer.

    Raises:
        ValueError: the values make no dense model.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size_mlp: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    attention_bias: bool
    use_qk_norm: bool
    no_rope_layer_interval: int
    attn_temperature_tuning: bool
    floor_scale: float
    attn_scale: float
    interleave_moe_layer_step: int
    tie_word_embeddings: bool
    head_dim: int | None = 128
    rope_scaling: dict[str, Any] | None = None
    no_rope_layers: list[int] | None = None
    layer_types: list[str] | None = None
    attention_chunk_size: int | None = 8192
    moe_layers: list[int] | None = None

    def __post_init__(self):
        layers, step = self.num_hidden_layers, self.interleave_moe_layer_step
        if self.moe_layers is None:
            self.moe_layers = list(range(step - 1, layers, step)) if step > 0 else []
        if self.moe_layers:
            raise ValueError(f"layers {self.moe_layers} are mixtures of experts, only dense ones are known")
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads cannot share {self.num_key_value_heads} keys evenly"
            )
        if not self.no_rope_layers:
            every = self.no_rope_layer_interval
            self.no_rope_layers = [int((layer + 1) % every != 0) for layer in range(layers)]
        if len(self.no_rope_layers) < layers or not set(self.no_rope_layers) <= {0, 1}:
            raise ValueError(f"no_rope_layers is {self.no_rope_layers}, expected 0 or 1 for {layers} layers")
        if self.layer_types is None:
            kinds = ("full_attention", "chunked_attention")
            self.layer_types = [kinds[rotary] for rotary in self.no_rope_layers]
        if len(self.layer_types) < layers:
            raise ValueError(f"layer_types names {len(self.layer_types)} layers of {layers}")
        if self.attention_chunk_size is not None and self.attention_chunk_size < 1:
            raise ValueError(f"attention_chunk_size is {self.attention_chunk_size}, expected 1 or more")


class Attention(nn.Module):
    """Grouped-query attention of one layer, which may have rotary positions and chunks."""

    def __init__(self, args: ModelArgs, *, rotary: bool, chunk_size: int | None):
        super().__init__()
        assert args.head_dim is not None
        self.n_heads, self.n_kv_heads, self.head_dim = (
            args.num_attention_heads, args.num_key_value_heads, args.head_dim
        )  # fmt: skip
        self.scale = self.head_dim**-0.5
        self.chunk_size = chunk_size
        self.norm_eps = args.rms_norm_eps if rotary and args.use_qk_norm else None
        self.tuned = bool(args.attn_temperature_tuning) and not rotary
        self.attn_scale, self.floor_scale = args.attn_scale, args.floor_scale
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.q_proj = nn.Linear(args.hidden_size, queries, bias=args.attention_bias)
        self.k_proj = nn.Linear(args.hidden_size, keys, bias=args.attention_bias)
        self.v_proj = nn.Linear(args.hidden_size, keys, bias=args.attention_bias)
        self.o_proj = nn.Linear(queries, args.hidden_size, bias=args.attention_bias)
        self.rope = None
        if rotary:
            self.rope = initialize_rope(
                self.head_dim, args.rope_theta, True, args.rope_scaling, args.max_position_embeddings
            )

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        """Attend from x (B, L, D) to itself and what `cache` holds; `mask` is mlx-lm's causal one."""
        B, L, _ = x.shape
        offset = 0 if cache is None else cache.offset
        queries, keys, values = (
            projection(x).reshape(B, L, -1, self.head_dim).transpose(0, 2, 1, 3)  # (B, H or K, L, D/H)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rope is not None:
            queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        if self.norm_eps is not None:
            queries, keys = (mx.fast.rms_norm(heads, None, self.norm_eps) for heads in (queries, keys))
        if self.tuned:
            factors = temperatures(offset, L, self.attn_scale, self.floor_scale)
            queries = (queries * factors).astype(queries.dtype)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        columns = (keys[0] if isinstance(keys, tuple) else keys).shape[2]  # a tuple where they are quantised
        if self.chunk_size is not None and columns > self.chunk_size:
            mask = chunk_mask(offset, L, columns, self.chunk_size)
        heads = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(heads.transpose(0, 2, 1, 3).reshape(B, L, -1))


def temperatures(offset: int | mx.array, length: int, attn_scale: float, floor_scale: float) -> mx.array:
    """Return the factors (1 or B, 1, L, 1), float32, of queries that follow `offset` (one, or B) others."""
    positions = _positions(offset, length).astype(mx.float32)
    factors = 1 + attn_scale * mx.log1p(mx.floor((positions + 1) / floor_scale))
    return factors[:, None, :, None]


def chunk_mask(offset: int | mx.array, length: int, width: int, size: int) -> mx.array:
    """Return which of `width` columns each query sees, (1 or B, 1, L, W): its chunk, up to itself."""
    positions = _positions(offset, length)[:, None, :, None]
    columns = mx.arange(width)
    return (positions // size * size <= columns) & (columns <= positions)


def _positions(offset: int | mx.array, length: int) -> mx.array:
    """Positions (1 or B, L) of the tokens after `offset` others."""
    return mx.array(offset).reshape(-1, 1) + mx.arange(length)


class FeedForward(nn.Module):
    """SwiGLU (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Map x (…, D) to (…, D)."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class TransformerBlock(nn.Module):
    """Attention, then the feed-forward layer, each behind a norm and added to the stream."""

    def __init__(self, args: ModelArgs, layer: int):
        super().__init__()
        assert args.no_rope_layers is not None and args.layer_types is not None
        chunked = args.layer_types[layer] == "chunked_attention"
        self.self_attn = Attention(
            args,
            rotary=bool(args.no_rope_layers[layer]),
            chunk_size=args.attention_chunk_size if chunked else None,
        )
        self.feed_forward = FeedForward(args.hidden_size, args.intermediate_size_mlp)
        self.input_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        """Return the stream (B, L, D) behind the block."""
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        return x + self.feed_forward(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, blocks and last norm."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [TransformerBlock(args, layer) for layer in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Return hidden states (B, L, D) of token ids (B, L)."""
        x = self.embed_tokens(inputs)
        caches = cache or [None] * len(self.layers)
        mask = create_attention_mask(x, caches[0])
        for layer, own in zip(self.layers, caches, strict=True):
            x = layer(x, mask, own)
        return self.norm(x)


class Model(nn.Module):
    """The body with its head, laid out as mlx-lm's models are."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = Body(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Return scores (B, L, V) of the tokens after token ids (B, L)."""
        hidden = self.model(inputs, cache)
        return self.model.embed_tokens.as_linear(hidden) if self._tied else self.lm_head(hidden)

    @property
    def _tied(self) -> bool:
        return self.args.tie_word_embeddings

    @property
    def layers(self) -> list[TransformerBlock]:
        """The blocks, where mlx-lm looks for them."""
        return self.model.layers

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Return the weights without a head that the config says is the embedding.

        Raises:
            ModelError: the feed-forward layers are not SwiGLU.
        """
        kind, parts = mlp_variant(weights)
        if kind not in ("swiglu", "none"):
            raise ModelError(
                f"the feed-forward layers of these weights are {kind} ({', '.join(parts)}); expected SwiGLU "
                f"with {', '.join(sorted(SWIGLU))}, so use a dense MobileLLM-R1 checkpoint"
            )
        return {name: value for name, value in weights.items() if not (self._tied and _is_head(name))}


def mlp_variant(names: Iterable[str]) -> tuple[str, list[str]]:
    """Return what kind of feed-forward layers tensors of these names make up, and their parts.

    The kind is `swiglu`, `a mixture of experts`, `dual-branch` (more than one projection up),
    `of an unknown kind`, or `none` if no name is of a feed-forward layer.
    """
    pattern = re.compile(r"model\.layers\.\d+\.(?:feed_forward|mlp)\.(\w+)")
    parts = {found[1] for name in names if (found := pattern.match(name))}
    if not parts:
        kind = "none"
    elif parts == SWIGLU:
        kind = "swiglu"
    elif parts & EXPERTS:
        kind = "a mixture of experts"
    elif _branches(parts, "up") > 1 and _branches(parts, "down") > 0:
        kind = "dual-branch"
    else:
        kind = "of an unknown kind"
    return kind, sorted(parts)


def _branches(parts: set[str], role: str) -> int:
    return sum(role in part.split("_") for part in parts)


def _is_head(name: str) -> bool:
    return name.startswith("lm_head.")

"""MobileLLM-R1 (https://arxiv.org/abs/2509.24945): the dense decoder that transformers calls `llama4_text`.

Grouped-query attention, SwiGLU and RMS norms as in Llama. Each layer has RoPE or no positional encoding:

- A layer with RoPE rotates neighbouring pairs, normalises queries and keys without a weight, and attends only
  within its chunk of `attention_chunk_size` tokens.
- A layer without RoPE has neither QK norms nor chunks. With `attn_temperature_tuning`, its query at position
  p (from 0) is multiplied by 1 + `attn_scale` · ln(1 + ⌊(p + 1) / `floor_scale`⌋)
  (https://arxiv.org/abs/2501.19399); `attn_scale` has no other use.

Differences from mlx-lm's `llama4_text`: the tied head uses `as_linear`, so that a quantised embedding works
as a head, layers without RoPE have no QK norm, and temperature tuning, chunks and RoPE scaling are supported.
Mixtures of experts are refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.rope_utils import initialize_rope

from smidgen.backend import mx, nn
from smidgen.cpu_kernels.packing import rotate_at
from smidgen.errors import ModelError

SWIGLU = frozenset({"gate_proj", "up_proj", "down_proj"})
EXPERTS = frozenset({"experts", "router", "shared_expert"})


@dataclass
class ModelArgs:
    """The keys of `config.json` that are read.

    Attributes:
        intermediate_size_mlp: width of the dense layers; `intermediate_size` is the experts' width.
        head_dim: default 128; None means hidden_size / num_attention_heads.
        no_rope_layers: for each layer 1 if it has RoPE, 0 if not (the name suggests the opposite); if empty,
            every layer except each `no_rope_layer_interval`th has RoPE.
        attention_chunk_size: default 8192; None means no chunks.
        layer_types: chunked_attention or full_attention for each layer; if None, the layers with RoPE are
            chunked.
        moe_layers: must be empty; None means every `interleave_moe_layer_step`th layer.

    Raises:
        ValueError: the values do not define a dense model.
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
            raise ValueError(
                f"layers {self.moe_layers} are mixtures of experts, only dense layers are supported"
            )
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}, expected a multiple of "
                f"num_key_value_heads, {self.num_key_value_heads}"
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
            raise ValueError(f"layer_types has {len(self.layer_types)} entries, expected {layers}")
        if self.attention_chunk_size is not None and self.attention_chunk_size < 1:
            raise ValueError(f"attention_chunk_size is {self.attention_chunk_size}, expected 1 or more")


class Attention(nn.Module):
    """Grouped-query attention of one layer, with or without RoPE and chunks."""

    takes_positions = True
    """Whether packed rows need more than another mask and another rotary embedding."""

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

    def __call__(
        self, x: mx.array, mask: Any = None, cache: Any = None, positions: mx.array | None = None
    ) -> mx.array:
        """Attend from x (B, L, D) to itself and the KV cache.

        Args:
            x: (B, L, D).
            mask: mlx-lm's causal mask or, of packed rows, (B, 1, L, L) bool.
            cache: the KV cache.
            positions: (B, L) int32 positions of packed rows, each in its text; without a cache.
        """
        B, L, _ = x.shape
        offset = 0 if cache is None else cache.offset
        queries, keys, values = (
            projection(x).reshape(B, L, -1, self.head_dim).transpose(0, 2, 1, 3)  # (B, H or K, L, D/H)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rope is not None and positions is not None:
            queries, keys = (rotate_at(self.rope, heads, positions) for heads in (queries, keys))
        elif self.rope is not None:
            queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        if self.norm_eps is not None:
            queries, keys = (mx.fast.rms_norm(heads, None, self.norm_eps) for heads in (queries, keys))
        if self.tuned:
            places = _positions(offset, L) if positions is None else positions
            factors = temperatures(places, self.attn_scale, self.floor_scale)
            queries = (queries * factors).astype(queries.dtype)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        columns = (keys[0] if isinstance(keys, tuple) else keys).shape[2]  # a tuple if the cache is quantised
        if self.chunk_size is not None and columns > self.chunk_size:
            if positions is None:
                mask = chunk_mask(offset, L, columns, self.chunk_size)
            else:
                chunks = positions // self.chunk_size
                mask = mask & (chunks[:, None, :, None] == chunks[:, None, None, :])
        heads = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(heads.transpose(0, 2, 1, 3).reshape(B, L, -1))


def temperatures(positions: mx.array, attn_scale: float, floor_scale: float) -> mx.array:
    """Return the factors (1 or B, 1, L, 1), float32, of queries at `positions` (1 or B, L)."""
    steps = mx.floor((positions.astype(mx.float32) + 1) / floor_scale)
    factors = 1 + attn_scale * mx.log1p(steps)
    return factors[:, None, :, None]


def chunk_mask(offset: int | mx.array, length: int, width: int, size: int) -> mx.array:
    """Return the mask (1 or B, 1, L, W), bool: each query attends to its chunk, up to itself."""
    positions = _positions(offset, length)[:, None, :, None]
    columns = mx.arange(width)
    return (positions // size * size <= columns) & (columns <= positions)


def _positions(offset: int | mx.array, length: int) -> mx.array:
    """Return the positions (1 or B, L) of L tokens after `offset` tokens."""
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
    """Pre-norm attention and feed-forward layers with residual connections."""

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

    def __call__(
        self, x: mx.array, mask: Any = None, cache: Any = None, positions: mx.array | None = None
    ) -> mx.array:
        """Map the residual stream x (B, L, D) to (B, L, D); arguments as in `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), mask, cache, positions)
        return x + self.feed_forward(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, blocks and final norm."""

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
    """The body with its head, in the layout of mlx-lm's models."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = Body(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Return next-token logits (B, L, V) for token ids (B, L)."""
        hidden = self.model(inputs, cache)
        return self.model.embed_tokens.as_linear(hidden) if self._tied else self.lm_head(hidden)

    @property
    def _tied(self) -> bool:
        return self.args.tie_word_embeddings

    @property
    def layers(self) -> list[TransformerBlock]:
        """The blocks; mlx-lm expects them under this name."""
        return self.model.layers

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Return the weights without the head if the config ties it to the embedding.

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
    """Return the kind of feed-forward layers that tensors of these names belong to, and their parts.

    The kind is `swiglu`, `a mixture of experts`, `dual-branch` (more than one up projection),
    `of an unknown kind`, or `none` if there are no feed-forward layers.
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

"""The shape of a model, from its `config.json` alone: no weight is read or computed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.models.architectures import ModelConfigJson, build_arguments, build_graph
from smidgen.models.graph import named_arrays, quantized_parameters
from smidgen.models.load import quantize_like
from smidgen.models.lora import count_parameters
from smidgen.models.save import declared_dtype

LAYERED_KINDS = ("llama", "llama4_text", "mistral", "qwen2", "qwen3")
"""Architectures whose attention depends only on the mask and on the rotary embedding, or takes the positions,
so rows can be packed and blocks run one by one and recomputed. The CPU has kernels for them."""


@dataclass(frozen=True)
class Shape:
    """A model as its `config.json` describes it.

    Attributes:
        graph: the model, with no weight computed.
        layers, width, heads, kv_heads, head_dim, inner, vocabulary: its dimensions.
        kind: its `model_type`.
        stored: bytes of a weight in its file.
    """

    graph: nn.Module
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    kind: str
    stored: int

    @property
    def layered(self) -> bool:
        """Whether its blocks can be run and recomputed one by one, with packed rows."""
        return self.kind in LAYERED_KINDS

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.kind in ("qwen3", "llama4_text")

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        arrays = named_arrays(self.graph.parameters())
        scales = sum(v.size for name, v in arrays.items() if name.endswith((".scales", ".biases")))
        packed = sum(v.size for v in arrays.values() if v.dtype == mx.uint32)
        return sum(v.size for v in arrays.values()) - scales - packed + self.quantized_parameters

    @cached_property
    def quantized_parameters(self) -> int:
        """Number of parameters in quantised layers."""
        return quantized_parameters(self.graph)

    def bytes(self, item: int, *, plain: bool = False) -> int:
        """Return the bytes of all weights with `item` bytes per unquantised number.

        Args:
            item: bytes of a number that is not quantised.
            plain: whether quantised layers are dequantised.
        """
        if plain:
            return self.parameters * item
        arrays = named_arrays(self.graph.parameters()).values()
        return sum(v.nbytes if v.dtype == mx.uint32 else v.size * item for v in arrays)

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest tensor as it is stored."""
        arrays = named_arrays(self.graph.parameters()).values()
        return max(v.nbytes if v.dtype == mx.uint32 else v.size * self.stored for v in arrays)

    def trainable(self, lora: LoraConfig | None) -> int:
        """Return the number of trained parameters: of the adapter, or all.

        Raises:
            ModelError: the adapter does not fit the model.
        """
        return self.parameters if lora is None else count_parameters(self.graph, lora)


def shape_of(config: ModelConfigJson, source: str) -> Shape:
    """Return the shape that a `config.json` describes; `source` names it in errors.

    Raises:
        ModelError: the architecture, its values or its quantization are not supported.
    """
    arguments = build_arguments(config, source)
    graph = build_graph(config, source)
    quantize_like(graph, config, Path(source).parent)
    heads = arguments.num_attention_heads
    return Shape(
        graph,
        layers=arguments.num_hidden_layers,
        width=arguments.hidden_size,
        heads=heads,
        kv_heads=getattr(arguments, "num_key_value_heads", None) or heads,
        head_dim=getattr(arguments, "head_dim", None) or arguments.hidden_size // heads,
        inner=getattr(arguments, "intermediate_size_mlp", None) or arguments.intermediate_size,
        vocabulary=arguments.vocab_size,
        kind=arguments.model_type,
        stored=(declared_dtype(config) or mx.bfloat16).size,
    )

"""The body and head of a decoder, for training and decoding, and the creation of new models.

Every architecture in `smidgen.models.architectures` has the same layout in mlx-lm: `model.model` is the body
(embedding, pre-norm blocks, final norm), and the head is either the transposed embedding or `model.lm_head`.
"""

import math
from typing import Any

import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from smidgen import cpu_kernels
from smidgen.backend import compute_dtype, mx, nn
from smidgen.config import ArchitectureConfig
from smidgen.models.architectures import ModelConfigJson, build_graph
from smidgen.models.induction import add_induction_circuit

INITIAL_DEVIATION = 0.02
HEAD_CHUNK = 2048
"""Positions whose logits exist at the same time in training on a GPU: 2048 x 151,936 fp32 is 1.2 GB."""


def body(model: nn.Module) -> Any:
    """Return `(inputs (B, L) int32, cache=None) -> hidden (B, L, D)`: everything before the head."""
    return model.model


def head(model: nn.Module) -> Any:
    """Return the layer that turns hidden states into logits: the untied linear layer or the embedding."""
    return model.lm_head if "lm_head" in model else body(model).embed_tokens


def head_weight(model: nn.Module) -> mx.array:
    """Return the head's matrix (V, D); a quantised head is dequantised."""
    layer = head(model)
    if "scales" not in layer:
        return layer.weight
    return mx.dequantize(
        layer.weight, layer.scales, layer.get("biases"),
        group_size=layer.group_size, bits=layer.bits, mode=layer.mode,
    )  # fmt: skip


def logits(model: nn.Module, hidden: mx.array) -> mx.array:
    """Return the logits (..., V) for hidden states (..., D)."""
    layer = head(model)
    return layer.as_linear(hidden) if hasattr(layer, "as_linear") else layer(hidden)


def named_arrays(tree: Any) -> dict[str, mx.array]:
    """Return the arrays of a tree of parameters or gradients by their dotted names, in the tree's order."""
    return tree_flatten(tree, destination={})  # pyright: ignore[reportReturnType]


def quantized_parameters(model: nn.Module) -> int:
    """Return the number of parameters in quantised layers."""
    layers: list[Any] = [module for module in model.modules() if "scales" in module]
    return sum(layer.weight.size * 32 // layer.bits for layer in layers)


def create(architecture: ArchitectureConfig, seed: int) -> tuple[nn.Module, ModelConfigJson]:
    """Create a model with random weights, and the `config.json` with which mlx-lm and transformers load it.

    Matrices are normal with standard deviation 0.02; those that write to the residual stream are scaled by
    1/√(2 · layers), as in GPT-2 (Radford et al. 2019, section 2.3). `initialization = "induction"` writes an
    induction circuit over them (`smidgen.models.induction`).

    Raises:
        ConfigError: the shape has no room for the induction circuit.
    """
    config = huggingface_config(architecture)
    model = build_graph(config, "[model.architecture]")
    key = mx.random.key(seed)
    weights = []
    for name, value in sorted(named_arrays(model.parameters()).items()):
        if value.ndim == 2:
            key, own = mx.random.split(key)
            value = mx.random.normal(value.shape, scale=_deviation(name, architecture), key=own)
        weights.append((name, value.astype(compute_dtype())))
    if architecture.initialization == "induction":
        arrays = {name: np.array(value.astype(mx.float32)) for name, value in weights}
        add_induction_circuit(arrays, architecture, seed)
        weights = [(name, mx.array(arrays[name]).astype(compute_dtype())) for name, _ in weights]
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())
    cpu_kernels.accelerate(model)
    return model, config


def huggingface_config(architecture: ArchitectureConfig) -> ModelConfigJson:
    """Return `config.json` as transformers writes it, without the token ids, which the tokenizer decides."""
    shape = architecture.model_dump(exclude={"initialization", "no_rope_layer_interval"})
    common = {
        **shape,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": INITIAL_DEVIATION,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "use_cache": True,
    }
    if architecture.model_type == "llama4_text":
        return common | _llama4_text(architecture)
    return common | {
        "architectures": ["Qwen3ForCausalLM"],
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
    }


def _llama4_text(architecture: ArchitectureConfig) -> ModelConfigJson:
    """Return the keys of a dense `llama4_text` as MobileLLM-R1 sets them; a chunk has the whole context."""
    layers, every = architecture.num_hidden_layers, architecture.no_rope_layer_interval
    return {
        "architectures": ["Llama4ForCausalLM"],
        "rms_norm_eps": 1e-5,
        "intermediate_size_mlp": architecture.intermediate_size,
        "moe_layers": [],
        "use_qk_norm": True,
        "no_rope_layers": [int(not every or (layer + 1) % every != 0) for layer in range(layers)],
        "attention_chunk_size": max(8192, architecture.max_position_embeddings),
        "attn_temperature_tuning": bool(every),
        "attn_scale": 0.1,
        "floor_scale": 8192,
    }


def _deviation(name: str, architecture: ArchitectureConfig) -> float:
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return INITIAL_DEVIATION / math.sqrt(2 * architecture.num_hidden_layers)
    return INITIAL_DEVIATION

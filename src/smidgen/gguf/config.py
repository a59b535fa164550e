"""The `config.json` of the model in a GGUF file.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A key dropped in silence is a
model that speaks nonsense, so each is used, known to change nothing, or refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import ModelError, first_few
from smidgen.gguf.names import ARCHITECTURES
from smidgen.gguf.rope import scaling_of_divisors

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""What transformers calls the model of a family."""

_USED = frozenset(
    "block_count context_length embedding_length feed_forward_length vocab_size attention.head_count "
    "attention.head_count_kv attention.key_length attention.value_length attention.layer_norm_rms_epsilon "
    "rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor rope.scale_linear "
    "rope.scaling.original_context_length".split()
)
_HARMLESS = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "attention.layer_norm_epsilon"})
_HARMLESS_AT: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "attention.sliding_window": (0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_beta_fast": (32.0,),
    "rope.scaling.yarn_beta_slow": (1.0,),
}
"""Keys that change nothing at these values."""


def config_of(
    file: Path,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    divisors: np.ndarray | None,
) -> dict[str, Any]:
    """Return the `config.json` of the model in a file, without a dtype and without token ids.

    Args:
        file: for messages.
        metadata: what the file says, by key.
        shapes: of its tensors, by the graph's names.
        divisors: its tensor `rope_freqs.weight`, (head_dim / 2,) float32.

    Raises:
        ModelError: the family is not known, or the file asks for what the graph of its family has not.
    """
    family = metadata["general.architecture"]
    if family not in ARCHITECTURES:
        raise ModelError(
            f"{file} is of the architecture '{family}'; expected one of {', '.join(ARCHITECTURES)}"
        )
    own = {
        name.removeprefix(f"{family}."): _plain(value)
        for name, value in metadata.items()
        if name.startswith(f"{family}.")
    }
    if faults := [fault for name, value in own.items() if (fault := _fault(name, value))]:
        raise ModelError(f"{file} cannot be honoured as {family}: {first_few(faults)}")
    heads = _whole(file, family, own, "attention.head_count")
    width = _whole(file, family, own, "embedding_length")
    head_dim = _whole(file, family, own, "attention.key_length", width // max(heads, 1))
    _check_heads(file, own, head_dim)
    if family == "qwen2" and head_dim * heads != width:
        raise ModelError(
            f"{file} is a qwen2 of {heads} heads of {head_dim} in a width of {width}; "
            f"expected heads of {width // heads}"
        )
    config: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "hidden_size": width,
        "num_hidden_layers": _whole(file, family, own, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(file, family, own, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": _whole(file, family, own, "feed_forward_length"),
        "vocab_size": shapes.get("model.embed_tokens.weight", (0,))[0],
        "max_position_embeddings": _whole(file, family, own, "context_length"),
        "rms_norm_eps": own.get("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": own.get("rope.freq_base", 10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "lm_head.weight" not in shapes,
    }
    if family != "qwen2":
        config["attention_bias"] = any(name.endswith("q_proj.bias") for name in shapes)
    if family == "llama":
        config["mlp_bias"] = any(name.endswith("gate_proj.bias") for name in shapes)
    if scaling := _rope_scaling(file, own, config, divisors):
        config["rope_scaling"] = scaling
    return config


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a model of a `config.json` has, by the graph's names."""
    width, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    family = config["model_type"]
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {f"{block}self_attn.{name}.weight": (size, width) for name, size in rows.items()}
        shapes[f"{block}self_attn.o_proj.weight"] = (width, queries)
        shapes |= {f"{block}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{block}mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{block}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        if family == "qwen3":
            shapes |= {f"{block}self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
        if family == "qwen2" or config["attention_bias"]:
            shapes |= {f"{block}self_attn.{name}.bias": (size,) for name, size in rows.items()}
        if config.get("attention_bias"):
            shapes[f"{block}self_attn.o_proj.bias"] = (width,)
        if config.get("mlp_bias"):
            shapes |= {f"{block}mlp.{name}_proj.bias": (inner,) for name in ("gate", "up")}
            shapes[f"{block}mlp.down_proj.bias"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return shapes


def _rope_scaling(
    file: Path, own: Mapping[str, Any], config: Mapping[str, Any], divisors: np.ndarray | None
) -> dict[str, Any] | None:
    """The `rope_scaling` of a `config.json`, or None where positions are not scaled."""
    kind = own.get("rope.scaling.type", "linear")
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 1.0)) or 1.0
    is_scaled = not (kind == "none" or (kind == "linear" and factor == 1.0))
    if divisors is not None and not (divisors == 1).all():
        found = None
        if len(divisors) == config["head_dim"] // 2 and not is_scaled:
            found = scaling_of_divisors(divisors, config["rope_theta"], config["head_dim"])
        if found is None:
            raise ModelError(
                f"{file} divides its rotary frequencies by the tensor rope_freqs.weight, which is not the "
                "scaling of Llama 3; expected that, linear scaling, yarn or none"
            )
        return found.settings()
    if not is_scaled:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    context = own.get("rope.scaling.original_context_length")
    if kind != "yarn" or not context:
        lacking = "without rope.scaling.original_context_length" if kind == "yarn" else "of this kind"
        raise ModelError(
            f"{file} scales positions by '{kind}' {lacking}; expected linear scaling, yarn with its original "
            "context, the divisors of Llama 3, or none"
        )
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": context}


def _fault(name: str, value: Any) -> str | None:
    """Why a key cannot be honoured, or None."""
    if name in _USED | _HARMLESS:
        return None
    if name in _HARMLESS_AT:
        allowed = _HARMLESS_AT[name]
        return None if value in allowed else f"'{name}' is {value!r}, only {allowed[0]!r} is supported"
    return f"unknown key '{name}' = {value!r}"


def _check_heads(file: Path, own: Mapping[str, Any], head_dim: int) -> None:
    """Refuse heads whose parts have sizes that the graph has not."""
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.get(name, head_dim) != head_dim:
            raise ModelError(
                f"{file} has {name} {own[name]} beside heads of {head_dim}; expected the same number"
            )


def _whole(file: Path, family: str, own: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number above 0 that a file tells; one for every block only if all are the same."""
    value = own.get(name, default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if type(value) is not int or value <= 0:
        raise ModelError(f"{file} has {value!r} as {family}.{name}; expected a whole number above 0")
    return value


def _plain(value: Any) -> Any:
    """A float32 as the shortest decimal that stands for it, which is what was converted once."""
    return float(str(np.float32(value))) if isinstance(value, float) else value

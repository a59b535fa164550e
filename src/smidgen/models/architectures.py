"""The supported architectures, and what each key of `config.json` means to them.

A key that is silently ignored can make a model produce nonsense, so each key is used, known to be harmless,
or refused.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_lm.models import llama, qwen2, qwen3

from smidgen.errors import ModelError, did_you_mean
from smidgen.models import mobilellm

ARCHITECTURES: dict[str, Any] = {
    "llama": llama,
    "llama4_text": mobilellm,
    "mistral": llama,  # the same graph, as mlx-lm has it
    "qwen2": qwen2,
    "qwen3": qwen3,
}
"""`model_type` to the module, mostly from mlx-lm, that has its `Model` and `ModelArgs`."""

ModelConfigJson = dict[str, Any]
"""The content of a model's `config.json`."""

HARMLESS = frozenset({
    # how the file was made
    "architectures", "_name_or_path", "name_or_path", "transformers_version", "unsloth_version",
    "unsloth_fixed",
    # the dtype is chosen by the device
    "torch_dtype", "dtype",
    # token ids are read with the tokenizer
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "tokenizer_class",
    # only random initialisation and training in transformers read these
    "initializer_range", "attention_dropout", "hidden_dropout", "gradient_checkpointing",
    # switches of transformers' own code paths
    "use_cache", "pretraining_tp", "output_attentions", "output_hidden_states", "return_dict", "torchscript",
    "_attn_implementation", "_attn_implementation_autoset", "is_decoder", "chunk_size_feed_forward",
    "cache_implementation",
    # labels of a classification head, which a causal model does not have
    "id2label", "label2id", "problem_type",
    # no effect while sliding windows are off; they are checked by name below
    "max_window_layers",
})  # fmt: skip

HARMLESS_AT: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_qk_norm": (True,),
    "hidden_act": ("silu",),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1, 1.0),
    "rope_traditional": (False,),
    "rope_interleaved": (False,),
    "logit_scale": (1, 1.0),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
}
"""Keys that have no effect at these values, or at null, on an architecture that does not read them."""

UNUSED: dict[str, frozenset[str]] = {
    # for mixtures of experts; a dense model has none
    "llama4_text": frozenset({
        "intermediate_size", "num_local_experts", "num_experts_per_tok", "output_router_logits",
        "router_aux_loss_coef", "router_jitter_noise", "for_llm_compressor",
    }),
}  # fmt: skip
"""Keys beyond `HARMLESS` that have no effect on one architecture."""

LAYER_TYPES: dict[str, frozenset[str]] = {
    "llama4_text": frozenset({"full_attention", "chunked_attention"}),
}
"""The supported `layer_types`; full_attention only for other architectures."""

ROPE_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "llama3": (
        frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
        frozenset(),
    ),
    "yarn": (
        frozenset({"factor", "original_max_position_embeddings"}),
        frozenset({"beta_fast", "beta_slow"}),
    ),
}
"""Kinds of RoPE scaling that mlx-lm computes as transformers does: required keys, optional keys."""
ROPE_HARMLESS = {"partial_rotary_factor": 1, "truncate": True}
"""Values at which a key of RoPE scaling has no effect."""

# The defaults of transformers for keys that config.json leaves out; mlx-lm's differ or are missing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6},
    "mistral": {
        "tie_word_embeddings": False, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "num_key_value_heads": 8,
        "max_position_embeddings": 131_072, "sliding_window": 4096,
    },
    "qwen2": {"tie_word_embeddings": False, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6},
    "qwen3": {"tie_word_embeddings": False, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "head_dim": 128},
    "llama4_text": {
        "tie_word_embeddings": False, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
        "intermediate_size_mlp": 16_384, "max_position_embeddings": 131_072, "attention_bias": False,
        "use_qk_norm": True, "attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1,
        "no_rope_layer_interval": 4, "interleave_moe_layer_step": 1,
    },
}  # fmt: skip
_NULLABLE = frozenset({"sliding_window"})
"""Keys whose default does not replace a null: no window is another model than one that says nothing."""


def build_arguments(config: ModelConfigJson, source: str) -> Any:
    """Return the `ModelArgs` for a `config.json`; `source` names it in errors.

    Raises:
        ModelError: the architecture is not supported, or keys are missing, unknown, or have values that are
            not supported.
    """
    module = architecture(config, source)
    config, faults = _explicit(config)
    kind = config["model_type"]
    fields = {field.name: field for field in dataclasses.fields(module.ModelArgs)}
    faults += [fault for name, value in config.items() if (fault := _fault(name, value, config, fields))]
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and config.get(name) is None
    ]
    faults += [f"'{name}' is missing" for name in missing]
    if faults:
        raise ModelError(f"{source} is not supported as {kind}: {'; '.join(faults)}")
    with _making(kind, source):
        return module.ModelArgs(**{name: value for name, value in config.items() if name in fields})


def explicit_config(config: ModelConfigJson) -> ModelConfigJson:
    """Return a `config.json` with explicit values wherever the defaults of loaders differ.

    RoPE settings are flat, which both mlx-lm and transformers read. transformers 5 nests them in
    `rope_parameters`, which mlx-lm reads for few architectures; for the others it would use its own θ.
    """
    return _explicit(config)[0]


def unread_keys(config: ModelConfigJson) -> list[str]:
    """Return the keys of a `config.json` that have no effect: its architecture does not read them."""
    kind = config.get("model_type")
    module = ARCHITECTURES.get(str(kind))
    read = {field.name for field in dataclasses.fields(module.ModelArgs)} if module else set()
    return sorted((HARMLESS | UNUSED.get(str(kind), frozenset()) | HARMLESS_AT.keys()) & config.keys() - read)


def build_graph(config: ModelConfigJson, source: str) -> Any:
    """Return the model for a `config.json` with random weights that are not computed yet.

    Raises:
        ModelError: as in `build_arguments`, or the values do not define a model.
    """
    arguments = build_arguments(config, source)
    with _making(arguments.model_type, source):
        return ARCHITECTURES[arguments.model_type].Model(arguments)


@contextmanager
def _making(kind: str, source: str) -> Iterator[None]:
    """Turn the errors of a model's constructor into one `ModelError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{source} has values that do not define a {kind} model: {error}") from None


def architecture(config: ModelConfigJson, source: str) -> Any:
    """Return the module of the config's `model_type`."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ModelError(
            f"{source} has model_type {kind!r}, expected one of {', '.join(ARCHITECTURES)}."
            f"{did_you_mean(str(kind), ARCHITECTURES)}"
        )
    return ARCHITECTURES[kind]


def _explicit(config: ModelConfigJson) -> tuple[ModelConfigJson, list[str]]:
    """Return a copy with flat RoPE settings and the defaults of transformers, and faults of the settings."""
    config, faults = _flat_rope(config)
    missing = {
        name: value
        for name, value in _DEFAULTS.get(str(config.get("model_type")), {}).items()
        if config.get(name) is None and not (name in config and name in _NULLABLE)
    }
    return config | missing, faults


def _flat_rope(config: ModelConfigJson) -> tuple[ModelConfigJson, list[str]]:
    """Return a copy with one `rope_theta` and `rope_scaling`, as mlx-lm reads them, and their faults.

    transformers 5 writes both as `rope_parameters`; older files have `rope_scaling` with its kind as `type`.
    """
    config, faults = dict(config), []
    given = {name: config.pop(name, None) for name in ("rope_parameters", "rope_scaling")}
    for name, rope in given.items():
        if rope is None:
            continue
        if not isinstance(rope, dict):
            faults.append(f"'{name}' is {rope!r}, expected a table")
            continue
        settings = {key: value for key, value in rope.items() if value is not None}
        theta = settings.pop("rope_theta", None)
        if theta is not None:
            if config.get("rope_theta") not in (None, theta):
                faults.append(f"'rope_theta' is {config['rope_theta']!r}, and {theta!r} in '{name}'")
            config["rope_theta"] = theta
        kinds = {str(settings.pop(key)) for key in ("rope_type", "type") if key in settings} or {"default"}
        kind, *others = sorted(kinds)
        if others or kind not in ROPE_KEYS:
            shown = " and ".join(repr(found) for found in (kind, *others))
            faults.append(f"'{name}' is of the kind {shown}, supported are {', '.join(ROPE_KEYS)}")
            continue
        needed, optional = ROPE_KEYS[kind]
        faults += [f"'{name}' of the kind {kind} lacks '{key}'" for key in needed - settings.keys()]
        faults += [
            f"'{name}' of the kind {kind} has '{key}' = {value!r}, which is not supported"
            for key, value in settings.items()
            if key not in needed | optional and (key not in ROPE_HARMLESS or value != ROPE_HARMLESS[key])
        ]
        if kind != "default":
            used = {key: value for key, value in settings.items() if key in needed | optional}
            config["rope_scaling"] = {"rope_type": kind, **used}
    return config, faults


def _fault(name: str, value: Any, config: ModelConfigJson, fields: dict[str, Any]) -> str | None:
    """Return why a key is not supported, or None."""
    kind = config["model_type"]
    if name in ("quantization", "quantization_config") or name in HARMLESS | UNUSED.get(kind, frozenset()):
        return None
    if name == "layer_types":
        if not isinstance(value, list | tuple | None):
            return f"'layer_types' is {value!r}, expected a list"
        known = LAYER_TYPES.get(kind, frozenset({"full_attention"}))
        others = sorted(set(map(str, value or ())) - known)
        return (
            f"'layer_types' has {others}, only {' and '.join(sorted(known))} is supported" if others else None
        )
    if name == "sliding_window":
        # Qwen2 and Qwen3 name a window that use_sliding_window turns off; llama has no such switch.
        idle = value is None or config.get("use_sliding_window") is False
        idle = idle or (type(value) is int and value >= (config.get("max_position_embeddings") or math.inf))
        return None if idle else f"'sliding_window' is {value!r}, only full attention is supported"
    if name in fields or value is None:
        return None
    if name == "head_dim":
        if not config.get("hidden_size") or not config.get("num_attention_heads"):
            return None  # reported as missing
        own = config["hidden_size"] // config["num_attention_heads"]
        return (
            None
            if value == own
            else f"'head_dim' is {value!r}, only hidden_size / num_attention_heads = {own} is supported"
        )
    if name in HARMLESS_AT:
        allowed = HARMLESS_AT[name]
        return None if value in allowed else f"'{name}' is {value!r}, only {allowed[0]!r} is supported"
    return f"unknown key '{name}' = {value!r}.{did_you_mean(name, [*fields, *HARMLESS, *HARMLESS_AT])}"

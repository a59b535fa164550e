"""The keys of PEFT's `adapter_config.json` (`peft.LoraConfig`), and what they mean for a low-rank adapter.

A key that is silently ignored could change what the adapter computes, so each is used, known to be harmless,
or refused by name.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from smidgen.errors import did_you_mean

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""PEFT's prefix before the layer names of the model."""

USED = frozenset({
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "base_model_name_or_path",
})  # fmt: skip

HARMLESS = frozenset({
    # how the file was made, and keys that only training or another runtime reads
    "peft_version", "auto_mapping", "revision", "inference_mode", "megatron_core", "qalora_group_size",
    "eva_config", "runtime_config", "velora_config",
})  # fmt: skip

ONLY_AT: dict[str, tuple[Any, ...]] = {
    "task_type": ("CAUSAL_LM",),
    "bias": ("none",),
    # other values change the weights of the base, which would have to be distributed with the adapter
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
}
"""Keys that are supported only at these values or null. Other keys must be off."""

ELSEWHERE = frozenset({
    "use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication",
    "fan_in_fan_out", "loftq_config", "corda_config", "lora_ga_config", "kasa_config", "monteclora_config",
    "megatron_config", "arrow_config", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens",
    "ensure_weight_tying",
})  # fmt: skip
"""PEFT keys that describe more than a low-rank update; they must be off."""

_OFF: tuple[Any, ...] = (None, False, {}, [])


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Return why an `adapter_config.json` is not supported, one fault per key."""
    faults = [
        fault
        for name, value in config.items()
        if name not in USED | HARMLESS and (fault := _fault(name, value))
    ]
    if config["peft_type"] != "LORA":
        faults.append(f"'peft_type' is {config['peft_type']!r}, only 'LORA' is supported")
    for name, fits, expected in _EXPECTED:
        if not fits(config.get(name)):
            faults.append(f"'{name}' is {config.get(name)!r}, expected {expected}")
    return faults + ([] if faults else _pattern_faults(config))


def rank_of(config: Mapping[str, Any], layer: str) -> int:
    """Return the rank of a layer's update; `layer` is its dotted name in the model."""
    return _of_layer(config.get("rank_pattern"), layer, config["r"])


def scale_of(config: Mapping[str, Any], layer: str) -> float:
    """Return the scale of a layer's update: α / r, or α / √r for rsLoRA (https://arxiv.org/abs/2312.03732)."""
    rank = rank_of(config, layer)
    alpha = _of_layer(config.get("alpha_pattern"), layer, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def is_target(config: Mapping[str, Any], layer: str) -> bool:
    """Whether PEFT would adapt a layer of this name."""
    if _matches(config.get("exclude_modules") or [], layer):
        return False
    targets = config["target_modules"]
    if targets == "all-linear":
        return True
    if (
        isinstance(targets, list) and layer in targets
    ):  # a full name is not checked against layers_to_transform
        return True
    if not _matches(targets, layer):
        return False
    blocks = config.get("layers_to_transform")
    if isinstance(targets, str) or blocks is None or blocks == []:
        return True
    patterns = _listed(config.get("layers_pattern") or r"[^.]*")
    found = (re.match(rf"(?:.*?\.)?(?:{pattern})\.(?P<block>\d+)\.", layer) for pattern in patterns)
    block = next((int(match["block"]) for match in found if match), None)
    return block in _listed(blocks)


def idle_targets(config: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    """Return the listed targets that match none of these layers although nothing excludes them.

    A target may be a suffix of many names, and the model that could list them is not loaded. So a target
    counts as excluded if an excluded name is a suffix of it or it of one, or if the exclusion is a pattern.
    """
    targets, excluded = config["target_modules"], config.get("exclude_modules") or []
    if isinstance(targets, str):
        return []
    return [
        target
        for target in targets
        if not any(_matches([target], layer) for layer in layers)
        and not (isinstance(excluded, str) or _matches(excluded, target))
        and not any(_matches([target], name) for name in excluded)
    ]


def is_positive(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number above 0."""
    return _is_number(value) and math.isfinite(value) and value > 0


def is_dropout(value: Any) -> TypeGuard[float]:
    """Whether a value is a dropout rate: at least 0 and below 1."""
    return _is_number(value) and 0 <= value < 1


def _fault(name: str, value: Any) -> str | None:
    """Return why a key that is not used is not supported, or None."""
    if name in ONLY_AT:
        known = ONLY_AT[name]
        if value is None or (isinstance(value, str | bool) and value in known):
            return None
        return f"'{name}' is {value!r}, only {' or '.join(map(repr, known))} is supported"
    if any(value is off or (value == off and type(value) is type(off)) for off in _OFF):
        return None  # a switch that is off, known or not
    if name in ELSEWHERE:
        return (
            f"'{name}' is {value!r}, which is not supported: merge the adapter into its base with PEFT's "
            "merge_and_unload, and use the merged model"
        )
    return f"'{name}' is {value!r}, and there is no such key.{did_you_mean(name, USED - {'peft_type'})}"


def _pattern_faults(config: Mapping[str, Any]) -> list[str]:
    """Faults of patterns that are not valid regular expressions."""
    given = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    given += [config[name] for name in ("target_modules", "exclude_modules") if _is_text(config.get(name))]
    given += _listed(config.get("layers_pattern"))
    faults = []
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(f"the pattern {pattern!r} is not a regular expression: {error}")
    return faults


def _matches(names: str | list[str], layer: str) -> bool:
    """Whether a layer matches a pattern for its full name, or a list of name suffixes."""
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _of_layer(pattern: Mapping[str, Any] | None, layer: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches the end of a layer's name, or a default."""
    fitting = (value for end, value in (pattern or {}).items() if re.match(rf"(.*\.)?({end})$", layer))
    return next(fitting, otherwise)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _listed(value: Any) -> list[Any]:
    """Return a value that may be single, a list or None, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test that a value, or each value of a list, fits; None passes."""
    return lambda value: all(map(fits, _listed(value)))


def _table(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test that a value is a table whose values fit; None passes."""
    return lambda value: value is None or (isinstance(value, dict) and all(map(fits, value.values())))


_EXPECTED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("r", _is_rank, "a positive integer"),
    ("lora_alpha", is_positive, "a positive number"),
    ("rank_pattern", _table(_is_rank), "a table of layer names with a rank each"),
    ("alpha_pattern", _table(is_positive), "a table of layer names with a positive alpha each"),
    ("lora_dropout", lambda value: value is None or is_dropout(value), "a number of at least 0 and below 1"),
    ("target_modules", lambda value: value is not None and _all(_is_text)(value), "a list of layer names"),
    ("exclude_modules", _all(_is_text), "a list of layer names or one pattern"),
    ("layers_pattern", _all(_is_text), "a pattern or a list of patterns"),
    ("layers_to_transform", _all(_is_whole), "a block number or a list of block numbers"),
    ("base_model_name_or_path", _all(_is_text), "a model name"),
)
"""The values that used keys may have, as a test and in words."""

"""What every key of PEFT's `adapter_config.json` means to a low-rank adapter (`peft.LoraConfig`).

A key that is dropped in silence is an adapter that says something else, so each is used, known to be
harmless, or refused by name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.errors import did_you_mean

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the name that a layer has in the model."""

USED = frozenset({
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "base_model_name_or_path",
})  # fmt: skip

HARMLESS = frozenset({
    # how the file came to be, and what only training or another runtime reads
    "peft_version", "auto_mapping", "revision", "inference_mode", "megatron_core", "qalora_group_size",
    "eva_config", "runtime_config", "velora_config",
})  # fmt: skip

ONLY_AT: dict[str, tuple[Any, ...]] = {
    "task_type": ("CAUSAL_LM",),
    "bias": ("none",),
    # the others change the weights of the base, which then has to come with the adapter
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
}
"""Keys with a meaning of which only these values, or null, can be honoured. Other keys must be off."""

_OFF: tuple[Any, ...] = (None, False, {}, [])


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Return what of an `adapter_config.json` cannot be honoured, each with its key."""
    faults = [
        fault
        for name, value in config.items()
        if name not in USED | HARMLESS and (fault := _fault(name, value))
    ]
    if config["peft_type"] != "LORA":
        faults.append(f"'peft_type' is {config['peft_type']!r}, only 'LORA' is supported")
    for name in ("r", "lora_alpha"):
        if not _is_number(config.get(name)) or config[name] <= 0:
            faults.append(f"'{name}' is {config.get(name)!r}, expected a number above 0")
    for name, kind in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        pattern = config.get(name) or {}
        if not isinstance(pattern, Mapping) or not all(_is_number(value) for value in pattern.values()):
            faults.append(f"'{name}' is {pattern!r}, expected a table of one {kind} for each layer's name")
    if not _is_number(config.get("lora_dropout") or 0.0):
        faults.append(f"'lora_dropout' is {config['lora_dropout']!r}, expected a number")
    if not isinstance(config.get("target_modules"), str | list):
        faults.append(f"'target_modules' is {config.get('target_modules')!r}, expected a list of layers")
    return faults + _pattern_faults(config)


def rank_of(config: Mapping[str, Any], layer: str) -> int:
    """Return the rank of a layer's update; `layer` is its dotted name in the model."""
    return _of_layer(config.get("rank_pattern"), layer, config["r"])


def scale_of(config: Mapping[str, Any], layer: str) -> float:
    """Return what a layer's update is multiplied by: α / r, or α / √r (https://arxiv.org/abs/2312.03732)."""
    rank = rank_of(config, layer)
    alpha = _of_layer(config.get("alpha_pattern"), layer, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def is_target(config: Mapping[str, Any], layer: str) -> bool:
    """Whether PEFT would put an update on a layer of this name."""
    if _matches(config.get("exclude_modules") or [], layer):
        return False
    targets = config["target_modules"]
    if targets == "all-linear":
        return True
    if isinstance(targets, list) and layer in targets:  # a whole name is not held against the blocks
        return True
    if not _matches(targets, layer):
        return False
    blocks = config.get("layers_to_transform")
    if isinstance(targets, str) or blocks is None or blocks == []:
        return True
    patterns = config.get("layers_pattern") or r"[^.]*"
    found = (
        re.match(rf"(?:.*?\.)?{pattern}\.(\d+)\.", layer)
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    )
    block = next((int(match[1]) for match in found if match), None)
    return block in (blocks if isinstance(blocks, list) else [blocks])


def idle_targets(config: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    """Return the listed targets that are no layer of these."""
    targets = config["target_modules"]
    if isinstance(targets, str):
        return []
    return [target for target in targets if not any(_matches([target], layer) for layer in layers)]


def _fault(name: str, value: Any) -> str | None:
    """Why a key that is not used cannot be honoured, or None."""
    if name in ONLY_AT:
        known = ONLY_AT[name]
        if value is None or (isinstance(value, str | bool) and value in known):
            return None
        return f"'{name}' is {value!r}, only {' or '.join(map(repr, known))} can be read"
    if any(value is off or (value == off and type(value) is type(off)) for off in _OFF):
        return None  # a switch that is off, whether it is known here or not
    return f"'{name}' is {value!r}, which is not supported.{did_you_mean(name, USED - {'peft_type'})}"


def _pattern_faults(config: Mapping[str, Any]) -> list[str]:
    """Regular expressions that are none."""
    given = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(name)
        given += [value] if isinstance(value, str) else []
    faults = []
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(f"the pattern {pattern!r} cannot be read: {error}")
    return faults


def _matches(names: str | list[str], layer: str) -> bool:
    """Whether a layer is meant by a pattern for its whole name, or by a list of ends of names."""
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _of_layer(pattern: Mapping[str, Any] | None, layer: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a layer's name fits."""
    fitting = (value for end, value in (pattern or {}).items() if re.match(rf"(.*\.)?({end})$", layer))
    return next(fitting, otherwise)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""What every key of PEFT's `adapter_config.json` means to a low-rank adapter (`peft.LoraConfig`).

A key that is dropped in silence is an adapter that says something else, so each is used, known to be
harmless, or refused by name.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

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

ELSEWHERE = frozenset({
    "use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication",
    "fan_in_fan_out", "loftq_config", "corda_config", "lora_ga_config", "kasa_config", "monteclora_config",
    "megatron_config", "arrow_config", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens",
    "ensure_weight_tying",
})  # fmt: skip
"""Keys of PEFT's that say more than a low-rank update, so that they have to be off here."""

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
    for name, fits, expected in _EXPECTED:
        if not fits(config.get(name)):
            faults.append(f"'{name}' is {config.get(name)!r}, expected {expected}")
    return faults + ([] if faults else _pattern_faults(config))


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
    patterns = _listed(config.get("layers_pattern") or r"[^.]*")
    found = (re.match(rf"(?:.*?\.)?(?:{pattern})\.(?P<block>\d+)\.", layer) for pattern in patterns)
    block = next((int(match["block"]) for match in found if match), None)
    return block in _listed(blocks)


def idle_targets(config: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    """Return the listed targets that are no layer of these, though nothing excludes them.

    A target may be the end of many names, and the model that could tell them all is not at hand. So one that
    an excluded name ends with, or a pattern for whole names might fit, counts as excluded.
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
    """Whether a value is a share of numbers that may be dropped: 0 or more, and not all."""
    return _is_number(value) and 0 <= value < 1


def _fault(name: str, value: Any) -> str | None:
    """Why a key that is not used cannot be honoured, or None."""
    if name in ONLY_AT:
        known = ONLY_AT[name]
        if value is None or (isinstance(value, str | bool) and value in known):
            return None
        return f"'{name}' is {value!r}, only {' or '.join(map(repr, known))} can be read"
    if any(value is off or (value == off and type(value) is type(off)) for off in _OFF):
        return None  # a switch that is off, whether it is known here or not
    if name in ELSEWHERE:
        return (
            f"'{name}' is {value!r}, which is not supported: merge the adapter into its base with PEFT's "
            "merge_and_unload, and use the model that this gives"
        )
    return f"'{name}' is {value!r}, and there is no such key.{did_you_mean(name, USED - {'peft_type'})}"


def _pattern_faults(config: Mapping[str, Any]) -> list[str]:
    """Regular expressions that are none."""
    given = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    given += [config[name] for name in ("target_modules", "exclude_modules") if _is_text(config.get(name))]
    given += _listed(config.get("layers_pattern"))
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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _listed(value: Any) -> list[Any]:
    """A value that may stand by itself, in a list, or be missing, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test that a value, alone or each in a list, fits; a missing one does."""
    return lambda value: all(map(fits, _listed(value)))


def _table(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A test that a value is a table whose values fit; a missing one is."""
    return lambda value: value is None or (isinstance(value, dict) and all(map(fits, value.values())))


_EXPECTED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("r", _is_rank, "a whole number above 0"),
    ("lora_alpha", is_positive, "a number above 0"),
    ("rank_pattern", _table(_is_rank), "a table of one rank for each layer's name"),
    ("alpha_pattern", _table(is_positive), "a table of one alpha above 0 for each layer's name"),
    ("lora_dropout", lambda value: value is None or is_dropout(value), "a number from 0 up to, but not, 1"),
    ("target_modules", lambda value: value is not None and _all(_is_text)(value), "a list of layers' names"),
    ("exclude_modules", _all(_is_text), "a list of layers' names or one pattern"),
    ("layers_pattern", _all(_is_text), "a pattern or a list of them"),
    ("layers_to_transform", _all(_is_whole), "the number of a block or a list of them"),
    ("base_model_name_or_path", _all(_is_text), "a model's name"),
)
"""What a key that is used may hold, as a test of it and in words."""

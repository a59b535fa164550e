"""The number of parameters of each tensor, and the part of the transformer that it belongs to."""

from collections.abc import Mapping
from typing import Any

from smidgen.backend import mx
from smidgen.errors import ModelError

PARTS = ("embedding", "attention", "mlp", "norms", "head", "other")


def parameters_of(weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return name, number of parameters and bits of each tensor; scales of quantised layers do not count."""
    found = []
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        scales = weights.get(f"{module}.scales")
        if scales is None:
            found.append((name, value.size, 8 * value.itemsize))
        elif leaf == "weight":
            num = scales.size * group_size_of(module, config)
            found.append((name, num, 8 * value.nbytes // num))
    return found


def group_size_of(module: str, config: Mapping[str, Any]) -> int:
    """Return how many weights of a quantised layer share a scale: the layer's setting, or the model's.

    Raises:
        ModelError: the configuration does not name it.
    """
    quantization = config.get("quantization") or {}
    own = quantization.get(module)
    group_size = (own if isinstance(own, dict) else quantization).get("group_size")
    if not group_size:
        raise ModelError(
            f"'{module}' is quantised, but config.json has no group_size for it; convert the model again"
        )
    return group_size


def part_of(name: str) -> str:
    """Return the part of a transformer that a tensor belongs to, by the usual names in checkpoints."""
    if "norm" in name:
        return "norms"
    if "embed_tokens" in name:
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    if "attn" in name:
        return "attention"
    return "mlp" if "mlp" in name or "feed_forward" in name else "other"

"""Affine quantisation: each group of weights becomes small integers with one scale and one bias.

Every linear layer and the embedding are quantised, a tied head with it. The folder that `save_model` then
writes is in mlx-lm's own format.
"""

from typing import Any

from smidgen.backend import mx, nn
from smidgen.errors import ModelError
from smidgen.models.graph import named_arrays

GROUP_SIZES = (32, 64, 128)


def quantize(model: nn.Module, config: dict[str, Any], *, bits: int, group_size: int) -> dict[str, Any]:
    """Quantise a model in place and return its `config.json` with the settings in it.

    Args:
        model: without adapter layers.
        config: the content of its `config.json`.
        bits: of one weight.
        group_size: weights along a row that share a scale and a bias.

    Raises:
        ModelError: the model is quantised already, holds an adapter, or has a layer whose width is no
            multiple of `group_size`.
    """
    layers = quantizable(model, config, group_size)
    if any(name.endswith("lora_a") for name in named_arrays(model.parameters())):
        raise ModelError("the model holds an adapter that is not fused; fuse it before quantising")
    nn.quantize(model, group_size=group_size, bits=bits, class_predicate=lambda name, _: name in layers)
    mx.eval(model.parameters())
    settings = {"group_size": group_size, "bits": bits, "mode": "affine"}
    return {**config, "quantization": settings, "quantization_config": settings}


def quantizable(model: nn.Module, config: dict[str, Any], group_size: int) -> dict[str, Any]:
    """Return the layers that quantising would change, by name.

    Raises:
        ModelError: the model is quantised already, or the group size does not fit it.
    """
    if config.get("quantization"):
        raise ModelError("the model is quantised already; start from its unquantised weights")
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if hasattr(module, "to_quantized")
    }
    widths = sorted({module.weight.shape[-1] for module in layers.values()})
    if uneven := [width for width in widths if width % group_size]:
        fitting = [size for size in GROUP_SIZES if not any(width % size for width in widths)]
        raise ModelError(
            f"quantize.group_size is {group_size}, which does not divide layers of the width "
            f"{', '.join(map(str, uneven))}; "
            + (f"choose {' or '.join(map(str, fitting))}" if fitting else "no group size fits this model")
        )
    return layers

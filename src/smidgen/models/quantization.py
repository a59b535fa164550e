"""Quantisation: groups of weights are stored in few bits and share a scale.

A `QuantizationPlan` gives the width of each layer. `save_model` writes quantised models in mlx-lm's format:
settings of layers that differ from most are stored under the layers' names. A tied head is quantised with the
embedding.
"""

from collections import Counter
from typing import Any, NamedTuple

from smidgen.backend import mx, nn
from smidgen.config import DEFAULT_BITS, DEFAULT_GROUP_SIZE, QuantizeConfig
from smidgen.errors import ConfigError, ModelError
from smidgen.models.architectures import ModelConfigJson
from smidgen.models.graph import named_arrays

GROUP_SIZES = (32, 64, 128)
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


class Setting(NamedTuple):
    """How one layer is stored.

    Attributes:
        bits: bits per weight.
        group_size: number of weights along a row that share a scale.
        mode: MLX's mode; `affine` has a scale and a bias for each group, the others have an 8-bit scale.
    """

    bits: int
    group_size: int
    mode: str = "affine"

    def num_bytes(self, shape: tuple[int, ...], dtype: mx.Dtype) -> int:
        """Return the bytes of a quantised matrix (out, in), with its scales and biases in `dtype`."""
        rows, columns = shape
        of_group = 2 * dtype.size if self.mode == "affine" else 1
        return rows * columns * self.bits // 8 + rows * (columns // self.group_size) * of_group


MODES = {
    "mxfp4": Setting(4, 32, "mxfp4"),
    "mxfp8": Setting(8, 32, "mxfp8"),
    "nvfp4": Setting(4, 16, "nvfp4"),
}
"""The floating-point modes; each has a fixed width and group size (see `mlx.core.quantize`)."""
MIXES = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}
"""The recipes of mlx-lm 0.32 (`mlx_lm.convert --quant-predicate`) and their two widths."""

QuantizationPlan = dict[str, Setting | None]
"""The setting of each layer by its name; None leaves the layer unquantised."""


class Size(NamedTuple):
    """The bytes of all tensors of a model, and its number of parameters."""

    num_bytes: int
    parameters: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter, including scales and biases."""
        return 8 * self.num_bytes / self.parameters


def quantize(model: nn.Module, config: ModelConfigJson, *, bits: int, group_size: int) -> ModelConfigJson:
    """Quantise every layer of a model with the same setting, in place; see `quantize_as`."""
    setting = Setting(bits, group_size)
    return quantize_as(model, config, {name: setting for name in quantizable(model, config)})


def quantize_as(model: nn.Module, config: ModelConfigJson, plan: QuantizationPlan) -> ModelConfigJson:
    """Quantise a model in place and return its `config.json` with the settings in it.

    Args:
        model: without adapter layers.
        config: the content of its `config.json`.
        plan: the setting of each layer that can be quantised.

    Raises:
        ConfigError: a layer's input width is not a multiple of its group size.
        ModelError: the model is already quantised or has an adapter.
    """
    layers = quantizable(model, config)
    check_widths(layers, plan)
    used = Counter(setting for setting in plan.values() if setting is not None)
    if not used:
        raise ModelError("the plan quantises no layer; set bits for at least one layer")
    ((most, _),) = used.most_common(1)

    def setting_of(name: str, module: nn.Module) -> bool | dict[str, Any]:
        setting = plan.get(name) if name in layers else None
        return False if setting is None else setting._asdict()

    nn.quantize(model, class_predicate=setting_of)
    mx.eval(model.parameters())
    own = {
        name: setting._asdict() if setting else False
        for name, setting in sorted(plan.items())
        if setting != most
    }
    settings = {**most._asdict(), **own}
    return {**config, "quantization": settings, "quantization_config": settings}


def quantizable(model: nn.Module, config: ModelConfigJson) -> dict[str, Any]:
    """Return the layers that can be quantised, by name.

    Raises:
        ModelError: the model is already quantised or has an adapter.
    """
    if config.get("quantization"):
        raise ModelError("the model is already quantised; start from its unquantised weights")
    if any(name.endswith("lora_a") for name in named_arrays(model.parameters())):
        raise ModelError("the model has an adapter that is not fused; fuse it before quantising")
    modules = reversed(list(model.named_modules()))  # MLX lists the last block first
    return {name: module for name, module in modules if hasattr(module, "to_quantized")}


def make_plan(model: nn.Module, config: ModelConfigJson, settings: QuantizeConfig) -> QuantizationPlan:
    """Return the setting of each layer; with `target_bits`, only of layers whose bits are set explicitly.

    Raises:
        ConfigError: `head_bits` is set but the head is tied to the embedding, or a layer's input width is not
            a multiple of its group size.
        ModelError: as `quantizable`.
    """
    layers = quantizable(model, config)
    group_size = settings.group_size or DEFAULT_GROUP_SIZE
    plan: QuantizationPlan = {}
    if settings.recipe is not None:
        plan |= mixed(settings.recipe, layers, config["num_hidden_layers"], group_size)
    elif settings.target_bits is None:
        all_alike = MODES.get(settings.mode) or Setting(settings.bits or DEFAULT_BITS, group_size)
        plan |= dict.fromkeys(layers, all_alike)
    if settings.head_bits is not None and HEAD not in layers:
        raise ConfigError(
            "the head of this model is tied to its embedding; set 'embedding_bits', not 'head_bits'"
        )
    for name, bits in ((EMBEDDING, settings.embedding_bits), (HEAD, settings.head_bits)):
        if bits is not None:
            plan[name] = Setting(bits, group_size) if isinstance(bits, int) else None
    check_widths(layers, {name: plan.get(name, Setting(8, group_size)) for name in layers})
    return plan


def mixed(recipe: str, layers: dict[str, Any], num_layers: int, group_size: int) -> QuantizationPlan:
    """Return the width of each layer in mlx-lm's recipe of this name.

    As in llama.cpp's Q4_K_M, the head gets the higher width, and so do the value and down projections of the
    first and the last eighth of the blocks and of every third block in between.
    """
    low, high = (Setting(bits, group_size) for bits in MIXES[recipe])
    eighth = num_layers // 8

    def is_high(name: str) -> bool:
        if name == HEAD:
            return True
        if not name.endswith(("v_proj", "down_proj")):
            return False
        block = int(name.split(".")[2])  # model.layers.N
        return block < eighth or block >= 7 * num_layers // 8 or (block - eighth) % 3 == 2

    return {name: high if is_high(name) else low for name in layers}


def check_widths(layers: dict[str, Any], plan: QuantizationPlan) -> None:
    """Refuse a plan in which a layer's input width is not a multiple of its group size.

    Raises:
        ConfigError: names the widths and the group sizes that fit.
        ModelError: the mode has a fixed group size.
    """
    for setting in sorted({setting for setting in plan.values() if setting is not None}):
        widths = {layers[name].weight.shape[-1] for name, own in plan.items() if own == setting}
        uneven = sorted(width for width in widths if width % setting.group_size)
        if not uneven:
            continue
        shown = f"does not divide layers of width {', '.join(map(str, uneven))}"
        if setting.mode != "affine":
            raise ModelError(f"{setting.mode} has groups of {setting.group_size}, which {shown}; use affine")
        fitting = [str(size) for size in GROUP_SIZES if not any(width % size for width in widths)]
        raise ConfigError(
            f"'group_size' is {setting.group_size}, which {shown}; "
            + (f"choose {' or '.join(fitting)}" if fitting else "no group size fits this model")
        )


def size_of(model: nn.Module, dtype: mx.Dtype, plan: QuantizationPlan | None = None) -> Size:
    """Return the size that an unquantised model would have if stored as `plan` says, without quantising it.

    Only shapes are read, so the weights need not be computed.

    Args:
        model: without adapter layers.
        dtype: dtype of what stays floating-point: norms, biases, kept layers, and the groups' scales and
            biases.
        plan: the setting of each layer; if None, no layer is quantised.
    """
    total = parameters = 0
    for name, value in named_arrays(model.parameters()).items():
        module, _, leaf = name.rpartition(".")
        setting = (plan or {}).get(module) if leaf == "weight" else None
        total += setting.num_bytes(value.shape, dtype) if setting else value.size * dtype.size
        parameters += value.size
    return Size(total, parameters)

"""Low-rank adaptation (https://arxiv.org/abs/2106.09685) over mlx-lm's layers.

`scale · (dropout(x) A) B` is added to a linear layer's output: A is (in, rank), B (rank, out), scale alpha /
rank, or alpha / √rank for rsLoRA, and B is zero at the start. Unlike mlx-lm, A is seeded by the layer's name,
loading reports all mismatches at once, and `fuse` adds in float32 and never quantises the sum again, which
may round the update away.
"""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx.utils import tree_unflatten
from mlx_lm.tuner.lora import LoRALinear

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.errors import ModelError, did_you_mean, first_few
from smidgen.models.adapter import (
    Adapter,
    pair_faults,
    read_adapter,
    warn_of_another_base,
    write_adapter,
)
from smidgen.models.graph import body


def add_lora(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze the model and give the targeted layers of its last blocks a trainable low-rank update.

    Raises:
        ModelError: a target does not name a linear layer, the model has fewer blocks than requested, it
            already has an adapter, or the one to start from has other layers, ranks or factors.
    """
    _check_bare(model)
    targets = _targets(model, config)
    model.freeze()
    replacements = []
    for path, linear in targets:
        layer = LoRALinear.from_base(linear, r=config.rank, dropout=config.dropout, scale=config.scale)
        bound = 1 / math.sqrt(layer.lora_a.shape[0])
        key = mx.random.key(zlib.crc32(f"{seed} {path}".encode()))
        layer.lora_a = mx.random.uniform(-bound, bound, layer.lora_a.shape, key=key)
        replacements.append((path, layer))
    model.update_modules(tree_unflatten(replacements))
    if config.start is not None:
        _start_from(read_adapter(Path(config.start).expanduser()), model)


def _start_from(adapter: Adapter, model: nn.Module) -> None:
    """Give the adapted layers of a model the weights of an adapter.

    Raises:
        ModelError: names the first layers that differ.
    """
    layers = dict(_adapted(model))
    faults = [f"'{name}' is missing there" for name in sorted(layers.keys() - set(adapter.layers))]
    faults += [f"'{name}' is adapted there only" for name in sorted(set(adapter.layers) - layers.keys())]
    faults += [fault for name in adapter.layers for fault in pair_faults(name, adapter.weights)]
    if not faults:
        for name, layer in layers.items():
            ours, theirs = (layer.lora_a.shape[1], layer.scale), (adapter.ranks[name], adapter.scales[name])
            if ours[0] != theirs[0] or not math.isclose(ours[1], theirs[1], rel_tol=1e-6):
                faults.append(
                    f"'{name}' has rank {theirs[0]} and factor {theirs[1]:g} there, rank {ours[0]} and "
                    f"factor {ours[1]:g} here"
                )
            else:
                faults += _misfits(name, layer.linear, adapter)
    if faults:
        raise ModelError(
            f"the training cannot start from the adapter in {adapter.source}: {first_few(faults)}. Give "
            "[train.lora] the rank, alpha, target_modules and num_layers that it was trained with"
        )
    model.load_weights([(name, w.astype(mx.float32)) for name, w in adapter.weights.items()], strict=False)


def save_adapter(path: Path, model: nn.Module, config: LoraConfig) -> None:
    """Write the adapter to a folder that mlx-lm's `load_adapters` reads; an existing folder is replaced.

    Raises:
        ModelError: the model has no adapter.
        WorkError: the disk is full or the folder is not writable.
    """
    layers = dict(_adapted(model))
    if not layers:
        raise ModelError("the model has no adapter to save; call add_lora first")
    weights = {}
    for name, layer in layers.items():
        weights[f"{name}.lora_a"], weights[f"{name}.lora_b"] = layer.lora_a, layer.lora_b
    scales = {name: layer.scale for name, layer in layers.items()}
    adapter = Adapter(weights, scales, config.dropout, None, path, config.rslora)
    write_adapter(path, adapter, num_blocks=len(body(model).layers))


def load_adapter(model: nn.Module, path: Path, base: str | None = None) -> None:
    """Freeze the model and attach an adapter in mlx-lm's or PEFT's format.

    The tensors determine the adapted layers; the scales are the file's. If the model's name is given as
    `base` and the adapter names another base, a warning is raised.

    Raises:
        ModelError: the folder is not such an adapter, or its tensors do not fit the model.
    """
    _check_bare(model)
    adapter = read_adapter(path)
    refuse_misfits(adapter, model)
    if base is not None:
        warn_of_another_base(adapter, base)
    modules = dict(model.named_modules())
    model.freeze()
    replacements = []
    for name in adapter.layers:
        layer = LoRALinear.from_base(
            modules[name], r=adapter.ranks[name], dropout=adapter.dropout, scale=adapter.scales[name]
        )
        a, b = adapter.weights[f"{name}.lora_a"], adapter.weights[f"{name}.lora_b"]
        layer.lora_a, layer.lora_b = a.astype(mx.float32), b.astype(mx.float32)
        replacements.append((name, layer))
    model.update_modules(tree_unflatten(replacements))
    model.train(model.training)
    mx.eval(model.parameters())


def with_adapter(model: nn.Module, path: Path, base: str | None = None) -> nn.Module:
    """Return a model that shares this one's weights and has the adapter of a folder instead of its own.

    Raises:
        ModelError: as in `load_adapter`.
    """
    adapted = without_adapter(model)
    load_adapter(adapted, path, base)
    return adapted


def without_adapter(model: nn.Module) -> nn.Module:
    """Return the base of a model: it shares the weights, has no adapter and is in evaluation mode."""
    bare = _sharing(model)
    bare.update_modules(tree_unflatten([(name, layer.linear) for name, layer in _adapted(bare)]))
    bare.eval()
    return bare


def refuse_misfits(adapter: Adapter, model: nn.Module) -> None:
    """Refuse an adapter whose tensors do not fit the model; only the model's shapes are read.

    Raises:
        ModelError: names the first tensors that do not fit and the number of others.
    """
    modules = dict(model.named_modules())
    faults = [
        fault
        for name in adapter.layers
        for fault in (*pair_faults(name, adapter.weights), *_misfits(name, modules.get(name), adapter))
    ]
    if not adapter.layers:
        faults = ["it has no tensors"]
    if faults:
        raise ModelError(
            f"the adapter in {adapter.source} does not fit the model: {first_few(faults)}. "
            "Load it on the base that it was trained on"
        )


def count_parameters(model: nn.Module, config: LoraConfig) -> int:
    """Return how many parameters `add_lora` would train, from shapes alone: rank · (in + out) per layer.

    Raises:
        ModelError: as in `add_lora`.
    """
    return sum(config.rank * sum(_dimensions(linear)) for _, linear in _targets(model, config))


def fuse(model: nn.Module) -> None:
    """Merge every low-rank update into its layer, in float32, so that plain layers remain.

    A quantised model is dequantised completely: quantising the sum again would change the model, so that is
    left to the caller, who can measure its effect.
    """
    replacements: list[tuple[str, nn.Module]] = []
    for name, layer in _adapted(model):
        linear = _plain(layer.linear)
        a, b = layer.lora_a.astype(mx.float32), layer.lora_b.astype(mx.float32)
        delta = layer.scale * (a @ b).T
        linear.weight = (linear.weight.astype(mx.float32) + delta).astype(_float_dtype(layer.linear))
        replacements.append((name, linear))
    model.update_modules(tree_unflatten(replacements))
    dequantize(model)
    model.unfreeze()
    mx.eval(model.parameters())


def dequantize(model: nn.Module, dtype: mx.Dtype | None = None, *, to_read: bool = False) -> None:
    """Replace quantised layers with plain layers of the same weights, one by one to save memory.

    Args:
        model: changed in place; without adapter layers.
        dtype: dtype of the new weights; each layer's compute dtype if None.
        to_read: the new weights are only computed with, and neither changed nor saved.

    Raises:
        ModelError: weights that are not only read are quantised in a floating-point mode.
    """
    modules = model.named_modules()
    while modules:  # taken out, because a list of all would keep the packed weights
        name, module = modules.pop()
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            plain = _plain(module, to_read=to_read)
            plain.weight = plain.weight.astype(dtype or _float_dtype(module))
            mx.eval(plain.parameters())
            model.update_modules(tree_unflatten([(name, plain)]))


def _sharing(part: Any) -> Any:
    """Return a copy of a module, or of a container in one, that shares its arrays."""
    if isinstance(part, nn.Module):
        copy = part.__class__.__new__(part.__class__)
        # MLX keeps the names of frozen parameters in sets that it changes in place.
        copy.__dict__.update({k: set(v) if isinstance(v, set) else v for k, v in vars(part).items()})
        for name, child in part.items():
            dict.__setitem__(copy, name, _sharing(child))
        return copy
    if isinstance(part, dict):
        return {name: _sharing(child) for name, child in part.items()}
    return type(part)(map(_sharing, part)) if type(part) in (list, tuple) else part


def _check_bare(model: nn.Module) -> None:
    if any(_adapted(model)):
        raise ModelError("the model already has an adapter; fuse it first, or start from its base")


def _targets(model: nn.Module, config: LoraConfig) -> list[tuple[str, Any]]:
    """Path and module of each layer that gets an update."""
    blocks = body(model).layers
    total = len(blocks)
    wanted = total if config.num_layers is None else config.num_layers
    if wanted > total:
        raise ModelError(
            f"lora.num_layers is {wanted}, but the model has {total} blocks; use at most {total}"
        )
    linear = [
        (f"model.layers.{i}.{name}", name.rsplit(".", 1)[-1], module)
        for i in range(total - wanted, total)
        for name, module in blocks[i].named_modules()
        if isinstance(module, nn.Linear | nn.QuantizedLinear)
    ]
    known = sorted({kind for _, kind, _ in linear})
    for target in config.target_modules:
        if target not in known:
            raise ModelError(
                f"lora.target_modules names '{target}', which is not a linear layer of this model."
                f"{did_you_mean(target, known)} It has {', '.join(known)}"
            )
    return sorted((path, module) for path, kind, module in linear if kind in config.target_modules)


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def _misfits(name: str, module: nn.Module | None, adapter: Adapter) -> Iterator[str]:
    """Yield why the matrices of one layer do not fit the model's layer."""
    a, b = adapter.weights.get(f"{name}.lora_a"), adapter.weights.get(f"{name}.lora_b")
    if a is None and b is None:
        return
    if not isinstance(module, nn.Linear | nn.QuantizedLinear):
        yield f"'{name}' is not a linear layer of the model"
        return
    outputs, inputs = _dimensions(module)
    for part, tensor, axis, size in (("lora_a", a, 0, inputs), ("lora_b", b, 1, outputs)):
        if tensor is not None and tensor.ndim == 2 and tensor.shape[axis] != size:
            yield f"'{name}.{part}' has shape {tensor.shape}, expected {size} in dimension {axis}"


def _dimensions(linear: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, packed or not."""
    outputs, inputs = linear.weight.shape
    return outputs, inputs * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else inputs


def _plain(module: Any, *, to_read: bool = False) -> Any:
    """Return the layer itself or, if it is quantised, a plain one with the same weights in float32."""
    if "scales" not in module:
        return module
    if module.mode != "affine" and not to_read:
        raise ModelError(
            f"weights quantised as {module.mode} cannot be merged with an adapter or quantised again; "
            "start from affine or unquantised weights"
        )
    parts = [module.scales, module.get("biases")]
    if module.mode == "affine":
        parts = [part.astype(mx.float32) for part in parts]
    weight = mx.dequantize(
        module.weight, *parts, group_size=module.group_size, bits=module.bits, mode=module.mode
    )
    rows, columns = weight.shape
    if isinstance(module, nn.QuantizedEmbedding):
        plain = nn.Embedding(rows, columns)
    else:
        plain = nn.Linear(columns, rows, bias="bias" in module)
        if "bias" in module:
            plain.bias = module.bias
    plain.weight = weight
    return plain


def _float_dtype(module: Any) -> mx.Dtype:
    """The compute dtype of a layer."""
    return module.scales.dtype if "scales" in module else module.weight.dtype

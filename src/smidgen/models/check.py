"""Check every tensor of a model folder and its tokenizer against its `config.json`, one tensor at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.backend import mx, nn
from smidgen.data.templates import load_tokenizer
from smidgen.data.token_ids import unknown_in_configs
from smidgen.errors import ModelError
from smidgen.models.architectures import ModelConfigJson, build_graph, unread_keys
from smidgen.models.load import HEAD, has_other_head, misfits, quantize_like
from smidgen.models.mobilellm import mlp_variant
from smidgen.models.save import declared_dtype
from smidgen.models.weights import read_weights

PART = 1 << 22
"""Number of values whose statistics are computed at a time, in float32."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the finite values of a tensor; quantised weights are dequantised first.

    Attributes:
        minimum, maximum, mean, deviation: None if no value is finite; `deviation` is the standard deviation.
        non_finite: number of infinite and NaN values.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    non_finite: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `is_read` tells whether the model uses it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_read: bool
    statistics: Statistics


@dataclass
class Check:
    """The findings of `check_model`.

    Attributes:
        mlp: kind of the feed-forward layers, by the names of their tensors.
        mlp_parts: those names.
        tied_head: whether the config ties the head to the embedding; None if the config is not supported.
        ignored: tensors that loading ignores.
        ignored_keys: keys of the config that have no effect.
        tensors: all tensors of the file.
        notes: unusual findings that are not faults.
        faults: what prevents the model from loading, or from computing what it should.
    """

    mlp: str
    mlp_parts: list[str]
    tied_head: bool | None
    ignored: list[str]
    ignored_keys: list[str]
    tensors: list[Tensor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def check_model(path: Path, config: ModelConfigJson) -> Check:
    """Read every tensor of a model folder and its tokenizer, and check them against its `config.json`.

    Raises:
        ModelError: a weight file is missing or damaged.
    """
    weights = read_weights(path)
    mlp, parts = mlp_variant(weights)
    model, read, faults = _graph(path, config, weights)
    check = Check(
        mlp=mlp,
        mlp_parts=parts,
        tied_head=None if model is None else "lm_head" not in model,
        ignored=sorted(weights.keys() - read),
        ignored_keys=unread_keys(config),
        faults=faults,
    )
    if model is not None and has_other_head(model, path, weights):
        check.faults.append(
            f"'{HEAD}' is ignored because config.json ties the head, but it differs from the embedding"
        )
    check.notes += _odd_dtypes(weights, declared_dtype(config))
    for tensor in _tensors(weights, model, read):
        check.tensors.append(tensor)
        check.faults += _faults(tensor)
        check.notes += _notes(tensor)
    check.faults += _tokenizer_faults(path, config)
    return check


def _tokenizer_faults(path: Path, config: ModelConfigJson) -> list[str]:
    """Faults of the tokenizer: unreadable, without tokens that configs name, or larger than the embedding."""
    try:
        tokenizer = load_tokenizer(path)
    except ModelError as error:
        return [str(error)]
    faults, greatest = (
        unknown_in_configs(path, tokenizer.has_id),
        max(tokenizer.vocabulary.values(), default=-1),
    )
    size = config.get("vocab_size")
    if isinstance(size, int) and greatest >= size:
        faults.append(f"the tokenizer has the token id {greatest}, but the model's vocab_size is {size}")
    return faults


def _graph(
    path: Path, config: ModelConfigJson, weights: dict[str, mx.array]
) -> tuple[nn.Module | None, set[str], list[str]]:
    """The graph that loading would build, the tensors it uses, and what prevents it from loading.

    Its weights are not computed. Without a graph, all tensors count as used.
    """
    try:
        model = build_graph(config, "config.json")
        kept = model.sanitize(dict(weights))
        quantize_like(model, config, path, has_scales=lambda name: f"{name}.scales" in kept)
    except ModelError as error:
        return None, set(weights), [str(error)]
    return model, set(kept), misfits(model, kept)


def _tensors(weights: dict[str, mx.array], model: nn.Module | None, read: set[str]) -> Iterator[Tensor]:
    """Yield the tensors in the order of their names; each is freed before the next is read."""
    layers = {} if model is None else dict(model.named_modules())
    for name in sorted(weights, key=_place):
        module = name.removesuffix(".weight")
        scales = weights.get(f"{module}.scales") if name.endswith(".weight") else None
        value = weights.pop(name)
        if scales is None:
            values = _values(value)
        else:
            values = _dequantized(value, scales, weights.get(f"{module}.biases"), layers.get(module))
        dtype = str(value.dtype).removeprefix("mlx.core.")
        yield Tensor(name, value.shape, dtype, name in read, statistics_of(values))
        del value, values, scales
        mx.clear_cache()


def _place(name: str) -> tuple[list[str], bool, str]:
    """The sort key of a tensor: layer 2 before layer 10, packed weights before their scales."""
    module, _, leaf = name.rpartition(".")
    return [part.zfill(6) if part.isdigit() else part for part in module.split(".")], leaf != "weight", leaf


def statistics_of(parts: Iterator[np.ndarray]) -> Statistics:
    """Return the joint statistics of float32 arrays."""
    count = non_finite = 0
    lowest, highest, total, squares = np.inf, -np.inf, 0.0, 0.0
    for part in parts:
        finite = part[np.isfinite(part)]
        non_finite += part.size - finite.size
        if finite.size:
            count += finite.size
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
            total += float(finite.sum(dtype=np.float64))
            squares += float(np.square(finite, dtype=np.float64).sum())
    if not count:
        return Statistics(None, None, None, None, non_finite)
    mean = total / count
    deviation = max(0.0, squares / count - mean * mean) ** 0.5
    return Statistics(lowest, highest, mean, deviation, non_finite)


def _values(value: mx.array) -> Iterator[np.ndarray]:
    flat = value.reshape(-1)
    for begin in range(0, flat.size, PART):
        yield np.array(flat[begin : begin + PART].astype(mx.float32))


def _dequantized(
    weight: mx.array, scales: mx.array, biases: mx.array | None, layer: Any
) -> Iterator[np.ndarray]:
    """The dequantised values of packed weights; nothing if it is not known how they were packed."""
    if layer is None or "scales" not in layer:
        return
    pairs = ((weight, layer.weight), (scales, layer.scales), (biases, layer.biases))
    if any(_shape(found) != _shape(wanted) for found, wanted in pairs):
        return
    rows = max(1, PART // (scales.shape[-1] * layer.group_size))
    for begin in range(0, len(weight), rows):
        part = slice(begin, begin + rows)
        values = mx.dequantize(
            weight[part], scales[part], None if biases is None else biases[part],
            group_size=layer.group_size, bits=layer.bits, mode=layer.mode,
        )  # fmt: skip
        yield np.array(values.astype(mx.float32))


def _shape(value: mx.array | None) -> tuple[int, ...] | None:
    return None if value is None else value.shape


def _odd_dtypes(weights: dict[str, mx.array], declared: mx.Dtype | None) -> list[str]:
    """A note if floating-point weights are stored in other dtypes than the config declares."""
    if declared is None:
        return []
    found = [value.dtype for value in weights.values() if mx.issubdtype(value.dtype, mx.floating)]
    others = [str(dtype).removeprefix("mlx.core.") for dtype in found if dtype != declared]
    wanted = str(declared).removeprefix("mlx.core.")
    stored = f"{len(others)} of {len(found)} tensors are stored in {' and '.join(sorted(set(others)))}"
    return [f"{stored}, but config.json declares {wanted}"] if others else []


def _faults(tensor: Tensor) -> list[str]:
    bad = tensor.statistics.non_finite
    return [f"'{tensor.name}' has {bad:,} values that are not finite"] if bad else []


def _notes(tensor: Tensor) -> list[str]:
    same = tensor.statistics.deviation == 0 and len(tensor.shape) > 1
    return [f"every value of '{tensor.name}' is {tensor.statistics.mean:g}"] if same else []

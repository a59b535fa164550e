"""Every tensor of a model folder and its tokenizer, held against what its `config.json` implies.

One tensor at a time is in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.backend import mx, nn
from smidgen.data.templates import load_tokenizer
from smidgen.data.token_ids import unknown_in_configs
from smidgen.errors import ModelError
from smidgen.models.architectures import build_graph, unread_keys
from smidgen.models.load import HEAD, has_other_head, misfits, quantize_like
from smidgen.models.mobilellm import mlp_variant
from smidgen.models.save import declared_dtype
from smidgen.models.weights import read_weights

PART = 1 << 22
"""Values whose statistics are computed together, in float32."""


@dataclass(frozen=True)
class Statistics:
    """Of the finite values of a tensor, and how many are not; quantised weights count as what they stand for.

    Attributes:
        minimum, maximum, mean, deviation: None if no value is finite.
        non_finite: how many values are infinite or no numbers.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    non_finite: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `is_read` says whether the model takes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_read: bool
    statistics: Statistics


@dataclass
class Check:
    """What was found.

    Attributes:
        mlp: kind of the feed-forward layers, by the names of their tensors.
        mlp_parts: those names.
        tied_head: whether the config makes the embedding the head; None if the config cannot be honoured.
        ignored: tensors that loading leaves out.
        ignored_keys: keys of the config that change nothing.
        tensors: all of the file's.
        notes: what is odd but no fault.
        faults: what keeps the model from loading, or from computing what it should.
    """

    mlp: str
    mlp_parts: list[str]
    tied_head: bool | None
    ignored: list[str]
    ignored_keys: list[str]
    tensors: list[Tensor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def check_model(path: Path, config: dict[str, Any]) -> Check:
    """Read every tensor of a model folder and its tokenizer, and hold them against its `config.json`.

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
            f"'{HEAD}' is left out, since config.json ties the head, but it is not the embedding"
        )
    check.notes += _odd_dtypes(weights, declared_dtype(config))
    for tensor in _tensors(weights, model, read):
        check.tensors.append(tensor)
        check.faults += _faults(tensor)
        check.notes += _notes(tensor)
    check.faults += _tokenizer_faults(path, config)
    return check


def _tokenizer_faults(path: Path, config: dict[str, Any]) -> list[str]:
    """Whether the tokenizer cannot be read, lacks tokens that are named, or has more than the embedding."""
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
        faults.append(f"the tokenizer has a token {greatest}, and the model has only {size}, from 0 on")
    return faults


def _graph(
    path: Path, config: dict[str, Any], weights: dict[str, mx.array]
) -> tuple[nn.Module | None, set[str], list[str]]:
    """The graph that loading would make, which tensors it takes, and what keeps it from loading.

    None of its weights are computed. Where there is no graph it counts as taking all.
    """
    try:
        model = build_graph(config, "config.json")
        kept = model.sanitize(dict(weights))
        quantize_like(model, config, kept, path)
    except ModelError as error:
        return None, set(weights), [str(error)]
    return model, set(kept), misfits(model, kept)


def _tensors(weights: dict[str, mx.array], model: nn.Module | None, read: set[str]) -> Iterator[Tensor]:
    """The tensors in the order of their names; each is let go of before the next."""
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
    """Where a tensor stands in a list: layer 2 before layer 10, packed weights before their scales."""
    module, _, leaf = name.rpartition(".")
    return [part.zfill(6) if part.isdigit() else part for part in module.split(".")], leaf != "weight", leaf


def statistics_of(parts: Iterator[np.ndarray]) -> Statistics:
    """The statistics of float32 arrays, together."""
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
    """What packed weights stand for; nothing where it is not known how they were packed."""
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
    """Whether floating weights are stored in other dtypes than the config says, where it says one."""
    if declared is None:
        return []
    found = {value.dtype for value in weights.values() if mx.issubdtype(value.dtype, mx.floating)}
    names = sorted(str(dtype).removeprefix("mlx.core.") for dtype in found - {declared})
    wanted = str(declared).removeprefix("mlx.core.")
    return [f"weights are stored in {' and '.join(names)}, by config.json in {wanted}"] if names else []


def _faults(tensor: Tensor) -> list[str]:
    bad = tensor.statistics.non_finite
    return [f"'{tensor.name}' has {bad:,} values that are no finite numbers"] if bad else []


def _notes(tensor: Tensor) -> list[str]:
    same = tensor.statistics.deviation == 0 and len(tensor.shape) > 1
    return [f"every value of '{tensor.name}' is {tensor.statistics.mean:g}"] if same else []

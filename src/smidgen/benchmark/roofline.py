"""Upper bounds of a model's speed on a device: the roofline (https://doi.org/10.1145/1498765.1498785).

A decode step reads every weight once for all rows and computes two operations per weight and row; the tokens
of a prompt share one read. The KV cache and attention are ignored, so the bounds are slightly too high for
long contexts and never too low.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFReader

from smidgen.backend import Rates, compute_dtype
from smidgen.errors import ModelError
from smidgen.models.load import read_config, resolve
from smidgen.models.parts import parameters_of, part_of
from smidgen.models.weights import read_weights


class Weights(NamedTuple):
    """Sizes of a model for the roofline.

    Attributes:
        parameters: all parameters.
        block_parameters: those used for every prompt token; the head is only used for the last one.
        step_parameters: those used in a decode step: blocks and head, without an untied embedding.
        step_bytes: stored bytes of `step_parameters`.
    """

    parameters: int
    block_parameters: int
    step_parameters: int
    step_bytes: int


def prefill_bound(weights: Weights, *, flops: float, bandwidth: float, prompt_tokens: int) -> float:
    """Upper bound of prompt tokens per second, for one prompt.

    Args:
        weights: sizes of the model.
        flops: operations per second of the device.
        bandwidth: bytes per second of its memory.
        prompt_tokens: length of the prompt.
    """
    head = weights.step_parameters - weights.block_parameters
    compute = 2 * (weights.block_parameters * prompt_tokens + head) / flops
    return prompt_tokens / max(compute, weights.step_bytes / bandwidth)


def decode_bound(weights: Weights, *, flops: float, bandwidth: float, batch: int) -> float:
    """Upper bound of tokens per second over all rows, when `batch` rows are decoded together."""
    compute = 2 * weights.step_parameters * batch / flops
    return batch / max(compute, weights.step_bytes / bandwidth)


@dataclass(frozen=True)
class Roofline:
    """Upper bounds of a model's speed on a device, with the weights as they are stored.

    Attributes:
        flops_per_second: operations per second of the device in `dtype`.
        bytes_per_second: memory bandwidth of the device.
        dtype: compute dtype.
        parameters: as in `Weights`.
        block_parameters: as in `Weights`.
        step_parameters: as in `Weights`.
        step_bytes: as in `Weights`.
        prefill_tokens_per_second: bound for one prompt.
        decode_tokens_per_second: bounds over all rows, by batch size.
    """

    flops_per_second: float
    bytes_per_second: float
    dtype: str
    parameters: int
    block_parameters: int
    step_parameters: int
    step_bytes: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: Mapping[int, float]


def roofline_of(model: str, rates: Rates, *, prompt_tokens: int, batches: Sequence[int]) -> Roofline | None:
    """Compute the bounds for a device with the given rates; None if the weights are not on this machine."""
    weights = weights_of(model)
    if weights is None:
        return None
    return Roofline(
        flops_per_second=rates.flops,
        bytes_per_second=rates.bandwidth,
        dtype=str(compute_dtype()).removeprefix("mlx.core."),
        **weights._asdict(),
        prefill_tokens_per_second=prefill_bound(weights, **rates._asdict(), prompt_tokens=prompt_tokens),
        decode_tokens_per_second={
            number: decode_bound(weights, **rates._asdict(), batch=number) for number in batches
        },
    )


def weights_of(model: str) -> Weights | None:
    """Read the sizes from the headers of a model's weights; None if it is not a folder or GGUF file."""
    return _gguf_weights(model) if model.endswith(".gguf") else _folder_weights(model)


def _folder_weights(model: str) -> Weights | None:
    try:
        path = resolve(model)
        arrays, config = read_weights(path), read_config(path)
    except ModelError:
        return None
    numbers = [(part_of(name), number) for name, number, _ in parameters_of(arrays, config)]
    return _summed(numbers, [(part_of(name), array.nbytes) for name, array in arrays.items()])


def _gguf_weights(model: str) -> Weights | None:
    try:
        tensors = GGUFReader(Path(model).expanduser()).tensors
    except (OSError, ValueError, KeyError, IndexError):  # the engine that opens it reports the error
        return None
    ends = {"token_embd.weight": "embedding", "output.weight": "head"}
    parts = [ends.get(tensor.name, "blocks") for tensor in tensors]
    return _summed(
        [(part, int(tensor.n_elements)) for part, tensor in zip(parts, tensors, strict=True)],
        [(part, int(tensor.n_bytes)) for part, tensor in zip(parts, tensors, strict=True)],
    )


def _summed(numbers: Iterable[tuple[str, int]], sizes: Iterable[tuple[str, int]]) -> Weights:
    """Sum parameters and bytes by part; a step reads only a few rows of an untied embedding."""
    parts = dict.fromkeys(("embedding", "head", "blocks"), 0)
    for part, number in numbers:
        parts[part if part in parts else "blocks"] += number
    head = "head" if parts["head"] else "embedding"
    unread = "embedding" if parts["head"] else None
    num_bytes = sum(length for part, length in sizes if part != unread)
    return Weights(sum(parts.values()), parts["blocks"], parts["blocks"] + parts[head], num_bytes)

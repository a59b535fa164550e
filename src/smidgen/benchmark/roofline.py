"""What a device could do at most with a model: the roofline (https://doi.org/10.1145/1498765.1498785).

A decoding step reads every weight once, whatever the number of rows, and computes two operations for each
weight and row; a prompt's tokens share the reading. Keys, values and attention are left out, so the bounds
are a little too high for long contexts, never too low for short ones.
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
    """A model as the roofline sees it.

    Attributes:
        parameters: all of them.
        block_parameters: those that every token of a prompt meets; the head is only for the last.
        step_parameters: those that a decoding step meets: blocks and head, not an embedding beside it.
        step_bytes: what these take as they are stored.
    """

    parameters: int
    block_parameters: int
    step_parameters: int
    step_bytes: int


def prefill_bound(weights: Weights, *, flops: float, bandwidth: float, prompt_tokens: int) -> float:
    """Prompt tokens a second at most, of one prompt of `prompt_tokens`.

    Args:
        weights: of the model.
        flops: operations a second of the device.
        bandwidth: bytes a second of its memory.
        prompt_tokens: length of the prompt.
    """
    head = weights.step_parameters - weights.block_parameters
    compute = 2 * (weights.block_parameters * prompt_tokens + head) / flops
    return prompt_tokens / max(compute, weights.step_bytes / bandwidth)


def decode_bound(weights: Weights, *, flops: float, bandwidth: float, batch: int) -> float:
    """Tokens a second at most over all rows, when `batch` rows are decoded together."""
    compute = 2 * weights.step_parameters * batch / flops
    return batch / max(compute, weights.step_bytes / bandwidth)


@dataclass(frozen=True)
class Roofline:
    """What a device could reach with a model's weights as they are stored.

    Attributes:
        flops_per_second: of the device, in `dtype`.
        bytes_per_second: of its memory.
        dtype: what it computes in.
        parameters: as in `Weights`.
        block_parameters: as in `Weights`.
        step_parameters: as in `Weights`.
        step_bytes: as in `Weights`.
        prefill_tokens_per_second: at most, of one prompt.
        decode_tokens_per_second: at most over all rows, by their number.
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
    """What a device of such rates could reach; None where the model's weights are not here."""
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
    """What the headers of a model's weights say; None for what is neither a folder nor a GGUF file."""
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
    except (OSError, ValueError, KeyError, IndexError):  # the engine that opens it says what is wrong
        return None
    ends = {"token_embd.weight": "embedding", "output.weight": "head"}
    parts = [ends.get(tensor.name, "blocks") for tensor in tensors]
    return _summed(
        [(part, int(tensor.n_elements)) for part, tensor in zip(parts, tensors, strict=True)],
        [(part, int(tensor.n_bytes)) for part, tensor in zip(parts, tensors, strict=True)],
    )


def _summed(numbers: Iterable[tuple[str, int]], sizes: Iterable[tuple[str, int]]) -> Weights:
    """The roofline's view of parameters and bytes by part; an embedding beside a head is not read whole."""
    parts = dict.fromkeys(("embedding", "head", "blocks"), 0)
    for part, number in numbers:
        parts[part if part in parts else "blocks"] += number
    head = "head" if parts["head"] else "embedding"
    unread = "embedding" if parts["head"] else None
    num_bytes = sum(length for part, length in sizes if part != unread)
    return Weights(sum(parts.values()), parts["blocks"], parts["blocks"] + parts[head], num_bytes)

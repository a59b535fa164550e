"""What a device could do at most with a model: the roofline (https://doi.org/10.1145/1498765.1498785).

A decoding step reads every weight once, whatever the number of rows, and computes two operations for each
weight and row; a prompt's tokens share the reading. Keys, values and attention are left out, so the bounds
are a little too high for long contexts, never too low for short ones.
"""

from typing import NamedTuple


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

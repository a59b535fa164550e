"""Floating-point operations of training and answering, from which measured rates give their time."""

from typing import NamedTuple

from smidgen.backend import Rates
from smidgen.cpu_kernels.head import keeps
from smidgen.models.budget import Training
from smidgen.models.shape import Shape

TRAINING_SHARE = 0.6
"""Share of the rate of a large matrix product that training reaches: 0.62 with LoRA on SmolLM2-135M on two
cores (docs/notebook.md, 2026-11-28). On a GPU it is an assumption."""

PREFILL_SHARE, DECODING_SHARE = 0.7, 0.4
"""Shares of the rate of a large matrix product that prompts reach, and of the bound of a decoding step: 0.72,
and 0.41 to 0.46, with SmolLM2-135M on two cores (docs/notebook.md, 2026-11-28). On a GPU they are
assumptions."""


class Answers(NamedTuple):
    """Answers to prompts.

    Attributes:
        shape: the model.
        weights: bytes of the weights that a step reads.
        rows: number of rows decoded together.
        number: number of answers.
        read: tokens of all prompts, what they share counted once.
        longest: tokens of the longest prompt.
        written: mean tokens of an answer; 0 if answers are only scored.
    """

    shape: Shape
    weights: int
    rows: int
    number: int
    read: float
    longest: int
    written: float


def answering_seconds(answers: Answers, rates: Rates) -> float:
    """Return the time to read the prompts and to write the answers.

    A decoding step takes as long as the products of all rows or the reading of the weights, whichever takes
    longer (`smidgen.benchmark.roofline`).
    """
    shape, rows = answers.shape, answers.rows
    prompts = forward_operations(shape, answers.read, answers.number, answers.longest)
    weights = shape.layers * _block_weights(shape) + shape.vocabulary * shape.width
    step = max(2 * weights * rows / rates.flops, answers.weights / rates.bandwidth)
    steps = answers.number * answers.written / rows
    return prompts / (PREFILL_SHARE * rates.flops) + steps * step / DECODING_SHARE


def training_operations(training: Training, tokens: int, trained: int, *, first_tokens: int = 0) -> float:
    """Return the floating-point operations of a whole training.

    Args:
        training: the model and its settings.
        tokens: tokens of all steps.
        trained: those in the loss.
        first_tokens: if the states of frozen blocks are cached, the tokens for which they are computed; else
            0, and they are computed for all.
    """
    shape, lora = training.shape, training.lora
    block = _block_weights(shape)
    length = training.batch.longest or training.batch.length
    forward = _block_operations(shape, length)
    passes = 2 + (1 if training.recomputes else 0)  # forward, gradient of the input, forward again
    weights = 0 if lora else 1
    blocks = training.trained_blocks
    adapter = 6 * shape.trainable(lora) if lora else 0
    of_blocks = tokens * (blocks * (passes * forward + weights * 2 * block) + adapter)
    frozen = (first_tokens or tokens) * (shape.layers - blocks) * forward
    again = 0 if keeps(training.batch.trained, shape.vocabulary) else 1
    head = 2 * trained * shape.vocabulary * shape.width * (2 + again + weights)
    return of_blocks + frozen + head


def forward_operations(shape: Shape, tokens: float, trained: int, length: int) -> float:
    """Return the operations of a forward pass over tokens in texts of a length, some of them trained."""
    head = 2 * trained * shape.vocabulary * shape.width
    return tokens * shape.layers * _block_operations(shape, length) + head


def _block_weights(shape: Shape) -> int:
    queries = shape.heads * shape.head_dim
    features = queries + 2 * shape.kv_heads * shape.head_dim
    return shape.width * (features + queries + 3 * shape.inner)


def _block_operations(shape: Shape, length: int) -> float:
    """Return the operations of a block on one token: products, and scores over a causal half of the keys."""
    return 2 * _block_weights(shape) + 2 * shape.heads * shape.head_dim * length

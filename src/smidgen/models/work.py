"""Floating-point operations of training, from which a measured rate gives its time."""

from smidgen.cpu_kernels.head import keeps
from smidgen.models.budget import Training

TRAINING_SHARE = 0.6
"""Share of the rate of a large matrix product that training reaches: 0.62 with LoRA on SmolLM2-135M on two
cores (docs/notebook.md, 2026-11-28). On a GPU it is an assumption."""


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
    queries = shape.heads * shape.head_dim
    features = queries + 2 * shape.kv_heads * shape.head_dim
    block = shape.width * (features + queries + 3 * shape.inner)
    length = training.batch.longest or training.batch.length
    # Scores and their sums over a causal half of the keys.
    forward = 2 * block + 2 * queries * length
    passes = 2 + (1 if training.recomputes else 0)  # forward, gradient of the input, forward again
    weights = 0 if lora else 1
    blocks = training.trained_blocks
    adapter = 6 * shape.trainable(lora) if lora else 0
    of_blocks = tokens * (blocks * (passes * forward + weights * 2 * block) + adapter)
    frozen = (first_tokens or tokens) * (shape.layers - blocks) * forward
    again = 0 if keeps(training.batch.trained, shape.vocabulary) else 1
    head = 2 * trained * shape.vocabulary * shape.width * (2 + again + weights)
    return of_blocks + frozen + head

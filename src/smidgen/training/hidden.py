"""The body of a model in training: hidden states with dropout, packed texts, and a trunk that is frozen."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.cpu_kernels import Packing
from smidgen.errors import ModelError
from smidgen.models.graph import body
from smidgen.models.mobilellm import TransformerBlock
from smidgen.models.shape import LAYERED_KINDS
from smidgen.training.batches import TrainBatch
from smidgen.training.trunk import Trunk, frozen_blocks

MASKED_ROW = 512
"""Maximum tokens of a packed row whose attention needs a mask."""
ONE_ROW = 1 << 30
"""The same without a mask: no limit."""


@dataclass(frozen=True)
class BodyPass:
    """How the body runs.

    Attributes:
        dropout: rate on what every block adds to the residual stream, in training mode.
        recompute: whether the backward pass recomputes each block instead of keeping what it needs: about a
            third more time for a small part of the memory.
        trunk: the frozen lowest blocks, whose output is computed without a gradient; they have no dropout.
    """

    dropout: float = 0.0
    recompute: bool = False
    trunk: Trunk | None = None


def packed_length(model: nn.Module) -> int | None:
    """Return the maximum tokens of a row of packed texts; None if the architecture does not allow packing.

    The kernels of the CPU treat every text apart, so one row can hold a whole batch; other layers need a mask
    of the row's length squared.
    """
    if not _is_layered(model):
        return None
    blocks = body(model).layers
    return ONE_ROW if all(cpu_kernels.fuses(block) for block in blocks) else MASKED_ROW


def frozen_trunk(model: nn.Module) -> Trunk | None:
    """Return the lowest blocks if nothing in them is trained; None for none, or other architectures."""
    depth = frozen_blocks(model)
    if depth == 0 or not _is_layered(model):
        return None

    def run(batch: TrainBatch) -> mx.array:
        inner = body(model)
        x = inner.embed_tokens(mx.array(batch.inputs))
        return _run_blocks(inner.layers[:depth], x, BodyPass(), packing_of(batch), keep=False)

    return Trunk(depth, run)


def hidden_states(
    model: nn.Module, batch: TrainBatch, how: BodyPass | None = None, chosen: mx.array | None = None
) -> mx.array:
    """Return hidden states before the head, after the final norm.

    Returns:
        (B, L, D), or (n, D) at the chosen positions (n,) of the flattened batch.

    Raises:
        ModelError: rows are packed, which the architecture does not support.
    """
    inner, packing, how = body(model), packing_of(batch), how or BodyPass()
    if packing is not None and not _is_layered(model):
        raise ModelError(
            f"a {getattr(model, 'model_type', None)} cannot be trained on packed rows; expected one of "
            f"{', '.join(LAYERED_KINDS)}, or one text per row"
        )
    if how.trunk is not None:
        x, blocks = how.trunk.states(batch), inner.layers[how.trunk.depth :]
    else:
        inputs, blocks = mx.array(batch.inputs), inner.layers
        if not (_is_layered(model) or (how.dropout and model.training)):
            hidden = inner(inputs)
            return hidden if chosen is None else hidden.reshape(-1, hidden.shape[-1])[chosen]
        x = inner.embed_tokens(inputs)
    return inner.norm(_run_blocks(blocks, x, how, packing, chosen, keep=not how.recompute))


def packing_of(batch: TrainBatch) -> Packing | None:
    """Return the segments and positions of a batch; None if every row is one text from position 0."""
    if batch.segment_ids is None and batch.position_ids is None:
        return None
    shape = batch.inputs.shape
    segments = np.zeros(shape, np.int32) if batch.segment_ids is None else batch.segment_ids
    places = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    positions = places if batch.position_ids is None else batch.position_ids
    return Packing(segments, positions, batch.visible)


def _is_layered(model: nn.Module) -> bool:
    return getattr(model, "model_type", None) in LAYERED_KINDS


def _run_blocks(
    blocks: Sequence[Any],
    x: mx.array,
    how: BodyPass,
    packing: Packing | None,
    chosen: mx.array | None = None,
    *,
    keep: bool,
) -> mx.array:
    """Run some blocks; without `keep`, nothing but their inputs is stored for the gradient."""
    mask: mx.array | str | None = "causal" if x.shape[1] > 1 else None
    if all(isinstance(block, cpu_kernels.FusedBlock) for block in blocks):
        for block in blocks:
            picked = chosen if block is blocks[-1] else None
            x = block(x, mask, dropout=how.dropout, chosen=picked, packing=packing, keep=keep)
        return x
    drop, positions = nn.Dropout(how.dropout), None
    if packing:
        mask, positions = packing.mask(), mx.array(packing.positions)
    for block in blocks:

        def run(x: mx.array, block: Any = block) -> mx.array:
            if isinstance(block, TransformerBlock):
                return block(x, mask, None, positions)
            with packing.placed(block.self_attn) if packing else nullcontext():
                return block(x, mask)

        y = (cpu_kernels.recomputed(block, run) if block.training and not keep else run)(x)
        x = x + drop(y - x) if how.dropout and block.training else y
    return x if chosen is None else x.reshape(-1, x.shape[-1])[chosen]

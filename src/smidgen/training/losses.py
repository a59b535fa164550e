"""Building blocks of objectives: hidden states, and the loss of every trained token."""

from contextlib import nullcontext
from typing import Any

import numpy as np

from smidgen import cpu_kernels
from smidgen.backend import device, mx, nn
from smidgen.cpu_kernels import Packing
from smidgen.errors import ModelError
from smidgen.models.graph import body, head, head_weight
from smidgen.training.batches import TrainBatch

HEAD_CHUNK = 2048
"""Positions whose logits exist at the same time on a GPU: 2048 x 151,936 fp32 is 1.2 GB."""
PACKABLE = ("llama", "qwen2", "qwen3")
"""Architectures whose attention depends only on the mask and the rotary embedding, so rows can be packed."""

MASKED_ROW = 512
"""Tokens of a packed row whose attention needs a mask."""
ONE_ROW = 1 << 30
"""The same without a mask: no limit."""


def trained_token_losses(model: nn.Module, batch: TrainBatch, dropout: float = 0.0) -> mx.array:
    """Return -ln p(token) in nats of each trained token of a batch, (trained_tokens,) float32, unweighted.

    The token at t is predicted from the hidden state at t - 1; the head runs only on trained positions.

    Raises:
        ModelError: rows are packed, which the architecture does not support.
    """
    targets, chosen = batch.targets, None
    if batch.positions is not None:
        # On a GPU, recurring sizes (reused buffers) are worth a few padded positions.
        count = batch.trained_tokens if device().kind == "cpu" else len(targets)
        targets, chosen = targets[:count], mx.array(batch.positions[:count])
    hidden = hidden_states(model, mx.array(batch.inputs), dropout, chosen, packing_of(batch))
    hidden = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
    frozen = not head(model).trainable_parameters()
    losses = token_losses(hidden, head_weight(model), mx.array(targets), weight_frozen=frozen)
    return losses[: batch.trained_tokens]


def packed_length(model: nn.Module) -> int | None:
    """Return the maximum tokens of a row of packed texts; None if the architecture does not allow packing.

    The kernels of the CPU treat every text apart, so one row can hold a whole batch; other layers need a mask
    of the row's length squared.
    """
    if getattr(model, "model_type", None) not in PACKABLE:
        return None
    blocks = body(model).layers
    return ONE_ROW if all(cpu_kernels.fuses(block) for block in blocks) else MASKED_ROW


def packing_of(batch: TrainBatch) -> Packing | None:
    """Return the segments and positions of a batch; None if every row is one text from position 0."""
    if batch.segment_ids is None and batch.position_ids is None:
        return None
    shape = batch.inputs.shape
    segments = np.zeros(shape, np.int32) if batch.segment_ids is None else batch.segment_ids
    places = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return Packing(segments, places if batch.position_ids is None else batch.position_ids)


def hidden_states(
    model: nn.Module,
    inputs: mx.array,
    dropout: float = 0.0,
    chosen: mx.array | None = None,
    packing: Packing | None = None,
) -> mx.array:
    """Return hidden states before the head for inputs (B, L).

    `dropout` applies to the output of every block before it is added to the residual stream, in training mode
    only. With `packing`, tokens attend within their own text.

    Returns:
        (B, L, D), or (n, D) at the chosen positions (n,) of the flattened batch.

    Raises:
        ModelError: there is a `packing`, which the architecture does not support.
    """
    inner, kind = body(model), getattr(model, "model_type", None)
    if packing is not None and kind not in PACKABLE:
        raise ModelError(
            f"a {kind} cannot be trained on packed rows; expected one of {', '.join(PACKABLE)}, or one text "
            "per row"
        )
    if all(isinstance(layer, cpu_kernels.FusedBlock) for layer in inner.layers):
        x = inner.embed_tokens(inputs)
        mask = "causal" if inputs.shape[1] > 1 else None
        for layer in inner.layers[:-1]:
            x = layer(x, mask, dropout=dropout, packing=packing)
        return inner.norm(inner.layers[-1](x, mask, dropout=dropout, chosen=chosen, packing=packing))
    dropout = dropout if model.training else 0.0
    hidden = _layer_by_layer(inner, inputs, dropout, packing) if dropout or packing else inner(inputs)
    return hidden if chosen is None else hidden.reshape(-1, hidden.shape[-1])[chosen]


def _layer_by_layer(inner: Any, inputs: mx.array, dropout: float, packing: Packing | None) -> mx.array:
    """Run the body with dropout on the output of its blocks and attention within texts."""
    drop = nn.Dropout(dropout)
    x = inner.embed_tokens(inputs)
    mask = "causal" if inputs.shape[1] > 1 else None
    mask = packing.mask() if packing else mask
    for layer in inner.layers:
        with packing.placed(layer.self_attn) if packing else nullcontext():
            y = layer(x, mask)
        x = x + drop(y - x) if dropout else y
    return inner.norm(x)


def token_losses(
    hidden: mx.array, weight: mx.array, targets: mx.array, *, weight_frozen: bool = False
) -> mx.array:
    """Return -ln p(target), (N,) float32, for hidden (N, D), a head (V, D) and targets (N,) int32.

    With `weight_frozen`, the gradient of the head is not computed.
    """
    if device().kind == "cpu":
        return cpu_kernels.linear_cross_entropy(hidden, weight, targets, weight_frozen=weight_frozen)
    chunks = [slice(start, start + HEAD_CHUNK) for start in range(0, targets.size, HEAD_CHUNK)]
    return mx.concatenate([_recomputed_losses(hidden[part], weight, targets[part]) for part in chunks])


def _recomputed_losses(hidden: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    """Return losses whose logits are recomputed in the backward pass instead of being stored."""

    def losses(hidden: mx.array, weight: mx.array) -> mx.array:
        return nn.losses.cross_entropy((hidden @ weight.T).astype(mx.float32), targets)

    return mx.checkpoint(losses)(hidden, weight)

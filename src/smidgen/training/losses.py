"""What objectives are made of: hidden states, and the losses of the trained tokens where they are learnt."""

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
"""Positions whose logits exist at one time off the CPU: 2048 x 151,936 fp32 is 1.2 GB."""
PACKABLE = ("llama", "qwen2", "qwen3")
"""Architectures whose layers attend by nothing but the mask and the rotary embedding that they are given."""


def trained_token_losses(model: nn.Module, batch: TrainBatch, dropout: float = 0.0) -> mx.array:
    """Return -ln p(token) in nats of each trained token of a batch, (trained_tokens,) float32, unweighted.

    The token at t is predicted from the hidden state at t - 1; the head sees only positions that are learnt.

    Raises:
        ModelError: rows hold several texts, and the architecture cannot keep them apart.
    """
    targets, chosen = batch.targets, None
    if batch.positions is not None:
        # Off the CPU sizes that recur are worth their few spare positions.
        count = batch.trained_tokens if device().kind == "cpu" else len(targets)
        targets, chosen = targets[:count], mx.array(batch.positions[:count])
    hidden = hidden_states(model, mx.array(batch.inputs), dropout, chosen, packing_of(batch))
    hidden = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
    frozen = not head(model).trainable_parameters()
    losses = token_losses(hidden, head_weight(model), mx.array(targets), weight_frozen=frozen)
    return losses[: batch.trained_tokens]


def packing_of(batch: TrainBatch) -> Packing | None:
    """Return which tokens of a batch belong together; None where every row is one text from position 0."""
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

    With `dropout`, and while the model is in training mode, what every block adds to the residual stream goes
    through it. With `packing`, tokens attend within their own text.

    Returns:
        (B, L, D), or (n, D) of the chosen positions (n,) in the flattened batch.

    Raises:
        ModelError: there is a `packing`, and the architecture cannot follow it.
    """
    inner, kind = body(model), getattr(model, "model_type", None)
    if packing is not None and kind not in PACKABLE:
        raise ModelError(
            f"a {kind} cannot learn rows that hold several texts; expected one of {', '.join(PACKABLE)}, or "
            "one text a row"
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
    """What the body computes with dropout between its blocks and attention within texts."""
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

    A head that is not trained need not be differentiated, which `weight_frozen` tells.
    """
    if device().kind == "cpu":
        return cpu_kernels.linear_cross_entropy(hidden, weight, targets, weight_frozen=weight_frozen)
    chunks = [slice(start, start + HEAD_CHUNK) for start in range(0, targets.size, HEAD_CHUNK)]
    return mx.concatenate([_recomputed_losses(hidden[part], weight, targets[part]) for part in chunks])


def _recomputed_losses(hidden: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    """Losses whose logits are computed again for the gradient instead of kept."""

    def losses(hidden: mx.array, weight: mx.array) -> mx.array:
        return nn.losses.cross_entropy((hidden @ weight.T).astype(mx.float32), targets)

    return mx.checkpoint(losses)(hidden, weight)

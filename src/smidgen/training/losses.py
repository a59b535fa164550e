"""The negative log-likelihood of the trained tokens, computed only where a token is learnt."""

from typing import Any

from smidgen import cpu_kernels
from smidgen.backend import device, mx, nn
from smidgen.models.graph import body, head, head_weight
from smidgen.training.batches import Batch

HEAD_CHUNK = 2048
"""Positions whose logits exist at one time off the CPU: 2048 x 151,936 fp32 is 1.2 GB."""


def negative_log_likelihood(model: nn.Module, batch: Batch, dropout: float = 0.0) -> mx.array:
    """Return the sum of -ln p(token) in nats over the trained tokens of a batch, a float32 scalar.

    The token at t is predicted from the hidden state at t - 1; the head sees only positions that are learnt.
    """
    targets, chosen = batch.targets, None
    if batch.positions is not None:
        # Off the CPU sizes that recur are worth their few spare positions.
        count = batch.trained_tokens if device().kind == "cpu" else len(targets)
        targets, chosen = targets[:count], mx.array(batch.positions[:count])
    hidden = hidden_states(model, mx.array(batch.inputs), dropout, chosen)
    hidden = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
    frozen = not head(model).trainable_parameters()
    losses = token_losses(hidden, head_weight(model), mx.array(targets), weight_frozen=frozen)
    return losses[: batch.trained_tokens].sum()


def hidden_states(
    model: nn.Module, inputs: mx.array, dropout: float = 0.0, chosen: mx.array | None = None
) -> mx.array:
    """Return hidden states before the head for inputs (B, L).

    With `dropout`, and while the model is in training mode, what every block adds to the residual stream goes
    through it.

    Returns:
        (B, L, D), or (n, D) of the chosen positions (n,) in the flattened batch.
    """
    inner = body(model)
    if all(isinstance(layer, cpu_kernels.FusedBlock) for layer in inner.layers):
        x = inner.embed_tokens(inputs)
        mask = "causal" if inputs.shape[1] > 1 else None
        for layer in inner.layers[:-1]:
            x = layer(x, mask, dropout=dropout)
        return inner.norm(inner.layers[-1](x, mask, dropout=dropout, chosen=chosen))
    hidden = inner(inputs) if dropout == 0 or not model.training else _dropped_out(inner, inputs, dropout)
    return hidden if chosen is None else hidden.reshape(-1, hidden.shape[-1])[chosen]


def _dropped_out(inner: Any, inputs: mx.array, dropout: float) -> mx.array:
    """What the body computes with dropout between its blocks."""
    drop = nn.Dropout(dropout)
    x = inner.embed_tokens(inputs)
    mask = "causal" if inputs.shape[1] > 1 else None
    for layer in inner.layers:
        x = x + drop(layer(x, mask) - x)
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

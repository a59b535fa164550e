"""Building blocks of objectives: the loss of every trained token."""

from smidgen import cpu_kernels
from smidgen.backend import device, mx, nn
from smidgen.models.graph import HEAD_CHUNK, head, head_weight
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass, hidden_states


def trained_token_losses(model: nn.Module, batch: TrainBatch, how: BodyPass | None = None) -> mx.array:
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
    hidden = hidden_states(model, batch, how, chosen)
    hidden = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
    frozen = not head(model).trainable_parameters()
    losses = token_losses(hidden, head_weight(model), mx.array(targets), weight_frozen=frozen)
    return losses[: batch.trained_tokens]


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

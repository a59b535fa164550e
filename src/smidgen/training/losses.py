"""Building blocks of objectives: the losses of every trained token."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from smidgen import cpu_kernels
from smidgen.backend import device, mx, nn
from smidgen.cpu_kernels import DistillationLoss, Mixing, TeacherStates, TopTargets
from smidgen.models.graph import HEAD_CHUNK, head, head_weight
from smidgen.training.batches import TrainBatch
from smidgen.training.hidden import BodyPass, hidden_states


class TrainedStates(NamedTuple):
    """The hidden states that the head reads in training.

    Attributes:
        hidden: (n, D), at the trained positions. On a GPU n is padded to a recurring size.
        targets: (n,) int32, the next tokens.
    """

    hidden: mx.array
    targets: np.ndarray


def trained_states(model: nn.Module, batch: TrainBatch, how: BodyPass | None = None) -> TrainedStates:
    """Return the hidden states at the trained positions of a batch.

    Raises:
        ModelError: rows are packed, which the architecture does not support.
    """
    count = num_states(batch)
    chosen = None if batch.positions is None else mx.array(batch.positions[:count])
    hidden = hidden_states(model, batch, how, chosen)
    return TrainedStates(hidden.reshape(-1, hidden.shape[-1]), batch.targets[:count])


def num_states(batch: TrainBatch) -> int:
    """Return the number of trained positions that the head reads.

    On a GPU, recurring sizes (reused buffers) are worth a few padded positions.
    """
    return batch.trained_tokens if device().kind == "cpu" else len(batch.targets)


def trained_token_losses(model: nn.Module, batch: TrainBatch, how: BodyPass | None = None) -> mx.array:
    """Return -ln p(token) in nats of each trained token of a batch, (trained_tokens,) float32, unweighted.

    The token at t is predicted from the hidden state at t - 1; the head runs only on trained positions.

    Raises:
        ModelError: rows are packed, which the architecture does not support.
    """
    hidden, targets = trained_states(model, batch, how)
    losses = token_losses(hidden, head_weight(model), mx.array(targets), weight_frozen=has_frozen_head(model))
    return losses[: batch.trained_tokens]


def has_frozen_head(model: nn.Module) -> bool:
    """Whether the head is not trained."""
    return not head(model).trainable_parameters()


def token_losses(
    hidden: mx.array, weight: mx.array, targets: mx.array, *, weight_frozen: bool = False
) -> mx.array:
    """Return -ln p(target), (N,) float32, for hidden (N, D), a head (V, D) and targets (N,) int32.

    With `weight_frozen`, the gradient of the head is not computed.
    """
    if device().kind == "cpu":
        return cpu_kernels.linear_cross_entropy(hidden, weight, targets, weight_frozen=weight_frozen)
    parts = [
        _recomputed(hidden[part], weight, partial(_cross_entropy, targets=targets[part]))
        for part in _chunks(targets.size)
    ]
    return mx.concatenate(parts)


def distillation_losses(
    states: TrainedStates,
    weight: mx.array,
    teacher: TeacherStates | TopTargets,
    mixing: Mixing,
    *,
    weight_frozen: bool = False,
) -> mx.array:
    """Return the mixed loss, the cross-entropy and the divergence of each token, (3, n) float32, in nats.

    Only the mixed loss has a gradient. The logits of both models exist for a chunk of tokens at a time.

    Args:
        states: the student's states, (n, D), and targets.
        weight: the student's head, (V, D).
        teacher: the teacher's states at the same positions, or its most probable tokens there.
        mixing: temperature, direction and share of the cross-entropy.
        weight_frozen: skip the gradient of the head.
    """
    hidden, targets = states
    arrays = [hidden, weight, *(teacher if isinstance(teacher, TeacherStates) else ())]
    if cpu_kernels.usable(*arrays) and targets.size:
        loss = DistillationLoss(targets, teacher, mixing)
        return cpu_kernels.linear_losses(hidden, weight, loss, weight_frozen=weight_frozen)
    parts = [mx.zeros((3, 0))]
    for part in _chunks(targets.size):
        if isinstance(teacher, TeacherStates):
            divergence = partial(
                _against_whole, teacher=TeacherStates(teacher.hidden[part], teacher.weight), mixing=mixing
            )
        else:
            divergence = partial(
                _against_top, teacher=TopTargets(*(array[part] for array in teacher)), mixing=mixing
            )
        mixed = partial(_mixed, targets=mx.array(targets[part]), divergence=divergence, mixing=mixing)
        parts.append(_recomputed(hidden[part], weight, mixed))
    return mx.concatenate(parts, axis=1)


def top_targets(states: TeacherStates, count: int, temperature: float) -> TopTargets:
    """Return the `count` most probable tokens of a teacher at a temperature, and the probability left out."""
    if cpu_kernels.usable(*states):
        return cpu_kernels.top_targets(states, count, temperature)
    found = []
    for part in _chunks(states.hidden.shape[0]):
        logits = (states.hidden[part] @ states.weight.T).astype(mx.float32) / temperature
        ids = mx.argpartition(logits, -count, axis=1)[:, -count:]
        logs, rest = _outcomes(logits, ids)
        found.append([np.array(array) for array in (ids.astype(mx.int32), logs, rest)])
    return TopTargets(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + HEAD_CHUNK, count)) for start in range(0, count, HEAD_CHUNK)]


def _recomputed(hidden: mx.array, weight: mx.array, of_logits: Callable[[mx.array], mx.array]) -> mx.array:
    """Return losses whose logits are recomputed in the backward pass instead of being stored."""

    def losses(hidden: mx.array, weight: mx.array) -> mx.array:
        return of_logits((hidden @ weight.T).astype(mx.float32))

    return mx.checkpoint(losses)(hidden, weight)


def _cross_entropy(logits: mx.array, *, targets: mx.array) -> mx.array:
    return nn.losses.cross_entropy(logits, targets)


def _mixed(
    logits: mx.array, *, targets: mx.array, divergence: Callable[[mx.array], mx.array], mixing: Mixing
) -> mx.array:
    """Return the mixed loss, the cross-entropy and the divergence of logits (n, V), (3, n)."""
    hard, soft = _cross_entropy(logits, targets=targets), divergence(logits / mixing.temperature)
    share = mixing.hard_weight
    return mx.stack([share * hard + (1 - share) * mixing.temperature**2 * soft, hard, soft])


def _against_whole(logits: mx.array, *, teacher: TeacherStates, mixing: Mixing) -> mx.array:
    """Return the divergence (n,) of scaled logits (n, V) from those of a teacher's states."""
    words = min(logits.shape[1], teacher.weight.shape[0])
    theirs = (teacher.hidden @ teacher.weight[:words].T).astype(mx.float32) / mixing.temperature
    likely, expected = (
        array - mx.logsumexp(array, axis=1, keepdims=True) for array in (logits[:, :words], theirs)
    )
    return _divergence(likely, expected, mixing)


def _against_top(logits: mx.array, *, teacher: TopTargets, mixing: Mixing) -> mx.array:
    """Return the divergence (n,) of scaled logits (n, V) from a teacher's most probable tokens."""
    ids, logs, rest = map(mx.array, teacher)
    likely, likely_rest = _outcomes(logits, ids)
    if ids.shape[1] == logits.shape[1]:
        return _divergence(likely, logs, mixing)
    likely = mx.concatenate([likely, likely_rest[:, None]], axis=1)
    return _divergence(likely, mx.concatenate([logs, rest[:, None]], axis=1), mixing)


def _outcomes(logits: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
    """Return log-probabilities of some tokens, (n, k), and of all others together, (n,)."""
    whole = mx.logsumexp(logits, axis=1, keepdims=True)
    chosen = mx.take_along_axis(logits, ids, axis=1) - whole
    if ids.shape[1] == logits.shape[1]:
        return chosen, mx.full(logits.shape[:1], -mx.inf)
    others = mx.put_along_axis(logits, ids, mx.array(-mx.inf), axis=1)
    return chosen, mx.logsumexp(others, axis=1) - whole[:, 0]


def _divergence(likely: mx.array, expected: mx.array, mixing: Mixing) -> mx.array:
    """Return the divergence (n,) of two distributions from their log-probabilities (n, outcomes)."""
    first, second = (likely, expected) if mixing.reverse else (expected, likely)
    return (mx.exp(first) * (first - second)).sum(axis=1)

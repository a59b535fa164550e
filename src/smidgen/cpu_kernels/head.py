"""The head with its cross-entropy: per-token losses whose logits never exist all at once.

Logits are computed a second time in the gradient, chunk by chunk, as in Cut Cross-Entropy
(https://arxiv.org/abs/2411.09009).
"""

from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import mx, nn
from smidgen.cpu_kernels.team import new, product, scratch, team, usable, view

LOGITS = 1 << 20
"""Logits that exist at one time, where a single token has no more."""


def linear_cross_entropy(
    hidden: mx.array, weight: mx.array, targets: mx.array, *, weight_frozen: bool = False
) -> mx.array:
    """Return -ln softmax(hidden weightᵀ)[target] of each token, without storing the logits.

    Args:
        hidden: (N, D) float32.
        weight: the head's matrix, (V, D) float32.
        targets: (N,) integers.
        weight_frozen: spare the gradient of `weight`, which is then zero.

    Returns:
        (N,) float32, in nats.
    """
    if targets.size == 0:
        return hidden.sum(axis=-1).astype(mx.float32)
    if not usable(hidden, weight):
        return nn.losses.cross_entropy((hidden @ weight.T).astype(mx.float32), targets)
    return _function(weight_frozen)(hidden, weight, targets)[0]


@lru_cache(2)
def _function(weight_frozen: bool) -> Any:
    @mx.custom_function
    def cross_entropy(hidden: mx.array, weight: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        return _Head(hidden, weight, targets).losses()

    @cross_entropy.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        head = _Head(*primals)
        return *head.gradients(outputs[1], cotangents[0], weight_frozen), mx.zeros_like(primals[2])

    return cross_entropy


class _Head:
    """The head's arrays as numpy views, and its work over chunks of tokens."""

    def __init__(self, hidden: mx.array, weight: mx.array, targets: mx.array) -> None:
        mx.eval(hidden, weight, targets)
        self.hidden, self.weight, self.targets = view(hidden), view(weight), np.array(targets)
        self.tokens, self.vocabulary = hidden.shape[0], weight.shape[0]
        self.chunk = max(1, min(self.tokens, LOGITS // self.vocabulary))

    def losses(self) -> tuple[mx.array, mx.array]:
        """Loss and log-sum-exp of each token."""
        loss, losses = new(self.tokens)
        logsumexp, log_totals = new(self.tokens)
        tile = -(-self.chunk // team().size)

        def work(piece: int) -> None:
            rows = slice(piece * tile, min((piece + 1) * tile, self.tokens))
            hidden = self.hidden[rows]
            logits = product(hidden, self.weight.T, scratch("logits", len(hidden), self.vocabulary))
            chosen = logits[np.arange(len(hidden)), self.targets[rows]]
            highest = np.maximum.reduce(logits, axis=1, keepdims=True)
            logits -= highest
            np.exp(logits, out=logits)
            totals = np.add.reduce(logits, axis=1)
            log_totals[rows] = np.log(totals) + highest[:, 0]
            losses[rows] = log_totals[rows] - chosen

        team().run(work, -(-self.tokens // tile))
        return loss, logsumexp

    def gradients(
        self, logsumexp: mx.array, dloss: mx.array, weight_frozen: bool
    ) -> tuple[mx.array, mx.array]:
        """Gradients of `hidden` and `weight`."""
        mx.eval(logsumexp, dloss)
        self.log_totals, self.dlosses = view(logsumexp), np.array(dloss)
        out_hidden, self.dhidden = new(*self.hidden.shape)
        out_weight, self.dweight = new(*self.weight.shape)
        self.dlogits = scratch("all dlogits", self.chunk, self.vocabulary)
        for start in range(0, self.tokens, self.chunk):
            self._chunk_gradients(slice(start, min(start + self.chunk, self.tokens)), weight_frozen)
        return out_hidden, out_weight

    def _chunk_gradients(self, chunk: slice, weight_frozen: bool) -> None:
        """Write the gradient of a chunk of tokens and add to the weight's; no two threads add to one row."""
        size = chunk.stop - chunk.start
        tile = -(-size // team().size)
        span = -(-self.vocabulary // team().size)

        def per_token(piece: int) -> None:
            inside = slice(piece * tile, min((piece + 1) * tile, size))
            rows = slice(chunk.start + inside.start, chunk.start + inside.stop)
            out = product(self.hidden[rows], self.weight.T, self.dlogits[inside])
            out -= self.log_totals[rows, None]
            np.exp(out, out=out)
            out[np.arange(len(out)), self.targets[rows]] -= 1
            out *= self.dlosses[rows, None]
            product(out, self.weight, self.dhidden[rows])

        def per_word(piece: int) -> None:
            words = slice(piece * span, min((piece + 1) * span, self.vocabulary))
            product(self.dlogits[:size, words].T, self.hidden[chunk], self.dweight[words], beta=1.0)

        team().run(per_token, -(-size // tile))
        if not weight_frozen:
            team().run(per_word, -(-self.vocabulary // span))

"""The head with its cross-entropy, over chunks of tokens.

The gradient reuses the probabilities if they are few enough to be kept, and recomputes them otherwise, as Cut
Cross-Entropy does (https://arxiv.org/abs/2411.09009), so memory is bounded whatever the vocabulary size.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import mx, nn
from smidgen.cpu_kernels.team import new, product, scratch, team, usable, view

LOGITS = 1 << 22
"""Maximum logits of a chunk of tokens, unless a single token has more."""
KEPT = 1 << 24
"""Maximum number of probabilities that are kept for the gradient: 64 MB."""


def keeps(tokens: int, vocabulary: int) -> bool:
    """Whether the probabilities are kept for the gradient instead of being computed again."""
    return tokens * vocabulary <= KEPT


def linear_cross_entropy(
    hidden: mx.array, weight: mx.array, targets: mx.array, *, weight_frozen: bool = False
) -> mx.array:
    """Return -ln softmax(hidden weightᵀ)[target] of each token in bounded memory.

    Args:
        hidden: (N, D) float32.
        weight: the head's matrix, (V, D) float32.
        targets: (N,) integers.
        weight_frozen: skip the gradient of `weight`, which is then zero.

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
    def cross_entropy(hidden: mx.array, weight: mx.array, targets: mx.array) -> tuple[mx.array, ...]:
        return _Head(hidden, weight, targets).losses()

    @cross_entropy.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        head = _Head(*primals)
        return *head.gradients(outputs, cotangents[0], weight_frozen), mx.zeros_like(primals[2])

    return cross_entropy


class _Head:
    """The head's arrays as numpy views, and its computation over chunks of tokens."""

    def __init__(self, hidden: mx.array, weight: mx.array, targets: mx.array) -> None:
        mx.eval(hidden, weight, targets)
        self.hidden, self.weight, self.targets = view(hidden), view(weight), np.array(targets)
        self.tokens, self.vocabulary = hidden.shape[0], weight.shape[0]
        self.chunk = max(1, min(self.tokens, LOGITS // self.vocabulary))
        self.keeps = keeps(self.tokens, self.vocabulary)

    def losses(self) -> tuple[mx.array, ...]:
        """Return loss and log-sum-exp per token, and softmax minus one-hot targets, (N, V), if kept."""
        outputs = new(
            {
                "loss": (self.tokens,),
                "logsumexp": (self.tokens,),
                "errors": (self.tokens if self.keeps else 0, self.vocabulary),
            }
        )
        losses, log_totals, errors = (view(array) for array in outputs.values())
        tile = -(-self.chunk // team().size)

        def work(piece: int) -> None:
            rows = slice(piece * tile, min((piece + 1) * tile, self.tokens))
            hidden = self.hidden[rows]
            logits = errors[rows] if self.keeps else scratch("logits", len(hidden), self.vocabulary)
            product(hidden, self.weight.T, logits)
            target = np.arange(len(hidden)), self.targets[rows]
            chosen = logits[target]
            highest = np.maximum.reduce(logits, axis=1, keepdims=True)
            logits -= highest
            np.exp(logits, out=logits)
            totals = np.add.reduce(logits, axis=1)
            log_totals[rows] = np.log(totals) + highest[:, 0]
            losses[rows] = log_totals[rows] - chosen
            if self.keeps:
                logits /= totals[:, None]
                logits[target] -= 1

        team().run(work, -(-self.tokens // tile))
        return tuple(outputs.values())

    def gradients(
        self, outputs: tuple[mx.array, ...], dloss: mx.array, weight_frozen: bool
    ) -> tuple[mx.array, mx.array]:
        """Return the gradients of `hidden` and `weight`; `outputs` are those of `losses`."""
        mx.eval(outputs, dloss)
        _, self.log_totals, self.errors = (view(array) for array in outputs)
        self.dlosses = np.array(dloss)
        gradients = new(
            {"hidden": self.hidden.shape} | ({} if weight_frozen else {"weight": self.weight.shape})
        )
        self.dhidden = view(gradients["hidden"])
        self.dweight = self.dhidden[:0] if weight_frozen else view(gradients["weight"])
        self.dlogits = scratch("all dlogits", self.chunk, self.vocabulary)
        for start in range(0, self.tokens, self.chunk):
            self._chunk_gradients(slice(start, min(start + self.chunk, self.tokens)), weight_frozen)
        return gradients["hidden"], gradients.get("weight", mx.zeros(self.weight.shape))

    def _chunk_gradients(self, chunk: slice, weight_frozen: bool) -> None:
        """Write the gradient of a chunk of tokens and add to the weight's; each row has one thread."""
        size = chunk.stop - chunk.start
        tile = -(-size // team().size)
        span = -(-self.vocabulary // team().size)

        def per_token(piece: int) -> None:
            inside = slice(piece * tile, min((piece + 1) * tile, size))
            rows = slice(chunk.start + inside.start, chunk.start + inside.stop)
            out = self.dlogits[inside]
            if self.keeps:
                np.multiply(self.errors[rows], self.dlosses[rows, None], out=out)
            else:
                product(self.hidden[rows], self.weight.T, out)
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

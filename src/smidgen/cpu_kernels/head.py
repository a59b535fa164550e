"""The head with a loss of its logits, over chunks of tokens.

The gradient reuses the derivatives by the logits if they are few enough to be kept, and recomputes them
otherwise, as Cut Cross-Entropy does (https://arxiv.org/abs/2411.09009), so memory is bounded whatever the
vocabulary size.
"""

from typing import Any, Protocol

import numpy as np

from smidgen.backend import mx, nn
from smidgen.cpu_kernels.team import Array, new, product, scratch, team, usable, view

LOGITS = 1 << 22
"""Maximum logits of a chunk of tokens, unless a single token has more."""
KEPT = 1 << 24
"""Maximum number of derivatives that are kept for the gradient: 64 MB."""


class TokenLoss(Protocol):
    """A loss of every token's logits."""

    num_values: int
    """Values per token; the first is the loss that has a gradient."""

    def derive(self, rows: slice, logits: Array) -> tuple[Array, ...]:
        """Replace the logits (n, V) of some tokens by the derivatives of their losses; return their values.

        It is called by several threads, each with other tokens.
        """
        ...


class CrossEntropy:
    """-ln softmax(logits)[target]."""

    num_values = 1

    def __init__(self, targets: np.ndarray) -> None:
        self._targets = targets

    def derive(self, rows: slice, logits: Array) -> tuple[Array, ...]:
        """Return (n,) losses, in nats."""
        target = np.arange(len(logits)), self._targets[rows]
        chosen = logits[target]
        highest = np.maximum.reduce(logits, axis=1, keepdims=True)
        logits -= highest
        np.exp(logits, out=logits)
        totals = np.add.reduce(logits, axis=1)
        logits /= totals[:, None]
        logits[target] -= 1
        return (np.log(totals) + highest[:, 0] - chosen,)


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
    return linear_losses(hidden, weight, CrossEntropy(np.array(targets)), weight_frozen=weight_frozen)[0]


def linear_losses(
    hidden: mx.array, weight: mx.array, loss: TokenLoss, *, weight_frozen: bool = False
) -> mx.array:
    """Return the values of a loss for each token, (num_values, N) float32, in bounded memory.

    Only the first has a gradient. Arguments are those of `linear_cross_entropy`, with arrays that `usable`
    accepts.
    """

    @mx.custom_function
    def losses(hidden: mx.array, weight: mx.array) -> tuple[mx.array, ...]:
        return _Head(hidden, weight, loss).losses()

    @losses.vjp
    def gradient(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        hidden, weight = primals
        return _Head(hidden, weight, loss).gradients(outputs[1], cotangents[0][0], weight_frozen)

    found: Any = losses(hidden, weight)
    return found[0]


class _Head:
    """The head's arrays as numpy views, and its computation over chunks of tokens."""

    def __init__(self, hidden: mx.array, weight: mx.array, loss: TokenLoss) -> None:
        mx.eval(hidden, weight)
        self.hidden, self.weight, self.loss = view(hidden), view(weight), loss
        self.tokens, self.vocabulary = hidden.shape[0], weight.shape[0]
        self.chunk = max(1, min(self.tokens, LOGITS // self.vocabulary))
        self.keeps = keeps(self.tokens, self.vocabulary)

    def losses(self) -> tuple[mx.array, ...]:
        """Return the values of each token, and the derivatives by the logits, (N, V), if kept."""
        outputs = new(
            {
                "values": (self.loss.num_values, self.tokens),
                "derivatives": (self.tokens if self.keeps else 0, self.vocabulary),
            }
        )
        values, kept = (view(array) for array in outputs.values())
        tile = -(-self.chunk // team().size)

        def work(piece: int) -> None:
            rows = slice(piece * tile, min((piece + 1) * tile, self.tokens))
            hidden = self.hidden[rows]
            logits = kept[rows] if self.keeps else scratch("logits", len(hidden), self.vocabulary)
            product(hidden, self.weight.T, logits)
            for row, found in enumerate(self.loss.derive(rows, logits)):
                values[row, rows] = found

        team().run(work, -(-self.tokens // tile))
        return tuple(outputs.values())

    def gradients(self, kept: mx.array, dloss: mx.array, weight_frozen: bool) -> tuple[mx.array, mx.array]:
        """Return the gradients of `hidden` and `weight`; `kept` are those by the logits, of `losses`."""
        mx.eval(kept, dloss)
        self.derivatives = view(kept)
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
                np.multiply(self.derivatives[rows], self.dlosses[rows, None], out=out)
            else:
                product(self.hidden[rows], self.weight.T, out)
                self.loss.derive(rows, out)
                out *= self.dlosses[rows, None]
            product(out, self.weight, self.dhidden[rows])

        def per_word(piece: int) -> None:
            words = slice(piece * span, min((piece + 1) * span, self.vocabulary))
            product(self.dlogits[:size, words].T, self.hidden[chunk], self.dweight[words], beta=1.0)

        team().run(per_token, -(-size // tile))
        if not weight_frozen:
            team().run(per_word, -(-self.vocabulary // span))

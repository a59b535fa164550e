"""The loss of a student's logits against a teacher's probabilities, and the teacher's most probable tokens.

Per token it is h · NLL + (1 - h) · T² · KL: cross-entropy with the text, and the Kullback-Leibler divergence
between teacher p and student q at temperature T (https://arxiv.org/abs/1503.02531; T² keeps the gradient's
size the same for every T). Forward is KL(p‖q), reverse KL(q‖p) (https://arxiv.org/abs/2306.08543).

Of the teacher's distribution only the k most probable tokens may be known, with the probability left out.
All other tokens are then one outcome, for the student too: the divergence is at most that of the whole
distributions, grows with k and equals it with all tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smidgen.backend import mx
from smidgen.cpu_kernels.head import LOGITS, CrossEntropy
from smidgen.cpu_kernels.team import Array, product, scratch, team, view


@dataclass(frozen=True)
class Mixing:
    """How the divergence is measured and mixed with the cross-entropy.

    Attributes:
        temperature: T, which divides the logits of both models.
        reverse: KL(q‖p) instead of KL(p‖q).
        hard_weight: h, the share of the cross-entropy.
    """

    temperature: float = 1.0
    reverse: bool = False
    hard_weight: float = 0.5


class TeacherStates(NamedTuple):
    """A teacher's final hidden states (N, D) and its head (V, D), which make its logits in turn."""

    hidden: mx.array
    weight: mx.array


class TopTargets(NamedTuple):
    """A teacher's most probable tokens for each of N tokens.

    Attributes:
        ids: (N, k) int32.
        logprobs: (N, k) float32, at the temperature of the loss.
        rest: (N,) float32, log of the probability of all other tokens together.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    rest: np.ndarray


class DistillationLoss:
    """A `TokenLoss` whose values are the mixed loss, the cross-entropy and the divergence, in nats.

    Tokens that only one of two padded vocabularies has are left out of the divergence.

    Args:
        targets: (N,) integers, the next tokens.
        teacher: the teacher's distribution for each of them.
        mixing: how they are mixed.
    """

    num_values = 3

    def __init__(self, targets: np.ndarray, teacher: TeacherStates | TopTargets, mixing: Mixing) -> None:
        self._cross_entropy, self._mixing = CrossEntropy(targets), mixing
        if isinstance(teacher, TeacherStates):
            mx.eval(teacher)
            self._states = view(teacher.hidden), view(teacher.weight)
        else:
            self._states = None
            self._top = teacher

    def derive(self, rows: slice, logits: Array) -> tuple[Array, ...]:
        """Return losses, cross-entropies and divergences, (n,) each."""
        words = logits.shape[1]
        if self._states is not None:
            words = min(words, len(self._states[1]))
        soft = scratch("student", len(logits), words)
        np.multiply(logits[:, :words], 1 / self._mixing.temperature, out=soft)
        found = self._against_whole(rows, soft) if self._states is not None else self._against_top(rows, soft)
        (hard,) = self._cross_entropy.derive(rows, logits)
        share, temperature = self._mixing.hard_weight, self._mixing.temperature
        logits *= share
        soft *= (1 - share) * temperature
        logits[:, :words] += soft
        mixed = np.asarray(share * hard + (1 - share) * temperature**2 * found, np.float32)
        return mixed, hard, found

    def _against_whole(self, rows: slice, student: Array) -> Array:
        """Replace the student's logits by the derivatives of its divergence, which is returned."""
        assert self._states is not None
        hidden, weight = self._states
        teacher = product(hidden[rows], weight[: student.shape[1]].T, scratch("teacher", *student.shape))
        teacher *= 1 / self._mixing.temperature
        likely = _log_softmax(student, scratch("student's probabilities", *student.shape))
        expected = _log_softmax(teacher, scratch("teacher's probabilities", *student.shape))
        if self._mixing.reverse:
            student -= teacher
            divergence = np.einsum("nv,nv->n", likely, student)
            student -= divergence[:, None]
            student *= likely
            return divergence
        teacher -= student
        divergence = np.einsum("nv,nv->n", expected, teacher)
        np.subtract(likely, expected, out=student)
        return divergence

    def _against_top(self, rows: slice, student: Array) -> Array:
        """Do the same where the teacher's tokens beyond the most probable ones are one outcome."""
        ids, expected_logs, expected_rest = (part[rows] for part in self._top)
        logs, rest, totals = _outcomes(student, ids)
        likely, likely_rest = np.exp(logs), np.exp(rest)
        if self._mixing.reverse:
            gaps, gap = logs - expected_logs, np.where(likely_rest > 0, rest - expected_rest, 0)
            divergence = (likely * gaps).sum(axis=1) + likely_rest * gap
            derived, of_rest = likely * (gaps - divergence[:, None]), likely_rest * (gap - divergence)
        else:
            expected, left_out = np.exp(expected_logs), np.exp(expected_rest)
            divergence = (expected * (expected_logs - logs)).sum(axis=1)
            divergence += np.where(left_out > 0, left_out * (expected_rest - rest), 0)
            derived, of_rest = likely - expected, likely_rest - left_out
        # The other tokens share the derivative of their sum in proportion to their probabilities.
        student *= np.where(totals > 0, of_rest / totals, 0)[:, None]
        student[_places(ids)] = derived
        return divergence


def top_targets(states: TeacherStates, count: int, temperature: float) -> TopTargets:
    """Return the `count` most probable tokens of a teacher, in bounded memory; arrays as `usable` accepts."""
    mx.eval(states)
    hidden, weight = view(states.hidden), view(states.weight)
    tokens, words = len(hidden), len(weight)
    found = TopTargets(
        np.empty((tokens, count), np.int32),
        np.empty((tokens, count), np.float32),
        np.empty(tokens, np.float32),
    )
    tile = max(1, min(-(-tokens // team().size), LOGITS // words // team().size))

    def work(piece: int) -> None:
        rows = slice(piece * tile, min((piece + 1) * tile, tokens))
        logits = product(hidden[rows], weight.T, scratch("teacher", len(hidden[rows]), words))
        logits *= 1 / temperature
        ids = np.argpartition(logits, words - count, axis=1)[:, words - count :]
        found.ids[rows] = ids
        found.logprobs[rows], found.rest[rows], _ = _outcomes(logits, ids)

    team().run(work, -(-tokens // tile))
    return found


def _outcomes(logits: Array, ids: np.ndarray) -> tuple[Array, Array, Array]:
    """Replace logits (n, V) by the unnormalised probabilities of all tokens but some, (n, k).

    Returns:
        Log-probabilities of these tokens, (n, k), and of all others together, (n,), and the sum of what
        `logits` contains then, (n,).
    """
    chosen = logits[_places(ids)]
    logits[_places(ids)] = -np.inf
    highest = np.maximum.reduce(logits, axis=1, keepdims=True)
    highest[np.isneginf(highest)] = 0  # there are no others
    logits -= highest
    np.exp(logits, out=logits)
    totals = np.add.reduce(logits, axis=1)
    rest = np.log(totals) + highest[:, 0]
    whole = np.logaddexp(rest, np.logaddexp.reduce(chosen, axis=1))
    return chosen - whole[:, None], rest - whole, totals


def _places(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(ids))[:, None], ids


def _log_softmax(logits: Array, out: Array) -> Array:
    """Replace logits by their log-probabilities; return the probabilities, which are written to `out`."""
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    np.exp(logits, out=out)
    totals = np.add.reduce(out, axis=1)
    out /= totals[:, None]
    logits -= np.log(totals)[:, None]
    return out

"""Batched sampling of the next token of every row.

The arithmetic is written once for numpy and MLX, whose functions have the same names: `xp` is numpy on the
CPU, where MLX computes exponentials one by one, and `mlx.core` on a GPU, to keep the logits on the device.

A row's randomness depends only on its seed, sample and position, so it gets the same tokens whatever the rest
of the batch, up to rounding of the logits.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.types import Sampling, TopLogprobs
from smidgen.errors import ConfigError

SMALLEST_TEMPERATURE = 0.01  # below it, quotients exceed the range of float32
UNIFORM_BITS = 24  # exact in float32, so that a uniform number never rounds up to 1


@dataclass
class RowState:
    """Sampling state of one row.

    Attributes:
        sample_id: id of the sample, part of the seed.
        sampling: sampling settings.
        position: number of tokens generated so far.
        counts: number of occurrences of each token in the answer; if there is a repetition penalty, tokens of
            the prompt are included with 0.
        allowed: mask of the allowed next tokens (V,), bool; None allows all.
        scored: whether the log-probabilities of its tokens are wanted.
    """

    sample_id: str
    sampling: Sampling
    position: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    allowed: NDArray[np.bool_] | None = None
    scored: bool = True

    @classmethod
    def begin(
        cls, sample_id: str, sampling: Sampling, prompt: Sequence[int], *, scored: bool = True
    ) -> "RowState":
        """Return the state of a new row."""
        seen = prompt if sampling.repetition_penalty != 1.0 else ()
        return cls(sample_id, sampling, counts=dict.fromkeys(seen, 0), scored=scored)

    def record(self, token_id: int) -> None:
        """Record a generated token."""
        self.position += 1
        self.counts[token_id] = self.counts.get(token_id, 0) + 1

    def after(self, token_id: int, allowed: NDArray[np.bool_] | None) -> "RowState":
        """Return the state that `record` would lead to, with another mask; this one does not change."""
        counts = self.counts
        if self.is_penalised:
            counts = counts | {token_id: counts.get(token_id, 0) + 1}
        return replace(self, position=self.position + 1, counts=counts, allowed=allowed)

    @property
    def is_penalised(self) -> bool:
        """Whether the tokens so far change the logits of the next."""
        return self.sampling.repetition_penalty != 1.0 or self.sampling.frequency_penalty != 0.0

    def uniform(self) -> float:
        """Return the random number in [0, 1) for the next token."""
        name = f"{self.sampling.seed}/{self.position}/{self.sample_id}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> (64 - UNIFORM_BITS)) / 2**UNIFORM_BITS


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that are out of range, all of them in one message.

    Raises:
        ConfigError: a setting is out of its range.
    """
    s = sampling
    rules = {
        "max_tokens": (s.max_tokens > 0, "1 or more"),
        "temperature": (
            s.temperature == 0 or SMALLEST_TEMPERATURE <= s.temperature < math.inf,
            f"0 for greedy decoding, or {SMALLEST_TEMPERATURE} or more",
        ),
        "top_p": (0 < s.top_p <= 1, "more than 0 and at most 1"),
        "top_k": (s.top_k >= 0, "0 for no limit, or more"),
        "min_p": (0 <= s.min_p <= 1, "between 0 and 1"),
        "repetition_penalty": (0 < s.repetition_penalty < math.inf, "more than 0"),
        "frequency_penalty": (math.isfinite(s.frequency_penalty), "a finite number"),
        "stop": (all(s.stop), "strings that are not empty"),
        "stop_after": (all(s.stop_after), "strings that are not empty"),
    }
    faults = [
        f"{name} is {getattr(s, name)!r}, expected {expected}"
        for name, (good, expected) in rules.items()
        if not good
    ]
    if faults:
        raise ConfigError("; ".join(faults))


def draw(logits: Any, rows: Sequence[RowState], xp: Any) -> tuple[list[int], list[float]]:
    """Sample one token for every row.

    The order is: penalties, mask of allowed tokens, temperature, top-k, top-p, min-p; each applies to the
    result of the previous one.

    Args:
        logits: logits (B, V), float32, an array of `xp`; not modified.
        rows: the B rows, in the same order; not modified.
        xp: `numpy` or `mlx.core`.

    Returns:
        The B token ids, and their natural-log probabilities under softmax of the unmodified logits, as in
        `logprobs_of` for rows that are not scored.
    """
    scores = restrict(penalise(logits, rows, xp), rows, xp)
    tokens = xp.argmax(scores, axis=-1)
    warm = [i for i, row in enumerate(rows) if row.sampling.temperature > 0]
    if warm:
        index = xp.array(warm)
        tokens[index] = _sample(scores[index], [rows[i] for i in warm], xp).astype(tokens.dtype)
    tokens = np.asarray(tokens).tolist()
    return tokens, logprobs_of(tokens, logits, xp, wanted=[row.scored for row in rows])


def logprobs_of(
    tokens: Sequence[int],
    logits: Any,
    xp: Any,
    *,
    rows: Sequence[int] | None = None,
    wanted: Sequence[bool] | None = None,
) -> list[float]:
    """Return natural-log probabilities of tokens under `logits` (B, V); token i in row i, or in `rows[i]`.

    Those that are not `wanted` are 0, or NaN if the logits are, which takes no pass over the vocabulary.
    """
    if not tokens:
        return []
    at = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    found = np.array(logits[xp.array(at), xp.array(tokens)])
    used = np.ones(len(tokens), bool) if wanted is None else np.asarray(wanted)
    found[~used] *= 0
    if used.any():
        summed = np.unique(at[used])
        totals = np.zeros(len(logits), np.float32)
        totals[summed] = _log_totals(logits if len(summed) == len(logits) else logits[xp.array(summed)], xp)
        found[used] -= totals[at[used]]
    return found.tolist()


def top_logprobs_of(logits: Any, count: int) -> list[TopLogprobs]:
    """Return the `count` most probable tokens of each row of logits (B, V), the best first."""
    found = []
    for row in np.asarray(logits, np.float32):
        best = np.argpartition(row, -count)[-count:] if count < len(row) else np.arange(len(row))
        best = best[np.argsort(-row[best], kind="stable")]
        found.append(
            tuple(zip(best.tolist(), (row[best] - _log_totals(row[None], np)).tolist(), strict=True))
        )
    return found


def _log_totals(logits: Any, xp: Any) -> NDArray[np.float32]:
    """Return ln Σ exp of each row, (B,)."""
    if xp is np and len(logits) > 1:  # row by row, whose intermediate results stay in the processor's cache
        return np.concatenate([_log_totals(row[None], xp) for row in logits])
    top = xp.max(logits, axis=-1, keepdims=True)
    return np.asarray((top + xp.log(xp.sum(xp.exp(logits - top), axis=-1, keepdims=True)))[:, 0])


def penalise(logits: Any, rows: Sequence[RowState], xp: Any) -> Any:
    """Apply the repetition and frequency penalties.

    Repetition (https://arxiv.org/abs/1909.05858): positive logits of tokens in the prompt or completion are
    divided by the penalty, negative ones multiplied. Frequency: the penalty is subtracted once per occurrence
    of the token in the completion.
    """
    touched = [(i, row) for i, row in enumerate(rows) if row.counts and row.is_penalised]
    if not touched:
        return logits
    sizes = [len(row.counts) for _, row in touched]
    at_row = xp.array(np.repeat([i for i, _ in touched], sizes))
    at_token = xp.array(np.concatenate([np.fromiter(row.counts, np.int64) for _, row in touched]))
    counts = xp.array(np.concatenate([np.fromiter(row.counts.values(), np.float32) for _, row in touched]))
    repetition = _repeated([row.sampling.repetition_penalty for _, row in touched], sizes, xp)
    frequency = _repeated([row.sampling.frequency_penalty for _, row in touched], sizes, xp)
    scores = logits[at_row, at_token]
    scores = xp.where(scores > 0, scores / repetition, scores * repetition) - frequency * counts
    penalised = xp.array(logits)
    penalised[at_row, at_token] = scores
    return penalised


def restrict(logits: Any, rows: Sequence[RowState], xp: Any) -> Any:
    """Set the logits of tokens that a row does not allow to −∞."""
    bound = [(i, row.allowed) for i, row in enumerate(rows) if row.allowed is not None]
    if not bound:
        return logits
    V = logits.shape[-1]
    masks = np.zeros((len(bound), V), bool)  # an embedding may be padded beyond the vocabulary
    for mask, (_, allowed) in zip(masks, bound, strict=True):
        mask[: len(allowed)] = allowed[:V]
    index = xp.array([i for i, _ in bound])
    restricted = xp.array(logits)
    restricted[index] = xp.where(xp.array(masks), logits[index], -xp.inf)
    return restricted


def near_ties(logits: Any, rows: Sequence[RowState], xp: Any, noise: float) -> list[bool]:
    """Return for every row whether its greedy choice is open to rounding.

    Args:
        logits: logits (B, V), float32; not modified.
        rows: the B rows; one that is sampled has no tie.
        xp: `numpy` or `mlx.core`.
        noise: rounding error of a logit, relative to the largest of its row.
    """
    scores = restrict(penalise(logits, rows, xp), rows, xp)
    best = xp.argmax(scores, axis=-1)
    at = xp.arange(len(rows))
    top = np.array(scores[at, best])
    others = xp.array(scores)
    others[at, best] = -xp.inf
    margins = top - np.array(xp.max(others, axis=-1))
    largest = np.array(xp.max(xp.abs(logits), axis=-1))
    is_greedy = np.array([row.sampling.temperature == 0 for row in rows])
    return (is_greedy & (margins <= 2 * noise * largest)).tolist()


def _sample(logits: Any, rows: Sequence[RowState], xp: Any) -> Any:
    """Sample from each row's tempered, truncated distribution by inverting its cumulative sum; (B,)."""
    if xp is np and len(rows) > 1:  # row by row, whose intermediate results stay in the processor's cache
        each = ((logits[i : i + 1], rows[i : i + 1]) for i in range(len(rows)))
        return np.concatenate([_sample(*one, xp) for one in each])
    temperature = _column([row.sampling.temperature for row in rows], xp)
    weights = xp.exp((logits - xp.max(logits, axis=-1, keepdims=True)) / temperature)  # the largest is 1
    weights = xp.where(weights >= _smallest_kept(weights, rows, xp), weights, 0.0)
    cumulative = xp.cumsum(weights, axis=-1)
    target = _column([row.uniform() for row in rows], xp) * cumulative[:, -1:]
    # A parallel sum may be off by rounding, which must not select a token without weight.
    return xp.argmax((cumulative > target) & (weights > 0), axis=-1)


def _smallest_kept(weights: Any, rows: Sequence[RowState], xp: Any) -> Any:
    """Return the smallest weight (B, 1) kept by top-k, top-p and min-p; equal weights are kept together."""
    floor = _column([row.sampling.min_p for row in rows], xp)
    V = weights.shape[-1]
    top_k = [row.sampling.top_k or V for row in rows]
    top_p = [row.sampling.top_p for row in rows]
    is_cut = [k < V or p < 1 for k, p in zip(top_k, top_p, strict=True)]
    if not any(is_cut):
        return floor
    ranked = xp.sort(weights, axis=-1)[:, ::-1]
    ranked = xp.where(xp.arange(V) < _column(top_k, xp), ranked, 0.0)
    cumulative = xp.cumsum(ranked, axis=-1)
    is_kept = cumulative - ranked < _column(top_p, xp) * cumulative[:, -1:]
    smallest = xp.min(xp.where(is_kept, ranked, 1.0), axis=-1, keepdims=True)
    # A row without top-k and top-p keeps its full tail, whatever the other rows of the batch.
    return xp.maximum(floor, xp.where(_column(is_cut, xp) > 0, smallest, 0.0))


def _column(values: Sequence[float], xp: Any) -> Any:
    return xp.array(np.asarray(values, np.float32)[:, None])


def _repeated(values: Sequence[float], sizes: Sequence[int], xp: Any) -> Any:
    return xp.array(np.repeat(np.asarray(values, np.float32), sizes))

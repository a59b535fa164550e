"""Log-probability scoring of continuations of many prompts, without generating.

Continuations share prefixes, so their tokens form a tree. The prefix common to all of them runs together with
the prompt. The branches after it run from copies of the prompt's row, one per branch, and only those branches
that are probable enough.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from smidgen.data.types import Scored, Timing
from smidgen.inference.decoder import Decoder
from smidgen.inference.sampling import logprobs_of

Found = dict[tuple[int, int], float]
"""Log-probabilities by (position, token)."""


class Tree:
    """The token tree of some continuations.

    Attributes:
        common: the prefix of all continuations, at least one token shorter than the shortest.
        branches: token sequences after `common` that have to run to score later tokens; none is a prefix of
            another.
        depth: tokens of the longest continuation.
    """

    def __init__(self, tails: Sequence[Sequence[int]]):
        filled = [tuple(tail) for tail in tails if tail]
        self.depth = max(map(len, filled), default=0)
        common: tuple[int, ...] = min(filled, key=len)[:-1] if filled else ()
        while any(tail[: len(common)] != common for tail in filled):
            common = common[:-1]
        self.common = common
        begun = len(common)
        inner = sorted({tail[begun:-1] for tail in filled})
        # Sorted, a prefix of a branch comes right before it.
        self.branches = [
            stem
            for stem, after in zip(inner, [*inner[1:], ()], strict=False)
            if stem and after[: len(stem)] != stem
        ]
        self._tails = [tuple(tail) for tail in tails]
        self._branch_of = [self._find(tail[begun:-1]) for tail in self._tails]
        at_start = {(k, tail[k]): None for tail in filled for k in range(min(len(tail), begun + 1))}
        self.early = list(at_start)
        """(position, token) of every token that is scored after the common prefix or inside it, each once."""
        self.late = [
            sorted({(k, tail[begun + 1 + k]) for tail in self._of(i) for k in range(len(tail) - begun - 1)})
            for i in range(len(self.branches))
        ]
        """For each branch, (position in it, token) of every token that only this branch can score."""

    def gather(self, early: Found, late: Sequence[Found]) -> list[list[float]]:
        """Return the log-probabilities of the tokens of each continuation; −inf for pruned tokens."""
        begun = len(self.common)
        return [
            [
                early[k, token] if k <= begun else late[branch].get((k - begun - 1, token), -math.inf)
                for k, token in enumerate(tail)
            ]
            for tail, branch in zip(self._tails, self._branch_of, strict=True)
        ]

    def _find(self, stem: tuple[int, ...]) -> int:
        """Return the index of the branch that starts with `stem`; −1 if `stem` is empty."""
        return next((i for i, branch in enumerate(self.branches) if stem and branch[: len(stem)] == stem), -1)

    def _of(self, branch: int) -> Iterator[tuple[int, ...]]:
        return (tail for tail, own in zip(self._tails, self._branch_of, strict=True) if own == branch)


def score_group(
    decoder: Decoder,
    xp: Any,
    prompts: Sequence[list[int]],
    tree: Tree,
    least_share: float,
    num_rows: int,
) -> list[Scored]:
    """Score the continuations of a tree after some prompts.

    Args:
        decoder: a decoder without rows whose prefix cache fits all prompts. It has no rows afterwards either.
        xp: module of its arrays.
        prompts: token ids.
        tree: the continuations.
        least_share: minimum share of a branch's first token in the probability of all continuations' tokens
            there; a branch below it is pruned, except the most probable one.
        num_rows: number of branches that run together; bounds the memory of KV cache and logits.
    """
    started = time.perf_counter()
    width = len(tree.common) + 1
    logits = decoder.add([[*prompt, *tree.common] for prompt in prompts], last=width)
    found = logprobs_of(
        [token for _ in prompts for _, token in tree.early],
        logits,
        xp,
        rows=[width * row + k for row in range(len(prompts)) for k, _ in tree.early],
    )
    size = len(tree.early)
    early = [
        dict(zip(tree.early, found[size * row : size * (row + 1)], strict=True))
        for row in range(len(prompts))
    ]
    late: list[list[Found]] = [[{} for _ in tree.branches] for _ in prompts]
    due = [(row, i) for row, known in enumerate(early) for i in _probable(tree, known, least_share)]
    for begin in range(0, len(due), num_rows):
        part = due[begin : begin + num_rows]
        logits = decoder.fork([row for row, _ in part], [tree.branches[i] for _, i in part])
        starts = np.cumsum([0, *(len(tree.branches[i]) for _, i in part)]).tolist()
        places = [(row, i, k, token) for row, i in part for k, token in tree.late[i]]
        at = [start + k for start, (_, i) in zip(starts, part, strict=False) for k, _ in tree.late[i]]
        values = logprobs_of([token for *_, token in places], logits, xp, rows=at)
        for (row, i, k, token), value in zip(places, values, strict=True):
            late[row][i][k, token] = value
    decoder.forget()
    seconds = time.perf_counter() - started
    extra = [len(tree.common)] * len(prompts)
    for row, i in due:
        extra[row] += len(tree.branches[i])
    return [
        Scored(tree.gather(early[row], late[row]), Timing(seconds, seconds, len(prompt) + extra[row], 0))
        for row, prompt in enumerate(prompts)
    ]


def _probable(tree: Tree, early: Found, least_share: float) -> list[int]:
    """Return the branches whose first token has at least `least_share`, or the largest share."""
    divergence = len(tree.common)  # the position where the continuations diverge
    shares = {token: math.exp(value) for (k, token), value in early.items() if k == divergence}
    needed = min(least_share * sum(shares.values()), max(shares.values(), default=0.0))
    return [i for i, branch in enumerate(tree.branches) if shares[branch[0]] >= needed]

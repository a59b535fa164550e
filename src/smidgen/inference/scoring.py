"""Log-probability scoring of continuations of many prompts, without generating.

Continuations share prefixes, so their tokens form a tree. The prefix common to all of them runs together with
the prompt. The branches after it run from copies of the prompt's row, one per branch, and only those branches
that are probable enough.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from smidgen.data.templates import Tokenizer, is_raw
from smidgen.data.types import Continuations, Sample, Scored, Timing
from smidgen.inference.decoder import Decoder
from smidgen.inference.sampling import logprobs_of

LOGIT_ROWS = 1024
"""Positions whose logits are held at once: 0.2 GB for a vocabulary of 50,000 tokens."""
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


@dataclass(frozen=True)
class ScoredPrompt:
    """A sample with the token ids of its prompt, and its continuations."""

    sample: Sample
    prompt: list[int]
    tree: Tree

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt with the longest continuation."""
        return len(self.prompt) + self.tree.depth


class Trees:
    """The continuations of every sample as token trees; equal ones are made once."""

    def __init__(self, tokenizer: Tokenizer, continuations: Continuations):
        self._tokenizer = tokenizer
        self._continuations = continuations
        self._made: dict[tuple[str, ...], Tree] = {}

    def of(self, sample: Sample) -> Tree:
        """Return the tree of a sample's continuations."""
        given = self._continuations
        texts = tuple(given[sample.id] if isinstance(given, Mapping) else given)
        if is_raw(sample.messages):  # its last token may depend on what follows
            return self._tree(sample, texts)
        if texts not in self._made:
            self._made[texts] = self._tree(sample, texts)
        return self._made[texts]

    def _tree(self, sample: Sample, texts: Sequence[str]) -> Tree:
        return Tree([self._tokenizer.encode_after(sample.messages, text) for text in texts])


def score_group(
    decoder: Decoder,
    prompts: Sequence[list[int]],
    trees: Sequence[Tree],
    least_share: float,
    num_rows: int,
) -> list[Scored]:
    """Score the continuations of each prompt.

    Args:
        decoder: a decoder without rows whose prefix cache fits all prompts. It has no rows afterwards either.
        prompts: token ids.
        trees: the continuations of each prompt.
        least_share: minimum share of a branch's first token in the probability of all continuations' tokens
            there; a branch below it is pruned, except the most probable one.
        num_rows: number of branches that run together; bounds the memory of the KV cache.
    """
    started = time.perf_counter()
    early = _score_early(decoder, prompts, trees)
    late: list[list[Found]] = [[{} for _ in tree.branches] for tree in trees]
    due = [
        (row, i)
        for row, (tree, known) in enumerate(zip(trees, early, strict=True))
        for i in _probable(tree, known, least_share)
    ]
    lengths = [len(trees[row].branches[i]) for row, i in due]
    begin = 0
    while begin < len(due):
        end = begin + fitting(lengths[begin : begin + num_rows])
        _score_late(decoder, trees, due[begin:end], late)
        begin = end
    decoder.forget()
    seconds = time.perf_counter() - started
    extra = [len(tree.common) for tree in trees]
    for (row, _), length in zip(due, lengths, strict=True):
        extra[row] += length
    return [
        Scored(tree.gather(early[row], late[row]), Timing(seconds, seconds, len(prompt) + extra[row], 0))
        for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True))
    ]


def fitting(lengths: Sequence[int]) -> int:
    """Return how many of the next rows may have that many logits each at the same time, at least one."""
    return sum(1 for total in accumulate(lengths) if total <= LOGIT_ROWS) or 1


def _score_early(decoder: Decoder, prompts: Sequence[list[int]], trees: Sequence[Tree]) -> list[Found]:
    """Run the prompts with their common prefixes, and score the tokens up to where branches begin."""
    widths = [len(tree.common) + 1 for tree in trees]
    logits = decoder.add(
        [[*prompt, *tree.common] for prompt, tree in zip(prompts, trees, strict=True)], last=widths
    )
    starts = np.cumsum([0, *widths]).tolist()
    values = iter(
        logprobs_of(
            [token for tree in trees for _, token in tree.early],
            logits,
            decoder.xp,
            rows=[start + k for start, tree in zip(starts, trees, strict=False) for k, _ in tree.early],
        )
    )
    return [{place: next(values) for place in tree.early} for tree in trees]


def _score_late(
    decoder: Decoder,
    trees: Sequence[Tree],
    due: Sequence[tuple[int, int]],
    late: list[list[Found]],
) -> None:
    """Run some branches, given as (row, branch), and add the log-probabilities of their tokens to `late`."""
    tails = [trees[row].branches[i] for row, i in due]
    logits = decoder.fork([row for row, _ in due], tails)
    starts = np.cumsum([0, *map(len, tails)]).tolist()
    places = [(row, i, k, token) for row, i in due for k, token in trees[row].late[i]]
    at = [start + k for start, (row, i) in zip(starts, due, strict=False) for k, _ in trees[row].late[i]]
    values = logprobs_of([token for *_, token in places], logits, decoder.xp, rows=at)
    for (row, i, k, token), value in zip(places, values, strict=True):
        late[row][i][k, token] = value


def _probable(tree: Tree, early: Found, least_share: float) -> list[int]:
    """Return the branches whose first token has at least `least_share`, or the largest share."""
    divergence = len(tree.common)  # the position where the continuations diverge
    shares = {token: math.exp(value) for (k, token), value in early.items() if k == divergence}
    needed = min(least_share * sum(shares.values()), max(shares.values(), default=0.0))
    return [i for i, branch in enumerate(tree.branches) if shares[branch[0]] >= needed]

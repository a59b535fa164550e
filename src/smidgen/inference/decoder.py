"""Batched decoding with a KV cache: rows join and leave between any two steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from smidgen.backend import mx
from smidgen.inference.forward import ForwardPass
from smidgen.inference.kept_prefixes import KeptPrefixes, is_more
from smidgen.inference.kv_cache import Pass
from smidgen.inference.prefixes import common_prefix, levels, stem_of

PREFILL_TOKENS = 2048
"""Prompt tokens per prefill pass: enough to keep the processor busy, few enough to bound memory."""


class Decoder:
    """A model with the KV caches of its rows.

    Slot 0 is the prefix cache: the shared prefix of the prompts is computed there once and copied into
    every row. Rows occupy the slots from 1 on, without gaps. A prefix that several prompts shared is kept
    aside when another takes its place, so that prompts of several kinds may alternate.
    """

    def __init__(self, forward: ForwardPass):
        self._forward = forward
        self._caches = forward.new_caches()
        self._prefix: list[int] = []
        self._proven = 0  # first tokens of the prefix cache that several prompts shared
        self._kept = KeptPrefixes()
        self._shared = 0  # tokens of the prefix cache that new rows start from
        self._lengths: list[int] = []
        self._alike: list[int] = []  # for each row, number of first tokens that the prefix cache has too

    @property
    def xp(self) -> Any:
        """Array module of the logits, `numpy` or `mlx.core`."""
        return self._forward.xp

    def runs(self, forward: ForwardPass) -> bool:
        """Return whether `forward` is the forward pass of this decoder."""
        return self._forward is forward

    @property
    def bytes_per_token(self) -> int:
        """KV-cache bytes per token of one row."""
        return sum(cache.bytes_per_token for cache in self._caches)

    @property
    def num_rows(self) -> int:
        """Number of rows being decoded."""
        return len(self._lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of cached tokens of each row."""
        return tuple(self._lengths)

    def share(self, prompts: Sequence[list[int]]) -> int:
        """Fill the prefix cache with the shared prefix of all prompts, computing only what is missing.

        Returns:
            The number of shared tokens; rows added from now on start from them.
        """
        common = stem_of(prompts)
        self._recall(common)
        cached = known = len(common_prefix(self._prefix, common))
        if cached < len(common):
            self._cut(cached)
            cached, rest = self._run_leading(0, cached, common[cached:])
            self._run(0, cached, [rest])
            self._prefix = common
        self._proven = max(self._proven, len(common) if len(prompts) > 1 else known)
        self._shared = len(common)
        return self._shared

    def reuse(self, prompts: Sequence[list[int]]) -> int:
        """As `share`, but compute nothing: rows start from what the prefix cache has of all prompts."""
        common = stem_of(prompts)
        self._recall(common)
        self._shared = len(common_prefix(self._prefix, common))
        return self._shared

    def adopt(self, prompt: list[int]) -> None:
        """Make the prompt of the only row the prefix cache, by copying, for prompts that continue it."""
        assert self.num_rows == 1
        known = len(common_prefix(self._prefix, prompt))
        if known < len(prompt):
            self._cut(known)
            self._copy([1], 0, len(prompt))
            self._prefix, self._alike = prompt, [len(prompt)]
        self._proven = max(self._proven, known)

    def num_cached(self, prompt: Sequence[int]) -> int:
        """Return how many first tokens of `prompt` need not be computed."""
        here = len(common_prefix(self._prefix, prompt[:-1]))
        _, aside = self._kept.best(prompt[:-1])
        return aside if is_more(aside, here) else here

    def place_aside(self, prompt: Sequence[int]) -> int | None:
        """Return which prefix that was kept aside serves `prompt`; None if the prefix cache does better."""
        here = len(common_prefix(self._prefix, prompt[:-1]))
        kept, aside = self._kept.best(prompt[:-1])
        return id(kept) if is_more(aside, here) else None

    def add(self, prompts: Sequence[Sequence[int]], last: int | Sequence[int] = 1) -> Any:
        """Prefill new rows after the existing ones; equal prompts and shared prefixes are computed once.

        Args:
            prompts: token ids (B lists), each starting with the prefix of the last `share` or `reuse`,
                followed by `last` tokens or more.
            last: number of tokens at the end of each prompt whose logits are returned; one number for all,
                or one per prompt.

        Returns:
            Logits (T, V) after each row's last tokens, row by row.
        """
        lasts = np.broadcast_to(last, len(prompts))
        unique = list(dict.fromkeys(map(tuple, prompts)))
        index = {prompt: i for i, prompt in enumerate(unique)}
        sources = [index[tuple(prompt)] for prompt in prompts]
        wanted = np.ones(len(unique), np.int64)
        np.maximum.at(wanted, sources, lasts)
        first = 1 + self.num_rows
        self._copy_prefix(first, len(unique))
        self._reserve(first + len(prompts), 0)
        cached = self._run_families(first, unique, wanted)
        rows: list[Sequence[int]] = [prompt[size:] for prompt, size in zip(unique, cached, strict=True)]
        if len(rows) == 1:
            cached[0], rows[0] = self._run_leading(first, cached[0], rows[0], int(wanted[0]))
        ends = np.cumsum([len(row) for row in rows])
        hidden = self._run(first, cached, rows)
        if len(unique) < len(prompts):
            self._copy([first + source for source in sources], first, max(map(len, prompts)))
        self._lengths += map(len, prompts)
        self._alike += [self._shared] * len(prompts)
        at = [np.arange(end - count, end) for end, count in zip(ends[sources], lasts, strict=True)]
        return self._forward.logits(hidden[self._forward.xp.array(np.concatenate(at))])

    def step(self, tokens: Sequence[Sequence[int]]) -> Any:
        """Run the next block of tokens of every row in one pass.

        Args:
            tokens: one block per row, in the order of the rows, of one token or more; lengths may differ.

        Returns:
            Logits (T, V) after every token of every block, row by row.
        """
        assert len(tokens) == self.num_rows and all(len(block) > 0 for block in tokens)
        hidden = self._run(1, self._lengths, tokens, min(self._alike, default=0))
        self._lengths = [cached + len(new) for cached, new in zip(self._lengths, tokens, strict=True)]
        return self._forward.logits(hidden)

    def rollback(self, counts: Sequence[int]) -> None:
        """Undo the last `counts[i]` tokens of every row i.

        Columns past a row's end are masked and overwritten by its next tokens.
        """
        assert len(counts) == self.num_rows
        assert all(0 <= count <= cached for count, cached in zip(counts, self._lengths, strict=True))
        self._lengths = [cached - count for count, cached in zip(counts, self._lengths, strict=True)]
        self._alike = [min(pair) for pair in zip(self._alike, self._lengths, strict=True)]

    def remove(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        cached, alike = self._lengths.pop(), self._alike.pop()
        if row < self.num_rows:
            self._copy([1 + self.num_rows], 1 + row, cached)
            self._lengths[row], self._alike[row] = cached, alike

    def forget(self) -> None:
        """Remove all rows; their memory stays allocated."""
        self._lengths, self._alike = [], []

    def clear(self) -> None:
        """Remove all rows and release their memory; the prefix cache stays."""
        self.forget()
        for cache in self._caches:
            cache.keep(1)
        self.settle()

    def settle(self) -> None:
        """Evaluate all pending operations, so that another thread may run the next pass.

        MLX evaluates lazy operations only in the thread that created them.
        """
        if self.xp is mx:
            mx.eval([cache.arrays for cache in self._caches])

    def fork(self, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> Any:
        """Run tails after copies of rows, which do not change; return the logits (T, V) after each token."""
        first, cached = 1 + self.num_rows, [self._lengths[row] for row in rows]
        self._reserve(first + len(rows), 0)
        self._copy([1 + row for row in rows], first, max(cached))
        return self._forward.logits(self._run(first, cached, tails))

    def _recall(self, common: list[int]) -> None:
        """Put a prefix that was kept aside into the prefix cache, if it serves prompts better."""
        kept, size = self._kept.best(common)
        here = len(common_prefix(self._prefix, common))
        if kept is None or not is_more(size, here):
            return
        self._cut(len(common_prefix(self._prefix, kept.tokens)))
        self._reserve(1, len(kept.tokens))
        for cache, arrays in zip(self._caches, kept.layers, strict=True):
            cache.set_first(arrays)
        self._prefix, self._proven = kept.tokens, len(kept.tokens)
        self._kept.used(kept)

    def _cut(self, length: int) -> None:
        """Cut the prefix cache before other tokens take the place of the rest; keep what was shared aside."""
        if is_more(self._proven, length):
            self._kept.keep(self._prefix[: self._proven], self._caches)
        self._prefix = self._prefix[:length]
        self._proven = min(self._proven, length)
        self._alike = [min(size, length) for size in self._alike]

    def _run_families(self, first: int, prompts: Sequence[Sequence[int]], last: np.ndarray) -> list[int]:
        """Prefill prefixes that only some prompts share, once each, into the slots of these prompts.

        Returns:
            The number of cached tokens in each prompt's slot; at least `last` tokens of each prompt are left.
        """
        most = [len(prompt) - int(count) for prompt, count in zip(prompts, last, strict=True)]
        cached = [self._shared] * len(prompts)
        sources = list(range(first, first + len(prompts)))
        free = first  # a tree has fewer inner nodes than leaves, so there is a slot for each
        for level in levels(prompts, self._shared, most):
            leaders = [family.members[0] for family in level]
            known = [cached[i] for i in leaders]
            self._copy([sources[i] for i in leaders], free, max(known))
            rows = [
                prompts[i][size : family.shared]
                for i, size, family in zip(leaders, known, level, strict=True)
            ]
            self._run(free, known, rows)
            for family in level:
                for i in family.members:
                    cached[i], sources[i] = family.shared, free
                free += 1
        if free > first:
            self._copy(sources, first, max(cached))
        return cached

    def _run_leading(
        self, slot: int, cached: int, row: Sequence[int], last: int = 1
    ) -> tuple[int, Sequence[int]]:
        """Prefill a long row in parts, except its end; return the number of cached tokens and the rest."""
        while len(row) > max(PREFILL_TOKENS, last):
            part = min(PREFILL_TOKENS, len(row) - last)
            self._run(slot, cached, [row[:part]])
            cached, row = cached + part, row[part:]
        return cached, row

    def _run(
        self, first: int, cached: int | Sequence[int], rows: Sequence[Sequence[int]], shared: int = 0
    ) -> Any:
        """Run new tokens of the slots from `first` on, `shared` as in `Pass`; return hidden states (T, D)."""
        at = Pass(first, np.broadcast_to(cached, len(rows)), [len(row) for row in rows], shared)
        self._reserve(at.stop, at.width)
        return self._forward.hidden(rows, at, self._caches)

    def _reserve(self, slots: int, columns: int) -> None:
        for cache in self._caches:
            cache.reserve(slots, columns)

    def _copy_prefix(self, first: int, num_rows: int) -> None:
        self._reserve(first + num_rows, self._shared)
        self._copy([0] * num_rows, first, self._shared)

    def _copy(self, sources: Sequence[int], start: int, length: int) -> None:
        for cache in self._caches:
            cache.copy(sources, start, length)

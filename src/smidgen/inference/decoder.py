"""Rows of tokens that one model continues together; they join and leave between any two steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from smidgen.backend import mx
from smidgen.inference.forward import ForwardPass
from smidgen.inference.kv_cache import Pass
from smidgen.inference.prefixes import common_prefix, levels, stem_of

PREFILL_TOKENS = 2048
"""Prompt tokens of one forward pass: enough to keep the processor busy, few enough to bound memory."""


class Decoder:
    """A model and the rows it holds.

    Slot 0 is the prefix cache: what prompts have in common is computed there once and copied into every row.
    The rows stand from slot 1 on, without gaps.
    """

    def __init__(self, forward: ForwardPass):
        self._forward = forward
        self._caches = forward.new_caches()
        self._prefix: list[int] = []
        self._shared = 0  # tokens of the prefix that rows which join now begin with
        self._held: list[int] = []

    @property
    def xp(self) -> Any:
        """The module of the scores' arrays, `numpy` or `mlx.core`."""
        return self._forward.xp

    def runs(self, forward: ForwardPass) -> bool:
        """Whether this is the forward pass that it runs."""
        return self._forward is forward

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes."""
        return sum(cache.bytes_per_token for cache in self._caches)

    @property
    def num_rows(self) -> int:
        """How many rows are being continued."""
        return len(self._held)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens each row holds."""
        return tuple(self._held)

    def share(self, prompts: Sequence[list[int]]) -> int:
        """Make the prefix cache hold what all prompts begin with, computing only what it does not hold yet.

        Returns:
            The number of shared tokens; rows that join from now on begin with them.
        """
        common = stem_of(prompts)
        held = len(common_prefix(self._prefix, common))
        if held < len(common):
            self._prefix = common[:held]
            held, rest = self._run_leading(0, held, common[held:])
            self._run(0, held, [rest])
            self._prefix = common
        self._shared = len(common)
        return self._shared

    def reuse(self, prompts: Sequence[list[int]]) -> int:
        """As `share`, but run nothing: rows begin with what the prefix cache holds of all prompts."""
        self._shared = len(common_prefix(self._prefix, stem_of(prompts)))
        return self._shared

    def num_cached(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prefix cache a prompt begins with."""
        return len(common_prefix(self._prefix, prompt[:-1]))

    def add(self, prompts: Sequence[Sequence[int]], last: int | Sequence[int] = 1) -> Any:
        """Let rows join behind those that are there; equal prompts, and what some share, run once.

        Args:
            prompts: token ids (B lists), each beginning with the tokens that `share` or `reuse` found last
                and with `last` tokens or more after them.
            last: tokens at the end of each prompt whose scores are wanted; one number, or one for each.

        Returns:
            Scores (T, V) of what follows each row's last tokens, in their order, row after row.
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
        held = self._run_families(first, unique, wanted)
        rows: list[Sequence[int]] = [prompt[size:] for prompt, size in zip(unique, held, strict=True)]
        if len(rows) == 1:
            held[0], rows[0] = self._run_leading(first, held[0], rows[0], int(wanted[0]))
        ends = np.cumsum([len(row) for row in rows])
        hidden = self._run(first, held, rows)
        if len(unique) < len(prompts):
            self._copy([first + source for source in sources], first, max(map(len, prompts)))
        self._held += map(len, prompts)
        at = [np.arange(end - count, end) for end, count in zip(ends[sources], lasts, strict=True)]
        return self._forward.logits(hidden[self._forward.xp.array(np.concatenate(at))])

    def step(self, tokens: Sequence[Sequence[int]]) -> Any:
        """Give every row its next block of tokens, all rows in one pass.

        Args:
            tokens: one block for each row, in the order of the rows; each has a token or more, and lengths
                may differ.

        Returns:
            Scores (T, V) of what follows every token of every block, row after row.
        """
        assert len(tokens) == self.num_rows and all(len(block) > 0 for block in tokens)
        hidden = self._run(1, self._held, tokens)
        self._held = [held + len(new) for held, new in zip(self._held, tokens, strict=True)]
        return self._forward.logits(hidden)

    def rollback(self, counts: Sequence[int]) -> None:
        """Take back the last tokens of every row, `counts[i]` of row i: as if they had never been run.

        The columns behind a row's end are hidden from it and overwritten by what it is given next.
        """
        assert len(counts) == self.num_rows
        assert all(0 <= count <= held for count, held in zip(counts, self._held, strict=True))
        self._held = [held - count for count, held in zip(counts, self._held, strict=True)]

    def remove(self, row: int) -> None:
        """Let a row leave; the last row takes its place."""
        held = self._held.pop()
        if row < self.num_rows:
            self._copy([1 + self.num_rows], 1 + row, held)
            self._held[row] = held

    def forget(self) -> None:
        """Let all rows leave; their memory stays for the next ones."""
        self._held = []

    def clear(self) -> None:
        """Let all rows leave and give their memory back; the shared prefix stays."""
        self.forget()
        for cache in self._caches:
            cache.keep(1)
        self.settle()

    def settle(self) -> None:
        """Compute what is left to compute, so that another thread may run the next pass.

        MLX computes what a thread has put off in that thread alone.
        """
        if self.xp is mx:
            mx.eval([cache.arrays for cache in self._caches])

    def fork(self, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> Any:
        """Run tails behind copies of rows, which stay as they are; return the scores (T, V) behind each."""
        first, held = 1 + self.num_rows, [self._held[row] for row in rows]
        self._reserve(first + len(rows), 0)
        self._copy([1 + row for row in rows], first, max(held))
        return self._forward.logits(self._run(first, held, tails))

    def _run_families(self, first: int, prompts: Sequence[Sequence[int]], last: np.ndarray) -> list[int]:
        """Run once what some of the prompts have in common beyond the prefix; their slots hold that.

        Returns:
            How many tokens the slot of each prompt holds then; at least its `last` are left of each prompt.
        """
        most = [len(prompt) - int(count) for prompt, count in zip(prompts, last, strict=True)]
        held = [self._shared] * len(prompts)
        sources = list(range(first, first + len(prompts)))
        free = first  # a tree has fewer inner nodes than leaves, so that there is a slot for each
        for level in levels(prompts, self._shared, most):
            leaders = [family.members[0] for family in level]
            known = [held[i] for i in leaders]
            self._copy([sources[i] for i in leaders], free, max(known))
            rows = [
                prompts[i][size : family.shared]
                for i, size, family in zip(leaders, known, level, strict=True)
            ]
            self._run(free, known, rows)
            for family in level:
                for i in family.members:
                    held[i], sources[i] = family.shared, free
                free += 1
        if free > first:
            self._copy(sources, first, max(held))
        return held

    def _run_leading(
        self, slot: int, held: int, row: Sequence[int], last: int = 1
    ) -> tuple[int, Sequence[int]]:
        """Run all but the end of a long row, in parts; return what the slot holds then and the rest."""
        while len(row) > max(PREFILL_TOKENS, last):
            part = min(PREFILL_TOKENS, len(row) - last)
            self._run(slot, held, [row[:part]])
            held, row = held + part, row[part:]
        return held, row

    def _run(self, first: int, held: int | Sequence[int], rows: Sequence[Sequence[int]]) -> Any:
        """Run new tokens through the slots from `first` on; return hidden states (T, D)."""
        at = Pass(first, np.broadcast_to(held, len(rows)), [len(row) for row in rows])
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

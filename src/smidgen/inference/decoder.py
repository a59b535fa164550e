"""Rows of tokens that one model continues together; they join and leave between any two steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from smidgen.inference.forward import Forward
from smidgen.inference.kv_cache import Pass

PREFILL_TOKENS = 2048
"""Prompt tokens of one forward pass: enough to keep the processor busy, few enough to bound memory."""


class Decoder:
    """A model and the rows it holds.

    Slot 0 keeps a prefix that prompts have in common; it is computed once and copied into every row. The rows
    stand from slot 1 on, without gaps.
    """

    def __init__(self, forward: Forward):
        self._forward = forward
        self._caches = forward.new_caches()
        self._prefix: list[int] = []
        self._held: list[int] = []

    @property
    def num_rows(self) -> int:
        """How many rows are being continued."""
        return len(self._held)

    def share(self, prompts: Sequence[list[int]]) -> int:
        """Make slot 0 hold what all prompts begin with, computing only what it does not hold yet.

        The last token of a prompt is never shared: its row has to run it to know what comes next.

        Returns:
            The number of shared tokens.
        """
        common = _common_prefix(min(prompts), max(prompts))
        common = common[: min(map(len, prompts)) - 1]
        held = len(_common_prefix(self._prefix, common))
        self._prefix = common[:held]
        if held < len(common):
            held, rest = self._run_leading(0, held, common[held:])
            self._run(0, held, [rest])
            self._prefix = common
        return len(common)

    def add(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Let rows join behind those that are there; equal prompts are computed once.

        Args:
            prompts: token ids (B lists), all among those that `share` was last given.

        Returns:
            Scores (B, V) of each row's next token.
        """
        unique = list(dict.fromkeys(map(tuple, prompts)))
        first, held = 1 + self.num_rows, len(self._prefix)
        self._copy_prefix(first, len(unique))
        self._reserve(first + len(prompts), 0)
        rows: list[Sequence[int]] = [prompt[held:] for prompt in unique]
        if len(rows) == 1:
            held, rest = self._run_leading(first, held, rows[0])
            rows = [rest]
        ends = np.cumsum([len(row) for row in rows]) - 1
        hidden = self._run(first, held, rows)
        index = {prompt: i for i, prompt in enumerate(unique)}
        sources = [index[tuple(prompt)] for prompt in prompts]
        # From the back: a row's source is never behind it, so it has not been written over yet.
        for row, source in reversed(list(enumerate(sources))):
            self._copy(first + source, first + row, len(prompts[row]))
        self._held += map(len, prompts)
        return self._forward.logits(hidden[self._forward.xp.array(ends[sources])])

    def step(self, tokens: Sequence[int]) -> Any:
        """Give every row its next token; return the scores (B, V) of the one after it."""
        hidden = self._run(1, self._held, [[token] for token in tokens])
        self._held = [held + 1 for held in self._held]
        return self._forward.logits(hidden)

    def remove(self, row: int) -> None:
        """Let a row leave; the last row takes its place."""
        held = self._held.pop()
        if row < self.num_rows:
            self._copy(1 + self.num_rows, 1 + row, held)
            self._held[row] = held

    def clear(self) -> None:
        """Let all rows leave and give their memory back; the shared prefix stays."""
        self._held = []
        for cache in self._caches:
            cache.keep(1)

    def score(self, prompt: list[int], continuations: Sequence[Sequence[int]]) -> Any:
        """Return the scores (T, V) of every token of the continuations of one prompt, one after the other."""
        held, first = self.share([prompt]), 1 + self.num_rows
        self._copy_prefix(first, len(continuations))
        rows = [[*prompt[held:], *continuation[:-1]] for continuation in continuations]
        return self._forward.logits(self._run(first, held, rows))

    def _run_leading(self, slot: int, held: int, row: Sequence[int]) -> tuple[int, Sequence[int]]:
        """Run all but the last PREFILL_TOKENS of a long row; return what the slot holds then and the rest."""
        while len(row) > PREFILL_TOKENS:
            self._run(slot, held, [row[:PREFILL_TOKENS]])
            held, row = held + PREFILL_TOKENS, row[PREFILL_TOKENS:]
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
        self._reserve(first + num_rows, len(self._prefix))
        for cache in self._caches:
            cache.copy(0, first, first + num_rows, len(self._prefix))

    def _copy(self, source: int, target: int, length: int) -> None:
        if source != target:
            for cache in self._caches:
                cache.copy(source, target, target + 1, length)


def _common_prefix(left: list[int], right: list[int]) -> list[int]:
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return left[:i]
    return left[: len(right)]

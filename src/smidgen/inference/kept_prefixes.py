"""Prefixes that give way to others and will be back: copies of their keys and values, the latest ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from smidgen.inference.prefixes import FAMILY_TOKENS, common_prefix

KEPT_BYTES = 1 << 28
"""Maximum bytes of all copies: some 5,000 tokens of a model of 135 million weights in float32."""


class FirstSlot(Protocol):
    """The part of a cache that is copied: its first slot."""

    def first(self, length: int) -> tuple[Any, ...]:
        """Return copies of the first `length` columns of the first slot."""
        ...

    def set_first(self, arrays: Sequence[Any]) -> None:
        """Write what `first` returned."""
        ...


@dataclass(frozen=True)
class Kept:
    """A prefix and the copies of its keys and values, those of each layer."""

    tokens: list[int]
    layers: list[tuple[Any, ...]]

    @property
    def num_bytes(self) -> int:
        """Size of the copies."""
        return sum(array.nbytes for arrays in self.layers for array in arrays)


class KeptPrefixes:
    """The copies, most recently used last; the oldest ones are dropped for new ones."""

    def __init__(self):
        self._kept: list[Kept] = []

    def best(self, prompt: Sequence[int]) -> tuple[Kept | None, int]:
        """Return the prefix that shares most with a prompt, and how many tokens it shares."""
        shared = [(len(common_prefix(kept.tokens, prompt)), kept) for kept in self._kept]
        size, best = max(shared, key=lambda pair: pair[0], default=(0, None))
        return best, size

    def used(self, kept: Kept) -> None:
        """Note that a prefix was used."""
        self._kept.remove(kept)
        self._kept.append(kept)

    def keep(self, tokens: list[int], caches: Sequence[FirstSlot]) -> None:
        """Copy a prefix from the first slot of the caches, unless it is kept already."""
        if any(kept.tokens[: len(tokens)] == tokens for kept in self._kept):
            return
        self._kept = [kept for kept in self._kept if tokens[: len(kept.tokens)] != kept.tokens]
        self._kept.append(Kept(tokens, [cache.first(len(tokens)) for cache in caches]))
        while sum(kept.num_bytes for kept in self._kept) > KEPT_BYTES:
            self._kept.pop(0)


def is_more(size: int, than: int) -> bool:
    """Whether a prefix of `size` tokens saves enough, compared with another, to be copied."""
    return size >= than + FAMILY_TOKENS

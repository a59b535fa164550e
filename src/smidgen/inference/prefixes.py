"""What prompts have in common at their beginning, as a tree: each shared stretch is run once.

The two orders of a pair share its question, and the comparisons of one answer with several others share the
question and that answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Tokens = TypeVar("Tokens", bound=Sequence[int])

FAMILY_TOKENS = 16
"""Neighbouring prompts with so many tokens in common, beyond what all share, have them run once."""


@dataclass(frozen=True)
class Family:
    """Prompts that begin alike.

    Attributes:
        members: their indices.
        shared: how many tokens they have in common.
    """

    members: tuple[int, ...]
    shared: int


def common_prefix(left: Tokens, right: Tokens) -> Tokens:
    """What two rows of tokens begin with."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return left[:i]  # type: ignore[return-value]
    return left[: len(right)]  # type: ignore[return-value]


def stem_of(prompts: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, without the last token of the shortest: its row has to run that itself."""
    return common_prefix(min(prompts), max(prompts))[: min(map(len, prompts)) - 1]


def levels(prompts: Sequence[Sequence[int]], base: int, most: Sequence[int]) -> list[list[Family]]:
    """Find the tree of what prompts have in common.

    Args:
        prompts: token ids, all beginning with the same `base` tokens.
        base: how many of them need no family.
        most: tokens of each prompt that may be shared at most.

    Returns:
        The families of every level, from the stem on. Every family has two members or more and at least
        `FAMILY_TOKENS` tokens in common beyond its parent's.
    """
    level = [Family(tuple(_in_order(prompts)), base)]
    found = []
    while level := [part for family in level for part in _split(prompts, family, most)]:
        found.append(level)
    return found


def by_family(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Order prompts so that those that begin alike are neighbours, and families with longer ones come first.

    Args:
        prompts: token ids.

    Returns:
        Their indices.
    """
    order = _in_order(prompts)
    if not order:
        return []
    base = len(common_prefix(prompts[order[0]], prompts[order[-1]]))
    families = [[order[0]]]
    for left, right in pairwise(order):
        if len(common_prefix(prompts[left][base:], prompts[right][base:])) < FAMILY_TOKENS:
            families.append([])
        families[-1].append(right)
    families.sort(key=lambda family: -max(len(prompts[i]) for i in family))
    return [i for family in families for i in family]


def _in_order(prompts: Sequence[Sequence[int]]) -> list[int]:
    return sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))


def _split(prompts: Sequence[Sequence[int]], parent: Family, most: Sequence[int]) -> list[Family]:
    """The families within one, its members in order."""
    base = parent.shared
    families: list[tuple[list[int], int]] = []
    for i in parent.members:
        if families:
            members, common = families[-1]
            alike = base + len(common_prefix(prompts[members[0]][base:], prompts[i][base:]))
            if min(alike, common, most[i]) - base >= FAMILY_TOKENS:
                families[-1] = [*members, i], min(alike, common, most[i])
                continue
        families.append(([i], most[i]))
    return [Family(tuple(members), shared) for members, shared in families if len(members) > 1]

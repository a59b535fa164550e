"""The tree of prefixes that prompts share, so that each shared stretch is computed once.

The two orders of a pair share its question, and comparisons of one answer with several others share the
question and that answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Tokens = TypeVar("Tokens", bound=Sequence[int])

FAMILY_TOKENS = 16
"""Minimum shared tokens, beyond those shared by all prompts, for which a prefix is computed separately."""


@dataclass(frozen=True)
class Family:
    """Prompts with a shared prefix.

    Attributes:
        members: indices of the prompts.
        shared: number of tokens in the prefix.
    """

    members: tuple[int, ...]
    shared: int


def common_prefix(left: Tokens, right: Tokens) -> Tokens:
    """Return the shared prefix of two token sequences."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return left[:i]  # type: ignore[return-value]
    return left[: len(right)]  # type: ignore[return-value]


def stem_of(prompts: Sequence[list[int]]) -> list[int]:
    """Return the shared prefix of all prompts, at least one token shorter than the shortest of them."""
    return common_prefix(min(prompts), max(prompts))[: min(map(len, prompts)) - 1]


def levels(prompts: Sequence[Sequence[int]], base: int, most: Sequence[int]) -> list[list[Family]]:
    """Return the tree of shared prefixes, level by level.

    Args:
        prompts: token ids, all starting with the same `base` tokens.
        base: length of the prefix shared by all, which needs no family.
        most: maximum number of shareable tokens of each prompt.

    Returns:
        The families of every level, from the root on. Every family has at least two members and shares at
        least `FAMILY_TOKENS` tokens more than its parent.
    """
    level = [Family(tuple(_in_order(prompts)), base)]
    tree = []
    while level := [part for family in level for part in _split(prompts, family, most)]:
        tree.append(level)
    return tree


def by_family(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Order prompts so that shared prefixes are adjacent, and families with longer prompts come first.

    Args:
        prompts: token ids.

    Returns:
        The indices of the prompts in that order.
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
    """Return the subfamilies of a family whose members are sorted."""
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

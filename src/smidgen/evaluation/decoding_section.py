"""One token a pass against several: the same answers, and how long they took, as figures and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smidgen.data.types import Completion, Passes
from smidgen.figures import formatting
from smidgen.figures.formatting import ABSENT, finite, table_at

NAMES = {"ar": "One token a pass", "lookup": "Prompt look-up", "jacobi": "Jacobi", "draft": "Draft model"}
DRAWS = 2000
"""Resamples of the bootstrap."""


@dataclass
class Answered:
    """What one way of decoding gave and took.

    Attributes:
        completions: of all prompts, in order.
        seconds: wall-clock time of each batch, prefill included.
    """

    completions: list[Completion] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Number of generated tokens."""
        return sum(len(completion.token_ids) for completion in self.completions)


def decoding_facts(ours: Answered, plain: Answered) -> dict[str, Any]:
    """Return the figures of a way of decoding beside those of one token a pass on the same prompts.

    Returns:
        `tokens`, `tokens_per_second`, `answers`, and `same`, the number of those that are the same token for
        token; with drafts also `tokens_per_pass`, `accepted_share` of the drafted tokens, `near_ties` (greedy
        choices open to rounding), `committed` (passes by the number of tokens that they gave) and `speed_up`
        with its 95 % interval, the ratio of the times, by bootstrap over the batches.
    """
    same = [a.token_ids == b.token_ids for a, b in zip(ours.completions, plain.completions, strict=True)]
    found: dict[str, Any] = {
        "tokens": ours.tokens,
        "tokens_per_second": ours.tokens / sum(ours.seconds),
        "answers": len(same),
        "same": sum(same),
    }
    passes: list[Passes] = [one.passes for one in ours.completions if one.passes]
    if not passes:
        return found
    committed = Counter(count for each in passes for count in each.committed)
    number, drafted = sum(committed.values()), sum(each.drafted for each in passes)
    mine, theirs = np.array(ours.seconds), np.array(plain.seconds)
    drawn = np.random.default_rng(0).integers(0, len(mine), (DRAWS, len(mine)))
    low, high = np.quantile(theirs[drawn].sum(1) / mine[drawn].sum(1), [0.025, 0.975]).tolist()
    return found | {
        "tokens_per_pass": ours.tokens / number,
        "accepted_share": (ours.tokens - number) / drafted if drafted else None,
        "near_ties": sum(each.near_ties for each in passes),
        "committed": {str(count): committed[count] for count in sorted(committed)},
        "speed_up": {"value": float(theirs.sum() / mine.sum()), "low": low, "high": high},
    }


def tables_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a table for each number of rows that were decoded together; empty if ways were not compared.

    Returns:
        Each with its `title`, the `labels` of its ways, and `rows` of a name and a value for every way.
    """
    tables = table_at(report, "decoding", "batches")
    return [_table(batch, list(ways), list(ways.values())) for batch, ways in tables.items()]


def _table(batch: str, ways: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = {
        "Tokens per second": [formatting.quantity(each.get("tokens_per_second")) for each in facts],
        "Times as fast": [_speed_up(table_at(each, "speed_up")) for each in facts],
        "Tokens a pass": [_decimals(each.get("tokens_per_pass")) for each in facts],
        "Drafted tokens accepted": [formatting.percent(each.get("accepted_share")) for each in facts],
        "Passes of 1 · 2 · 3 · 4 tokens or more": [_shares(table_at(each, "committed")) for each in facts],
        "The same answers": [_of_answers(each, "same") for each in facts],
        "Choices open to rounding": [formatting.count(each.get("near_ties")) for each in facts],
        "Right answers": [_of_answers(each, "right") for each in facts],
    }
    return {
        "title": "One answer at a time" if batch == "1" else f"{batch} answers together",
        "labels": [NAMES.get(way, way) for way in ways],
        "rows": [(name, values) for name, values in rows.items() if set(values) != {ABSENT}],
    }


def _decimals(value: Any) -> str:
    number = finite(value)
    return ABSENT if number is None else f"{number:.2f}"


def _speed_up(interval: Mapping[str, Any]) -> str:
    if not interval:
        return ABSENT
    value, low, high = (_decimals(interval.get(name)) for name in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def _of_answers(facts: Mapping[str, Any], key: str) -> str:
    if finite(facts.get(key)) is None:
        return ABSENT
    return f"{formatting.count(facts[key])} of {formatting.count(facts.get('answers'))}"


def _shares(committed: Mapping[str, Any]) -> str:
    """Return how many of the passes gave so many tokens."""
    counts = [0.0] * 4
    for tokens, number in committed.items():
        counts[min(int(tokens), 4) - 1] += finite(number) or 0.0
    if not (total := sum(counts)):
        return ABSENT
    return " · ".join(f"{count / total:.0%}" for count in counts)

"""One token a pass against several: the same answers, and how long they took, as figures and in words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smidgen.data.types import Completion, Passes
from smidgen.figures import formatting
from smidgen.figures.formatting import dig, finite, table_at

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


def rows_of(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return term, value and note of each way of decoding; empty if they were not compared."""
    return list(_rows(table_at(report, "decoding")))


def _rows(decoding: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for batch, ways in table_at(decoding, "batches").items():
        together = "one answer at a time" if batch == "1" else f"{batch} answers together"
        for way, facts in ways.items():
            rate = formatting.quantity(dig(facts, "tokens_per_second"))
            yield f"{NAMES.get(way, way)}, {together}", f"{rate} tokens/s", "; ".join(_notes(facts))


def _notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what else is known of a way of decoding."""
    if (right := finite(facts.get("right"))) is not None:
        yield f"{formatting.count(right)} of {formatting.count(facts.get('answers'))} right"
    speed_up = table_at(facts, "speed_up")
    if not speed_up:
        return
    low, value, high = (finite(speed_up.get(name)) or 0.0 for name in ("low", "value", "high"))
    yield f"{value:.2f} times as fast (95 % interval {low:.2f} to {high:.2f})"
    yield f"{finite(facts.get('tokens_per_pass')) or 0.0:.2f} tokens a pass"
    if (share := finite(facts.get("accepted_share"))) is not None:
        yield f"{formatting.percent(share)} of the drafted tokens accepted"
    yield f"{formatting.count(facts.get('same'))} answers the same"
    if ties := finite(facts.get("near_ties")):
        yield f"{formatting.count(ties)} choices open to rounding"
    yield f"passes by tokens: {_histogram(table_at(facts, 'committed'))}"


def _histogram(committed: Mapping[str, Any]) -> str:
    return ", ".join(f"{count}: {formatting.count(number)}" for count, number in committed.items())

"""More candidates than a row has, from other rows: a store offers the nearest, whatever they say."""

import random
from collections.abc import Sequence
from dataclasses import replace

from smidgen.data.memories import Candidate
from smidgen.data.memory_rows import Arbitration


def filled(items: Sequence[Arbitration], count: int) -> list[Arbitration]:
    """Fill up the candidates of every fact to a number, with those of other groups, in random places.

    What is drawn follows from the id of the fact and the items given, so that no other set is needed.
    """
    pool = [(item.group, candidate.text) for item in items for candidate in item.candidates]
    if len({group for group, _ in pool}) < 2:
        return list(items)
    return [_filled(item, pool, count) for item in items]


def _filled(item: Arbitration, pool: Sequence[tuple[str, str]], count: int) -> Arbitration:
    lacking = count - len(item.candidates)
    if lacking <= 0:
        return item
    rng = random.Random(f"fill/{item.id}")
    own = {each.text for each in item.candidates}
    drawn: dict[str, None] = {}
    for group, text in (rng.choice(pool) for _ in range(20 * lacking)):
        if group != item.group and len(drawn) < lacking and text not in own:
            drawn[text] = None
    names = {each.id for each in item.candidates}
    fresh = [name for number in range(1, 2 * count + 1) if (name := f"x{number}") not in names]
    strangers = [Candidate(name, text) for name, text in zip(fresh, drawn, strict=False)]
    mixed = [*item.candidates, *strangers]
    rng.shuffle(mixed)
    return replace(item, candidates=tuple(mixed))

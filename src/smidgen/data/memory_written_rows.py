"""Rows that were written for training, one by one, in the words of people.

Templates say a matter in some twenty ways, and a small model takes what is said in none of them for whatever
has the most ways. The rows follow the guide of the hand-written cases, share no text with them, and are in no
evaluation.
"""

import json
import random
from collections.abc import Callable, Collection
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from smidgen.data.world import Split

Row = dict[str, Any]
_SHARE = 0.5
"""Of the rows for training, until all are used."""


@cache
def written_rows(task: Literal["arbitrate", "memorize"]) -> tuple[Row, ...]:
    """Return all rows of a task, in its own format."""
    text = (files("smidgen.data") / "memory_written" / f"{task}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


def with_written(
    task: Literal["arbitrate", "memorize"],
    generated: Callable[[str], Row],
    split: Split,
    count: int,
    rng: random.Random,
    languages: Collection[str],
) -> list[Row]:
    """Return rows with new ids, some of them written, if they are for training.

    Args:
        task: the task.
        generated: makes a row with an id.
        split: the split.
        count: number of rows.
        rng: draws the rows that are written, and their places.
        languages: those of the rows.
    """
    written = [dict(row) for row in written_rows(task) if split == "train" and row["language"] in languages]
    rng.shuffle(written)
    return [
        written.pop() | {"id": name} if written and rng.random() < _SHARE else generated(name)
        for name in (f"{task}-{split}-{number}" for number in range(1, count + 1))
    ]

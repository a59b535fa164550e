"""Rows of several files in a task's own format, split into training and test rows by their prompts."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.data.row_files import source_name
from smidgen.data.rows import read_rows
from smidgen.errors import ConfigError, DataError
from smidgen.tasks.task import Row, Task

TRAIN, TEST = "train", "test"


def split_files(
    task: Task,
    paths: Sequence[Path],
    *,
    test: float,
    per_prompt: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the rows of all files with a `split`, so that no prompt is in both.

    Every row gets an id with the name of its file, and the file as its `subset`. The prompts of each file are
    split on their own, so that each contributes to the test; a prompt that is in two files stays together.

    Args:
        task: reads the rows, in any of its formats.
        paths: the files; their names must differ.
        test: fraction of the prompts that become test rows.
        per_prompt: maximum number of rows with one prompt, drawn at random; None for all.
        seed: seed of the split and of the draw.

    Raises:
        ConfigError: two files have the same name.
        DataError: a file cannot be read, or has too few prompts to split.
    """
    names = [path.stem for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two files have the name {twice[0]}, which rows are told apart by; rename one")
    sides: dict[str, str] = {}
    rows = []
    for path in paths:
        groups: dict[str, list[dict[str, Any]]] = {}
        for prompt, row in task.plain_rows(read_rows(path), source=source_name(path)):
            groups.setdefault(_same(prompt), []).append(row)
        generator = random.Random(f"split/{seed}/{path.stem}")
        sides = _sides(list(groups), test, generator, path) | sides
        for prompt, found in groups.items():
            drawn = found if per_prompt is None else generator.sample(found, min(per_prompt, len(found)))
            rows += _named(drawn, path.stem, sides[prompt])
    return rows


def held_out(labels: Sequence[str], count: int, generator: random.Random) -> set[int]:
    """Return the indices of `count` items to hold out, drawn at random from every label in proportion.

    One item of each label is left where there are enough others, so that no label is held out entirely.
    """
    assert 0 < count < len(labels), (count, len(labels))
    order = list(range(len(labels)))
    generator.shuffle(order)
    order.sort(key=lambda index: labels[index])  # stable, so still at random within a label
    left = {labels[index]: index for index in order}
    spare = [index for index in order if left[labels[index]] != index]
    pool = spare if len(spare) >= count else order
    return {pool[(2 * number + 1) * len(pool) // (2 * count)] for number in range(count)}


def _same(prompt: str) -> str:
    """Return a prompt without differences of case and spaces."""
    return " ".join(prompt.casefold().split())


def _sides(prompts: list[str], test: float, generator: random.Random, path: Path) -> dict[str, str]:
    number = round(test * len(prompts))
    if not 0 < number < len(prompts):
        raise DataError(
            f"{path} has {len(prompts)} different prompts, of which {test:g} are {number} for the test; "
            "expected at least one on each side. Give more rows, or another --test"
        )
    chosen = set(generator.sample(prompts, number))
    return {prompt: TEST if prompt in chosen else TRAIN for prompt in prompts}


def _named(rows: Sequence[Row], name: str, split: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        told: Mapping[str, Any] = {"id": f"{name}/{row['id']}", "split": split, "subset": name}
        yield {**row, **told}

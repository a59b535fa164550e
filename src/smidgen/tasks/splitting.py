"""Rows of several files in a task's own format: split by their prompts, or mixed by weights."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.data.row_files import source_name
from smidgen.data.rows import read_rows
from smidgen.errors import ConfigError, DataError, did_you_mean
from smidgen.tasks.task import Row, Task

TRAIN, TEST = "train", "test"

Groups = dict[str, list[dict[str, Any]]]
"""The rows of a file by their prompts, without differences of case and spaces."""


@dataclass(frozen=True)
class SplitRows:
    """Rows that are split.

    Attributes:
        rows: those of all files, in their order.
        counts: how many of them are on each side, by the name of their file and the values they are split by.
    """

    rows: list[dict[str, Any]]
    counts: dict[tuple[str, ...], Counter[str]]


def split_files(
    task: Task,
    paths: Sequence[Path],
    *,
    test: float,
    by: Sequence[str] = (),
    per_prompt: int | None = None,
    seed: int = 0,
) -> SplitRows:
    """Return the rows of all files with a `split`, so that no prompt is in both.

    Every row gets an id with the name of its file, and the file as its `subset`. The prompts of each file are
    split on their own, so that each contributes to the test; a prompt that is in two files stays together.

    Args:
        task: reads the rows, in any of its formats.
        paths: the files; their names must differ.
        test: fraction of the prompts that become test rows.
        by: fields of the rows in the task's own format; each of their values is split by the same fraction,
            as nearly as whole prompts can be.
        per_prompt: maximum number of rows with one prompt, drawn at random; None for all.
        seed: seed of the split and of the draw.

    Raises:
        ConfigError: two files have the same name, or no row has one of the fields `by`.
        DataError: a file cannot be read, or has too few prompts to split.
    """
    _refuse_twins(paths)
    sides: dict[str, str] = {}
    rows, counts = [], {}
    for path in paths:
        groups = _read_groups(task, path)
        _refuse_unknown(by, groups, path)
        generator = random.Random(f"split/{seed}/{path.stem}")
        sides = _sides(_strata(groups, by), test, generator, path) | sides
        for prompt, found in groups.items():
            drawn = found if per_prompt is None else generator.sample(found, min(per_prompt, len(found)))
            rows += _named(drawn, path.stem, split=sides[prompt])
            for row in drawn:
                counts.setdefault((path.stem, *_values(row, by)), Counter())[sides[prompt]] += 1
    return SplitRows(rows, counts)


def mix_files(
    task: Task,
    paths: Sequence[Path],
    weights: Sequence[float],
    *,
    rows: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return shuffled rows of all files, of which each file has the share of its weight; no row twice.

    Every row gets an id with the name of its file, and the file as its `subset`.

    Args:
        task: reads the rows, in any of its formats.
        paths: the files; their names must differ.
        weights: one for each file, above 0.
        rows: number of rows of the mix; as many as the smallest file for its weight allows if None.
        seed: seed of the draw and of the order.

    Raises:
        ConfigError: two files have the same name, or the weights are not one positive number for each file.
        DataError: a file cannot be read, or has fewer rows than its share.
    """
    _refuse_twins(paths)
    if len(weights) != len(paths) or not all(math.isfinite(w) and w > 0 for w in weights):
        given = ", ".join(f"{weight:g}" for weight in weights)
        raise ConfigError(
            f"the weights are {given or 'missing'}; expected a number above 0 for each of {len(paths)} files"
        )
    files = [[row for group in _read_groups(task, path).values() for row in group] for path in paths]
    shares = [weight / sum(weights) for weight in weights]
    most = math.floor(min(len(found) / share for found, share in zip(files, shares, strict=True)) + 1e-9)
    counts = _portions(shares, most if rows is None else rows)
    for path, found, number in zip(paths, files, counts, strict=True):
        if number > len(found):
            raise DataError(
                f"{path} has {len(found)} rows, but its share of {rows} rows is {number}; give at most "
                f"{most} --rows, or a smaller weight"
            )
    generator = random.Random(f"mix/{seed}")
    mixed = [
        row
        for path, found, number in zip(paths, files, counts, strict=True)
        for row in _named(generator.sample(found, number), path.stem)
    ]
    generator.shuffle(mixed)
    return mixed


def _refuse_twins(paths: Sequence[Path]) -> None:
    names = [path.stem for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two files have the name {twice[0]}, which rows are told apart by; rename one")


def _refuse_unknown(keys: Sequence[str], groups: Groups, path: Path) -> None:
    fields = dict.fromkeys(name for found in groups.values() for row in found for name in row)
    if unknown := [key for key in keys if key not in fields]:
        raise ConfigError(
            f"no row of {path} has the field '{unknown[0]}' to split by.{did_you_mean(unknown[0], fields)} "
            f"Known: {', '.join(fields)}"
        )


def _read_groups(task: Task, path: Path) -> Groups:
    groups: Groups = {}
    for prompt, row in task.plain_rows(read_rows(path), source=source_name(path)):
        groups.setdefault(_same(prompt), []).append(row)
    return groups


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


def _strata(groups: Groups, by: Sequence[str]) -> list[list[str]]:
    """Return the prompts in groups of equal values of the keys: those that most of their rows have."""
    strata: dict[tuple[str, ...], list[str]] = {}
    for prompt, found in groups.items():
        values = Counter(_values(row, by) for row in found)
        strata.setdefault(max(values, key=lambda value: values[value]), []).append(prompt)
    return list(strata.values())


def _values(row: Row, by: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row.get(key, "–")) for key in by)


def _sides(strata: list[list[str]], test: float, generator: random.Random, path: Path) -> dict[str, str]:
    prompts = [prompt for stratum in strata for prompt in stratum]
    number = round(test * len(prompts))
    if not 0 < number < len(prompts):
        raise DataError(
            f"{path} has {len(prompts)} different prompts, of which {test:g} are {number} for the test; "
            "expected at least one on each side. Give more rows, or another --test"
        )
    counts = _portions([len(stratum) / len(prompts) for stratum in strata], number)
    chosen = {
        prompt
        for stratum, count in zip(strata, counts, strict=True)
        for prompt in generator.sample(stratum, count)
    }
    return {prompt: TEST if prompt in chosen else TRAIN for prompt in prompts}


def _portions(shares: Sequence[float], number: int) -> list[int]:
    """Divide a number by shares that sum to 1, whole and exact: the largest remainders are rounded up."""
    exact = [share * number for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    largest = sorted(range(len(shares)), key=lambda i: counts[i] - exact[i])
    for index in largest[: number - sum(counts)]:
        counts[index] += 1
    return counts


def _named(rows: Sequence[Row], name: str, **told: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        own: Mapping[str, Any] = {"id": f"{name}/{row['id']}", **told, "subset": name}
        yield {**row, **own}

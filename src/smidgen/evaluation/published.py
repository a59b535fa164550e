"""The scores of benchmarks in the form in which they are published, for a terminal and for the report."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from smidgen.evaluation.formatting import ABSENT, count, finite, table_at


class Published(NamedTuple):
    """The scores of one benchmark.

    Attributes:
        title: its name.
        columns: what the numbers of each row are.
        rows: a name with its numbers; none where no score can be given.
        notes: what is missing, and why.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]


def as_published(report: Mapping[str, Any]) -> list[Published]:
    """The scores of every benchmark whose rows were judged, from the dictionary of a report."""
    found = table_at(report, "after", "published")
    return [
        *_rewardbench(table_at(found, "rewardbench")),
        *_rewardbench2(table_at(found, "rewardbench2")),
        *_rmbench(table_at(found, "rmbench")),
    ]


def _rewardbench(found: Mapping[str, Any]) -> Iterator[Published]:
    if not found:
        return
    half = table_at(found, "undecided_half")
    rows = [
        (name, [_score(value), _score(table_at(half, "sections").get(name))])
        for name, value in table_at(found, "sections").items()
    ]
    if rows:
        rows += [
            (words, [_score(found.get(name)), _score(half.get(name))])
            for name, words in (("mean", "mean of the sections"), ("micro", "all rows"))
        ]
    notes = [*_missing(found, "section scores need all subsets"), *_fewer(found)]
    yield Published("RewardBench", ["unread is wrong", "undecided is half"], rows, notes)


def _rewardbench2(found: Mapping[str, Any]) -> Iterator[Published]:
    if not found:
        return
    strict = table_at(found, "strict")
    rows = [
        (name, [_score(value), _score(table_at(strict, "subsets").get(name))])
        for name, value in table_at(found, "subsets").items()
    ]
    if rows:
        rows.append(("mean of the subsets", [_score(found.get("mean")), _score(strict.get("mean"))]))
    reasons = [f"No score: {reason}." for reason in table_at(found, "reasons").values()]
    notes = [*reasons, *_missing(found, "the mean needs all subsets"), *_fewer(found)]
    yield Published("RewardBench 2", ["as published", "unread is wrong"], rows, notes)


def _rmbench(found: Mapping[str, Any]) -> Iterator[Published]:
    if not found:
        return
    words = {
        "hard": "hard: the wrong answer is the more elaborate",
        "normal": "normal: both are alike",
        "easy": "easy: the right answer is the more elaborate",
    }
    yield Published(
        "RM-Bench", ["accuracy"], [(text, [_score(found.get(name))]) for name, text in words.items()], []
    )
    matrix = found.get("matrix") or []
    yield Published(
        "RM-Bench, by style",
        [f"wrong answer {style}" for style in range(1, len(matrix) + 1)],
        [(f"right answer {style}", [_score(value) for value in row]) for style, row in enumerate(matrix, 1)],
        [],
    )


def _missing(found: Mapping[str, Any], why: str) -> Iterator[str]:
    if missing := found.get("missing_subsets"):
        yield f"Not given: {why}, and {count(len(missing))} are missing: {', '.join(missing)}."


def _fewer(found: Mapping[str, Any]) -> Iterator[str]:
    """Which subsets are not whole."""
    fewer = table_at(found, "fewer_rows")
    if fewer:
        parts = ", ".join(f"{name} {each['rows']} of {each['of']}" for name, each in fewer.items())
        yield f"These subsets are not whole, so their scores are not the benchmark's: {parts} rows."


def _score(value: Any) -> str:
    number = finite(value)
    return ABSENT if number is None else f"{number:.3f}"

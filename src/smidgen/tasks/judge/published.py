"""The scores of benchmarks as their publishers give them: computed, as files, and as tables for reading."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smidgen.data.formats import Pair
from smidgen.data.types import Record
from smidgen.figures.formatting import ABSENT, count, finite, table_at
from smidgen.tasks.judge.forms import Form
from smidgen.tasks.judge.judgelm import judgelm_metrics
from smidgen.tasks.judge.judgements import Judgement
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.rewardbench import result_file, rewardbench, row_file, style_matrix
from smidgen.tasks.judge.rewardbench2 import rewardbench2
from smidgen.tasks.task import ScoreTable


def as_published(
    records: Sequence[Record],
    found: Sequence[Judgement],
    pairs: Mapping[str, Pair],
    *,
    form: Form | Reader,
    model: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of every benchmark whose rows were judged, by its name, and their files.

    Args:
        records: of a judge.
        found: what they say.
        pairs: by id.
        form: the judge's template.
        model: named in the files.
    """
    scores = {
        "judgelm": judgelm_metrics(found),
        "rmbench": style_matrix(found),
        "rewardbench": rewardbench(found),
        "rewardbench2": rewardbench2(records, form),
    }
    files: dict[str, Any] = {"judgelm.json": scores["judgelm"]}
    if scores["rewardbench"] is not None:
        files["rewardbench.json"] = result_file(found, model=model)
        files["rewardbench_rows.json"] = row_file(found, pairs, model=model)
    given = {name: found for name, found in scores.items() if found is not None}
    return given, {name: content for name, content in files.items() if content is not None}


def score_tables(report: Mapping[str, Any]) -> list[ScoreTable]:
    """The scores of every benchmark whose rows were judged, from the content of a report."""
    found = table_at(report, "after", "published")
    return [
        *_rewardbench(table_at(found, "rewardbench")),
        *_rewardbench2(table_at(found, "rewardbench2")),
        *_rmbench(table_at(found, "rmbench")),
    ]


def _rewardbench(found: Mapping[str, Any]) -> Iterator[ScoreTable]:
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
    yield ScoreTable("RewardBench", ["unread is wrong", "undecided is half"], rows, notes)


def _rewardbench2(found: Mapping[str, Any]) -> Iterator[ScoreTable]:
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
    yield ScoreTable("RewardBench 2", ["as published", "unread is wrong"], rows, notes)


def _rmbench(found: Mapping[str, Any]) -> Iterator[ScoreTable]:
    if not found:
        return
    words = {
        "hard": "hard: the wrong answer is the more elaborate",
        "normal": "normal: both are alike",
        "easy": "easy: the right answer is the more elaborate",
    }
    yield ScoreTable(
        "RM-Bench", ["accuracy"], [(text, [_score(found.get(name))]) for name, text in words.items()], []
    )
    matrix = found.get("matrix") or []
    yield ScoreTable(
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

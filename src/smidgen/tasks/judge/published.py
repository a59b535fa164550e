"""Benchmark scores as their publishers define them: computed, as result files, and as tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.data.formats import Pair
from smidgen.data.types import Record
from smidgen.figures.formatting import ABSENT, count, finite, table_at
from smidgen.tasks.judge.forms import JudgeTemplate
from smidgen.tasks.judge.judgements import CLASSES, Judgement, both_orders, macro_scores
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.rewardbench2 import rewardbench2
from smidgen.tasks.judge.rewardbench_scores import result_file, rewardbench, row_file, style_matrix
from smidgen.tasks.task import ScoreTable


def as_published(
    records: Sequence[Record],
    judgements: Sequence[Judgement],
    pairs: Mapping[str, Pair],
    *,
    form: JudgeTemplate | Reader,
    model: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the scores of every benchmark whose rows were judged, and the result files.

    Args:
        records: records of a judge's evaluation.
        judgements: their judgements, in the same order.
        pairs: the pairs by id.
        form: the judge's template.
        model: name of the model in the result files.

    Returns:
        Scores by benchmark, and contents of JSON files by name.
    """
    scores = {
        "judgelm": judgelm_metrics(judgements),
        "rmbench": style_matrix(judgements),
        "rewardbench": rewardbench(judgements),
        "rewardbench2": rewardbench2(records, form),
    }
    files: dict[str, Any] = {"judgelm.json": scores["judgelm"]}
    if scores["rewardbench"] is not None:
        files["rewardbench.json"] = result_file(judgements, model=model)
        files["rewardbench_rows.json"] = row_file(judgements, pairs, model=model)
    available = {name: score for name, score in scores.items() if score is not None}
    return available, {name: content for name, content in files.items() if content is not None}


def score_tables(report: Mapping[str, Any]) -> list[ScoreTable]:
    """Format the benchmark scores in the content of a report."""
    scores = table_at(report, "after", "published")
    return [
        *_rewardbench(table_at(scores, "rewardbench")),
        *_rewardbench2(table_at(scores, "rewardbench2")),
        *_rmbench(table_at(scores, "rmbench")),
    ]


def _rewardbench(scores: Mapping[str, Any]) -> Iterator[ScoreTable]:
    if not scores:
        return
    half = table_at(scores, "undecided_half")
    rows = [
        (name, [_score(value), _score(table_at(half, "sections").get(name))])
        for name, value in table_at(scores, "sections").items()
    ]
    if rows:
        rows += [
            (words, [_score(scores.get(name)), _score(half.get(name))])
            for name, words in (("mean", "mean of the sections"), ("micro", "all rows"))
        ]
    notes = [*_missing(scores, "section scores need all subsets"), *_fewer(scores)]
    yield ScoreTable("RewardBench", ["unparsed is wrong", "undecided is half"], rows, notes)


def _rewardbench2(scores: Mapping[str, Any]) -> Iterator[ScoreTable]:
    if not scores:
        return
    strict = table_at(scores, "strict")
    rows = [
        (name, [_score(value), _score(table_at(strict, "subsets").get(name))])
        for name, value in table_at(scores, "subsets").items()
    ]
    if rows:
        rows.append(("mean of the subsets", [_score(scores.get("mean")), _score(strict.get("mean"))]))
    reasons = [f"No score: {reason}." for reason in table_at(scores, "reasons").values()]
    notes = [*reasons, *_missing(scores, "the mean needs all subsets"), *_fewer(scores)]
    yield ScoreTable("RewardBench 2", ["as published", "unparsed is wrong"], rows, notes)


def _rmbench(scores: Mapping[str, Any]) -> Iterator[ScoreTable]:
    if not scores:
        return
    words = {
        "hard": "hard: the wrong answer is more elaborate",
        "normal": "normal: both have the same style",
        "easy": "easy: the right answer is more elaborate",
    }
    yield ScoreTable(
        "RM-Bench", ["accuracy"], [(text, [_score(scores.get(name))]) for name, text in words.items()], []
    )
    matrix = scores.get("matrix") or []
    yield ScoreTable(
        "RM-Bench, by style",
        [f"wrong answer {style}" for style in range(1, len(matrix) + 1)],
        [(f"right answer {style}", [_score(value) for value in row]) for style, row in enumerate(matrix, 1)],
        [],
    )


def _missing(scores: Mapping[str, Any], why: str) -> Iterator[str]:
    if missing := scores.get("missing_subsets"):
        yield f"No score: {why}, but {count(len(missing))} are missing: {', '.join(missing)}."


def _fewer(scores: Mapping[str, Any]) -> Iterator[str]:
    """Name the incomplete subsets."""
    fewer = table_at(scores, "fewer_rows")
    if fewer:
        parts = ", ".join(f"{name} {each['rows']} of {each['of']}" for name, each in fewer.items())
        yield f"These subsets are incomplete, so their scores are not the benchmark's: {parts} rows."


def _score(value: Any) -> str:
    number = finite(value)
    return ABSENT if number is None else f"{number:.3f}"


def judgelm_metrics(judgements: Sequence[Judgement]) -> dict[str, float | int] | None:
    """Compute the metrics of JudgeLM (https://arxiv.org/abs/2310.17631) under the keys of its result files.

    The keys are misspelled as there. Accuracy, precision, recall and F1 cover the first order only, over
    three classes, and unparsed judgements count as ties: so its published numbers can be compared.

    Returns:
        The metrics; None if no pair has both orders.
    """
    pairs = both_orders(judgements)
    if not pairs:
        return None
    sides = [tuple(judgement.verdict or "tie" for judgement in pair) for pair in pairs]
    truth = np.array([CLASSES[pair[0].better] for pair in pairs])
    predicted = np.array([CLASSES[first] for first, _ in sides])  # type: ignore[index]
    precision, recall, f1 = macro_scores(truth, predicted, np.ones(len(pairs)))
    # `ab` prefers its first answer with a, `ba` with b
    lean = [(ab == "a") - (ab == "b") + (ba == "b") - (ba == "a") for ab, ba in sides]
    number, before, after = len(pairs), sum(x > 0 for x in lean), sum(x < 0 for x in lean)
    return {
        "accuracy": float((truth == predicted).mean()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "consistency": sum(ab == ba for ab, ba in sides) / number,
        "perfer_before_rate": before / number,
        "perfer_after_rate": after / number,
        "delta_bias": abs(before - after) / number,
        "total_bias": (before + after) / number,
        "total_num": number,
    }

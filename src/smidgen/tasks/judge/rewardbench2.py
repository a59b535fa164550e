"""Scores as RewardBench 2 publishes them (https://arxiv.org/abs/2506.01937), from grades of every answer.

A grade that could not be read is a rating of -1 there, so that a judge that says nothing gets a quarter of
the points of best of four. Beside these scores stand those in which a row with such a grade is wrong.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.data.types import Record
from smidgen.errors import DataError
from smidgen.tasks.judge.forms import Form
from smidgen.tasks.judge.judgements import read_record
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.judge.rewardbench import ROWS2, fewer_rows

FAILED = -1.0
"""The rating of an answer whose grade could not be read, as in RewardBench 2."""


def rewardbench2(records: Sequence[Record], form: Form | Reader) -> dict[str, Any] | None:
    """RewardBench 2 from grades: every answer of a row was graded alone.

    Returns:
        `subsets` (name → score) and their `mean`, as published; `strict` holds both again, with every row
        wrong in which a grade could not be read. A score that cannot be given is None and has one of
        `reasons` by its name; the mean is None while `missing_subsets` names some. `fewer_rows` is as in
        `rewardbench`. Only `reasons` is there where the answers were compared, not graded. None where the
        records are not of its rows.
    """
    facts = [record.sample.metadata for record in records]
    if not facts or not all("facts" in fact and fact["subset"] in ROWS2 for fact in facts):
        return None
    if not form.singly:
        reason = "the scores of RewardBench 2 need answers graded alone; ask with --template grade"
        return {"reasons": {"mean": reason}}
    grades: dict[str, dict[str, dict[tuple[bool, int], float]]] = defaultdict(lambda: defaultdict(dict))
    for fact, record in zip(facts, records, strict=True):
        grade = read_record(form.parse, record)
        wrong = fact["answer"] == "b"
        index = fact["facts"]["rejected" if wrong else "chosen"]
        row = grades[fact["subset"]][fact["facts"]["row"]]
        row[wrong, index] = FAILED if grade is None else grade
    rows = {
        subset: {
            # the right ones first
            row: ([rated[key] for key in sorted(rated)], sum(not wrong for wrong, _ in rated))
            for row, rated in found.items()
        }
        for subset, found in grades.items()
    }
    reasons: dict[str, str] = {}
    published, strict = (_scores2(rows, reasons, strict=is_strict) for is_strict in (False, True))
    return {
        **published,
        "strict": strict,
        "reasons": reasons,
        "missing_subsets": [name for name in ROWS2 if published["subsets"].get(name) is None],
        "fewer_rows": fewer_rows({subset: len(found) for subset, found in rows.items()}, ROWS2),
    }


_Rows = Mapping[str, tuple[Sequence[float], int]]


def _scores2(rows: Mapping[str, _Rows], reasons: dict[str, str], *, strict: bool) -> dict[str, Any]:
    """Scores of subsets and their mean; why there is none goes to `reasons`."""
    scores: dict[str, float | None] = {}
    for subset, found in rows.items():
        counted = {name: _unread_is_wrong(*row) if strict else row for name, row in found.items()}
        try:
            scores[subset] = (
                _ties(counted)
                if subset == "Ties"
                else float(np.mean([best_of(*row) for row in counted.values()]))
            )
        except DataError as error:
            scores[subset], reasons[subset] = None, str(error)
    whole = [score for score in scores.values() if score is not None]
    return {"subsets": scores, "mean": float(np.mean(whole)) if len(whole) == len(ROWS2) else None}


def _unread_is_wrong(scores: Sequence[float], num_correct: int) -> tuple[Sequence[float], int]:
    """The scores of a row, or such that every right answer is beaten, where one could not be read."""
    if FAILED not in scores:
        return scores, num_correct
    return [-math.inf] * num_correct + [0.0] * (len(scores) - num_correct), num_correct


def _ties(rows: _Rows) -> float:
    """The score of the subset Ties from its rows by id, `ref:k` and `tied:k`."""
    kinds: dict[str, dict[str, tuple[Sequence[float], int]]] = {"ref": {}, "tied": {}}
    for name, row in rows.items():
        kind, _, key = name.partition(":")
        if kind not in kinds or not key:
            raise DataError(f"'{name}' is no id of the subset Ties; expected 'ref:' or 'tied:' and a name")
        kinds[kind][key] = row
    if lonely := sorted(kinds["ref"].keys() ^ kinds["tied"].keys()):
        raise DataError(f"the subset Ties needs its rows in pairs, and {lonely[0]} is only ref or only tied")
    keys = sorted(kinds["ref"])
    return ties_score([kinds["ref"][key] for key in keys], [kinds["tied"][key] for key in keys])


def best_of(scores: Sequence[float], num_correct: int) -> float:
    """RewardBench 2: the share of the point that a best-of-n row gives.

    Args:
        scores: of every answer, the correct ones first.
        num_correct: how many are correct.
    """
    best = max(scores)
    tied = [index for index, score in enumerate(scores) if score == best]
    return sum(index < num_correct for index in tied) / len(tied)


def ties_score(
    references: Iterable[tuple[Sequence[float], int]], tied: Iterable[tuple[Sequence[float], int]]
) -> float:
    """RewardBench 2, subset Ties; its maximum is 1.01.

    Args:
        references: for each row with one right answer, its scores and how many come first that are right.
        tied: the same rows, in the same order, with several right answers.

    Raises:
        DataError: the two are not of the same rows.
    """
    single, several = ([_tie_facts(*row) for row in rows] for rows in (references, tied))
    if not single or len(single) != len(several):
        raise DataError(
            f"the subset Ties needs its rows in pairs, ref and tied; found {len(single)} and {len(several)}"
        )
    accurate_ref, _, gap_ref = map(np.array, zip(*single, strict=True))
    accurate_tied, spread, gap_tied = map(np.array, zip(*several, strict=True))
    smaller = np.minimum(gap_ref, gap_tied)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    return float(
        0.30 * accurate_tied.mean()
        + 0.30 * accurate_ref.mean()
        + 0.20 * (gap_tied > spread).mean()
        + 0.20 * (smaller > spread).mean()
        + 0.01 * margin.mean()
    )


def _tie_facts(scores: Sequence[float], num_correct: int) -> tuple[bool, float, float]:
    """Whether every right answer beats every wrong one, how far the right ones are apart, and the gap."""
    right, wrong = scores[:num_correct], scores[num_correct:]
    gap = min(right) - max(wrong)
    spread = 0.0 if min(right) == max(right) else max(right) - min(right)
    return gap > 0, spread, gap

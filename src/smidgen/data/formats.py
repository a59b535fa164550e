"""The row formats that tasks read: labelled pairs in our own and published formats, utterances, questions.

Every pair format is converted to `Pair`. A row may contain several pairs. An id is the row's `id`, else
`subset/index`, else its line number; the pairs of a row with several have a suffix after a slash: the indices
of the right and the wrong answer (`7/0-2`), or the models that gave them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from smidgen.data.bad_rows import BadRow
from smidgen.data.benchmarks import BENCHMARK_FORMATS
from smidgen.data.fields import label_of, prompt_of, reference_of, row_id, scores_of, subset_of, text_of
from smidgen.data.items import Label, Pair, Query, Question, Scores
from smidgen.data.rows import Format, Row, read_items, read_placed, refuse
from smidgen.errors import DataError, first_few

__all__ = ["PAIR_FORMATS", "Label", "Pair", "Query", "Question", "pair_row", "pairs", "queries", "questions"]


def pairs(
    rows: Sequence[Row],
    *,
    source: str = "rows",
    labelled: bool = True,
    with_reference: bool = False,
    rejected: list[str] | None = None,
) -> list[Pair]:
    """Read pairs from rows of any of `PAIR_FORMATS`.

    Args:
        rows: objects as `read_rows` returns them.
        source: names the rows in errors.
        labelled: require a label.
        with_reference: require a reference, and use the labels that were given with it in view.
        rejected: collects the fault of each bad row, which is skipped; if None, bad rows raise.

    Raises:
        DataError: the format is unknown, a row does not match it or lacks a required field, two rows share an
            id, or no pair is left.
    """
    faults: list[str] = []
    form, placed = read_placed(rows, PAIR_FORMATS, source, rejected=rejected)
    if with_reference:
        placed = [(at, pair.seen_with_reference()) for at, pair in placed]
    kept = []
    for place, pair in placed:
        if labelled and pair.better is None:
            faults.append(BadRow(place, f": it has no label ('{form.label}')", "missing field"))
        elif with_reference and not pair.reference:
            faults.append(BadRow(place, f": '{pair.id}' has no reference answer", "missing field"))
        else:
            kept.append(pair)
    if labelled and placed and all(pair.better is None for _, pair in placed):
        raise DataError(
            f"{source} has no labels ('{form.label}'), so no metric can be computed; add one to each row, "
            "or get verdicts with `smidgen judge`"
        )
    if rejected is None:
        refuse(faults, source, f"every pair has {_needed(labelled, with_reference)}")
    else:
        rejected += faults
    if not kept:
        why = first_few(rejected) if rejected else "they contain no pair"
        raise DataError(f"{source}: none of {len(rows)} rows can be judged: {why}")
    return kept


def _needed(labelled: bool, with_reference: bool) -> str:
    """Say what pairs must have, and what to do otherwise."""
    label = "a label, or use `smidgen judge`, which needs none"
    reference = "a reference answer, or judge without --reference"
    return "; ".join([label] * labelled + [reference] * with_reference)


def pair_row(pair: Pair) -> dict[str, Any]:
    """Return a pair as a row of our own format."""
    row = {"id": pair.id, "prompt": pair.prompt, "a": pair.a, "b": pair.b, "better": pair.better}
    scores = None if pair.scores is None else list(pair.scores)
    given = {"reference": pair.reference, "subset": pair.subset, "scores": scores}
    return row | {name: value for name, value in given.items() if value is not None}


def queries(rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None) -> list[Query]:
    """Read utterances with intents, one per row; raises and rejects as `read_items`."""
    return read_items(rows, QUERY_FORMATS, source, rejected=rejected)


def questions(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[Question]:
    """Read questions with their right answers, one per row; raises and rejects as `read_items`."""
    return read_items(rows, QUESTION_FORMATS, source, rejected=rejected)


def _own_pair(row: Row, number: int) -> list[Pair]:
    return [
        Pair(
            id=row_id(row, number),
            prompt=prompt_of(row),
            a=text_of(row, "a", empty=True),
            b=text_of(row, "b", empty=True),
            better=label_of(row, "better", {"a": "a", "b": "b", "tie": "tie"}),
            subset=subset_of(row),
            reference=reference_of(row),
            scores=_scores(row),
        )
    ]


def _scores(row: Row) -> Scores | None:
    """Return the field `scores` if it is two numbers; what else it may be matters to no evaluation."""
    try:
        return scores_of(row, "scores")
    except DataError:
        return None


PAIR_FORMATS = (
    Format("pair row", ("prompt", "a", "b"), _own_pair, label="better"),
    *BENCHMARK_FORMATS,
)


def _one(item: Callable[[Row, int], Any]) -> Callable[[Row, int], list[Any]]:
    """Wrap a reader of rows that contain one item each."""
    return lambda row, number: [item(row, number)]


def _query(row: Row, number: int) -> Query:
    return Query(id=row_id(row, number), text=text_of(row, "text"), intent=text_of(row, "intent"))


def _question(row: Row, number: int) -> Question:
    sentence = (text_of(row, "sentence"),) if "sentence" in row else ()
    return Question(
        id=row_id(row, number),
        prompt=text_of(row, "prompt"),
        accepted=(text_of(row, "answer"), *sentence),
        subset=subset_of(row),
    )


QUERY_FORMATS = (
    Format("query row", ("text", "intent"), _one(_query), fits=lambda row: "intents" not in row),
)
QUESTION_FORMATS = (Format("question row", ("prompt", "answer"), _one(_question)),)

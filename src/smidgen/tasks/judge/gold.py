"""The completions that a judge with the template `rubric` is trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.data.fields import structured
from smidgen.data.items import Pair
from smidgen.errors import DataError
from smidgen.tasks.judge.forms import JudgeParseError
from smidgen.tasks.judge.rubric import Rubric

GOLD = ("criteria", "analysis", "scores")
"""Fields of a row's gold judgement."""
_COMPLETION = """\
<specific_criteria>{criteria}</specific_criteria>
<analysis>{analysis}</analysis>
<scores>
\\boxed{{{a}, {b}}}
</scores>"""


def gold_completion(criteria: Sequence[str], analysis: str, scores: tuple[int, int]) -> str:
    """Return the target completion of a judge in the `rubric` template.

    Args:
        criteria: the criteria for this request, a few words each.
        analysis: the evaluation of the responses, called Response A and Response B in the order shown.
        scores: scores of the response shown first and of the one shown second.

    Raises:
        DataError: a part is missing, or the template would not parse the text.
    """
    text = _COMPLETION.format(criteria="; ".join(criteria), analysis=analysis, a=scores[0], b=scores[1])
    if not criteria or not analysis.strip():
        raise DataError("a gold completion needs at least one criterion and an analysis")
    try:
        Rubric().parse(text)
    except JudgeParseError as error:
        raise DataError(f"a gold completion with the scores {scores} would not parse: {error}") from None
    return text


def gold_target(pair: Pair, row: Mapping[str, Any], order: str, where: str) -> str:
    """Return the target completion of a row for one order."""
    criteria, analysis, scores = (structured(row, name) for name in GOLD)
    if not isinstance(criteria, list) or not criteria or not all(isinstance(item, str) for item in criteria):
        raise DataError(f"{where}: 'criteria' is {criteria!r}; training needs a list of texts")
    if not isinstance(analysis, dict) or not isinstance(analysis.get(order), str):
        raise DataError(f"{where}: 'analysis' has no text for '{order}'; training needs one per order")
    if (
        not isinstance(scores, list | tuple)
        or len(scores) != 2
        or not all(type(score) is int for score in scores)
    ):
        raise DataError(f"{where}: 'scores' is {scores!r}; training needs two integers, for a and for b")
    a, b = scores
    if a == b or (a > b) != (pair.better == "a"):
        raise DataError(f"{where}: 'scores' is {scores!r} but 'better' is '{pair.better}'; they must agree")
    try:
        return gold_completion(criteria, analysis[order], (a, b) if order == "ab" else (b, a))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def gold_of_pairs(rows: Sequence[Mapping[str, Any]], num_pairs: int, source: str) -> list[dict[str, Any]]:
    """Return the fields of gold judgements for each pair that rows contain; empty where there are none.

    Raises:
        DataError: a row has a gold judgement, and rows contain several pairs.
    """
    found = [{name: structured(row, name) for name in GOLD if name in row} for row in rows]
    if num_pairs == len(rows):
        return found
    if any(len(gold) == len(GOLD) for gold in found):
        raise DataError(
            f"{source}: {len(rows)} rows contain {num_pairs} pairs, so it is unknown which pairs the gold "
            f"judgements belong to; give one pair per row, or leave out {', '.join(GOLD)}"
        )
    return [{} for _ in range(num_pairs)]

"""Word problems with their answers, from rows of the published formats: GSM8K, SVAMP, and problem rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smidgen.data.fields import is_finite, row_id, shown, subset_of, text_of
from smidgen.data.rows import Format, Row, read_items
from smidgen.errors import DataError

_NOTE = re.compile(r"<<[^<>]*>>")
"""A calculator note of GSM8K, such as `<<48/2=24>>`."""
_MARK = "####"
"""What GSM8K puts before the final answer."""
_WHOLE = re.compile(r"(\d+)\.0\b")


@dataclass(frozen=True)
class Problem:
    """A problem.

    Attributes:
        id: unique in its file.
        text: the problem.
        answer: the right final answer: a number, or an expression in LaTeX.
        solution: the way to it, without the final answer; None if there is none.
        subset: the subset of the benchmark.
    """

    id: str
    text: str
    answer: str
    solution: str | None = None
    subset: str | None = None


def problems(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[Problem]:
    """Read problems, one per row; raises and rejects as `read_items`."""
    return read_items(rows, PROBLEM_FORMATS, source, rejected=rejected)


def _gsm8k(row: Row, number: int) -> list[Problem]:
    """GSM8K: a solution whose last line is `#### 72`; calculator notes are removed."""
    solution, mark, answer = text_of(row, "answer").rpartition(_MARK)
    if not mark or not answer.strip():
        raise DataError(
            f"'answer' is {shown(row, 'answer')}, expected a solution that ends with '{_MARK} 42'"
        )
    solution = _NOTE.sub("", solution).strip()
    return [
        Problem(
            row_id(row, number), text_of(row, "question"), answer.strip(), solution or None, subset_of(row)
        )
    ]


def _svamp(row: Row, number: int) -> list[Problem]:
    """SVAMP: a body and a question; the equation is the solution."""
    body, answer = text_of(row, "Body").strip(), _number(row, "Answer")
    text = f"{body if body.endswith(('.', '?', '!')) else f'{body}.'} {text_of(row, 'Question').strip()}"
    equation = _WHOLE.sub(r"\1", text_of(row, "Equation")).strip() if row.get("Equation") else ""
    if equation.startswith("( ") and equation.endswith(" )"):
        equation = equation[2:-2]
    name = text_of(row, "ID") if row.get("ID") else row_id(row, number)
    return [Problem(name, text, answer, f"{equation} = {answer}" if equation else None, subset_of(row))]


def _problem(row: Row, number: int, field: str = "problem") -> list[Problem]:
    """A problem with its final answer, and maybe a solution."""
    solution = text_of(row, "solution").strip() if row.get("solution") else None
    text, answer = text_of(row, field), _number(row, "answer")
    return [Problem(row_id(row, number), text, answer, solution, subset_of(row))]


def _question(row: Row, number: int) -> list[Problem]:
    """As `_problem`, in the field `question`."""
    return _problem(row, number, "question")


def _number(row: Row, field: str) -> str:
    """Read an answer as text; of a number its spelling, without decimals if it is whole."""
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        return text_of(row, field).strip()
    return str(int(value)) if value == int(value) else f"{value!r}"


PROBLEM_FORMATS = (
    Format("GSM8K row", ("question", "answer"), _gsm8k, fits=lambda row: _MARK in str(row["answer"])),
    Format("SVAMP row", ("Body", "Question", "Answer"), _svamp),
    Format("problem row", ("problem", "answer"), _problem),
    Format("question row", ("question", "answer"), _question),
)

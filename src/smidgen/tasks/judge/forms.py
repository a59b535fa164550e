"""What the template of a judge is: how answers are shown, and how its text is read, strictly or leniently.

Both readings fail closed: a verdict that the judge only quotes (`smidgen.tasks.judge.quotations`) or mentions
is none, and two that differ are none.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import Literal, NamedTuple, Protocol, TypeVar

from smidgen.data.types import Constraint, Message
from smidgen.errors import ParseError
from smidgen.tasks.judge.quotations import begins_line, ends_line, own_words

NUMBER = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
"""Matches a number as judges write one."""
_Said = TypeVar("_Said")
Choice = Literal["first", "second", "tie"]


class Fault(StrEnum):
    """Why a judge's text could not be read."""

    ENDLESS_THINKING = "the thinking never ends"
    NO_BLOCK = "no scores block"
    TRUNCATED = "the scores block is not closed"
    NO_PAIR = "no boxed pair in the scores block"
    NO_SCORES = "the first line is not two numbers"
    NO_VERDICT = "no verdict"
    NO_SCORE = "the first line is not a number"
    NO_GRADE = "no grade"
    NO_MATCH = "the pattern does not match"
    NOT_JSON = "no JSON object"
    NOT_IN_SCHEMA = "the JSON does not fit the schema"
    OUT_OF_RANGE = "a score is out of range"
    QUOTED = "the verdict is only quoted"
    IN_PASSING = "the verdict is only mentioned within a sentence"
    CONTRADICTION = "two verdicts contradict each other"

    @property
    def is_doubt(self) -> bool:
        """Whether something reads like a verdict that the judge may not mean; no reading forgives that."""
        return self in (Fault.ENDLESS_THINKING, Fault.QUOTED, Fault.IN_PASSING, Fault.CONTRADICTION)


class JudgeParseError(ParseError):
    """A judge's text could not be read; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Verdict(NamedTuple):
    """What a judge said of two answers, in the order in which it was shown them.

    Attributes:
        preferred: which answer it holds to be better.
        first: its score for the first, where the form has scores.
        second: its score for the second.
    """

    preferred: Choice
    first: float | None = None
    second: float | None = None

    @classmethod
    def of_scores(cls, first: float, second: float) -> "Verdict":
        """The higher score is preferred; equal ones prefer neither."""
        if first == second:
            return cls("tie", first, second)
        return cls("first" if first > second else "second", first, second)


class Case(NamedTuple):
    """What a template shows: answers in their order; there is no second if one is graded alone."""

    prompt: str
    first: str
    second: str | None
    reference: str | None = None


class Form(Protocol):
    """A template with its two parsers."""

    name: str
    singly: bool
    """Whether it is shown one answer, and `parse` gives a grade instead of a verdict."""
    has_answers: bool
    """Whether `answers` knows every text that is a judgement at once."""
    needs_reference: bool
    """Whether it can judge only beside a right answer."""
    stop: tuple[str, ...]
    """Strings that end an answer and are not needed to read it."""
    stop_after: tuple[str, ...]
    """Strings that end an answer and belong to it."""
    constraint: Constraint | None
    """What a whole answer has to be, where that can be said."""

    def messages(self, case: Case) -> tuple[Message, ...]:
        """What the judge is shown."""
        ...

    def parse(self, text: str) -> Verdict | float:
        """The verdict, or the grade; raises `JudgeParseError`."""
        ...

    def parse_leniently(self, text: str) -> Verdict | float:
        """As `parse`, with the form forgiven; raises `JudgeParseError`."""
        ...

    def answers(self) -> Mapping[str, Verdict]:
        """Every text that gives a judgement at once, without words before it; for judging by probability."""
        ...

    def said(self, shares: Mapping[str, float]) -> str:
        """The text, readable by `parse`, that stands for shares of `answers` that add up to 1."""
        ...


def agreed(found: Iterable[_Said], nothing: Fault) -> _Said:
    """What all verdicts of a text say, the same one twice being one.

    Raises:
        JudgeParseError: there are none, for which `nothing` is the reason, or they differ.
    """
    said = set(found)
    if len(said) > 1:
        raise JudgeParseError(Fault.CONTRADICTION)
    if not said:
        raise JudgeParseError(nothing)
    return said.pop()


def stated(pattern: re.Pattern[str], answer: str, nothing: Fault) -> set[str]:
    """What the matches in the judge's own words say, of which one at least begins or ends a line.

    Raises:
        JudgeParseError: there is none, for which `nothing` is the reason; or all are quoted, or mentioned.
    """
    own = own_words(answer)
    found = list(pattern.finditer(own))
    if not found:
        raise JudgeParseError(Fault.QUOTED if pattern.search(answer) else nothing)
    if not any(begins_line(own, match.start()) or ends_line(own, match.end()) for match in found):
        raise JudgeParseError(Fault.IN_PASSING)
    return {match[1] for match in found}


def in_range(first: float, second: float, lowest: float, highest: float) -> Verdict:
    """The verdict of two scores; raises `JudgeParseError` if one is out of range."""
    if not (lowest <= first <= highest and lowest <= second <= highest):
        raise JudgeParseError(Fault.OUT_OF_RANGE)
    return Verdict.of_scores(first, second)


def expected(answers: Mapping[str, Verdict], shares: Mapping[str, float]) -> tuple[float, float]:
    """The mean scores of a distribution over answers that have scores."""
    first = sum(share * (answers[text].first or 0.0) for text, share in shares.items())
    second = sum(share * (answers[text].second or 0.0) for text, share in shares.items())
    return first, second


@cache
def all_pairs(form: str, lowest: int, highest: int) -> dict[str, Verdict]:
    """The texts of every two whole scores, with their verdicts."""
    scores = range(lowest, highest + 1)
    return {form.format(a, b): Verdict.of_scores(a, b) for a in scores for b in scores}

"""What the template of a judge is: how answers are shown, and how its text is read, strictly or leniently."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from smidgen.data.types import Constraint, Message
from smidgen.errors import ParseError

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


def without_thinking(text: str) -> str:
    """Drop what a model thought, whoever opened the block, and whether or not it was closed."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    text = text.rpartition("</think>")[2]
    answer, opened, _ = text.partition("<think>")
    if opened and not answer.strip():
        raise JudgeParseError(Fault.ENDLESS_THINKING)
    return answer


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

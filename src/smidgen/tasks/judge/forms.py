"""The interface of judge templates: how a prompt is rendered, and how completions are parsed.

Both parsers, strict and lenient, fail closed: verdicts that the judge only quotes or mentions in passing do
not count (`smidgen.tasks.judge.quotations`), and contradictory verdicts do not parse.
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import Literal, NamedTuple, Protocol, TypeVar

from smidgen.data.types import Constraint, Message
from smidgen.errors import ParseError
from smidgen.tasks.judge.quotations import begins_line, ends_line, own_words

NUMBER = r"([+-]?[0-9]+(?:\.[0-9]+)?)"
"""Pattern of a number in a judgement."""
_Reading = TypeVar("_Reading")
Choice = Literal["first", "second", "tie"]


class Fault(StrEnum):
    """Why a judge's completion did not parse."""

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
        """Whether the text may contain a verdict that the judge does not mean; lenient parsing fails too."""
        return self in (Fault.ENDLESS_THINKING, Fault.QUOTED, Fault.IN_PASSING, Fault.CONTRADICTION)


class JudgeParseError(ParseError):
    """A judge's completion did not parse; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Verdict(NamedTuple):
    """A judge's verdict on two answers, in the order in which they were shown.

    Attributes:
        preferred: the better answer according to the judge.
        first: the score of the first answer, if the template has scores.
        second: the score of the second answer.
    """

    preferred: Choice
    first: float | None = None
    second: float | None = None

    @classmethod
    def of_scores(cls, first: float, second: float) -> "Verdict":
        """Prefer the higher score; equal scores are a tie."""
        if first == second:
            return cls("tie", first, second)
        return cls("first" if first > second else "second", first, second)


class Case(NamedTuple):
    """The texts that a template shows: the answers in their order, without a second one for grading alone."""

    prompt: str
    first: str
    second: str | None
    reference: str | None = None


class JudgeTemplate(Protocol):
    """A template with its two parsers; a template inherits these defaults and states what differs."""

    name: str
    singly: bool = False
    """Whether it shows one answer, and `parse` returns a grade instead of a verdict."""
    has_answers: bool = True
    """Whether `answers` lists every text that is a complete judgement."""
    closing: str = ""
    """What completes each of `answers` as a text that `parse` reads."""
    scale: float | None = None
    """The highest score minus the lowest; None if a verdict has no scores."""
    needs_reference: bool = False
    """Whether it requires a reference answer."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion and are not needed to parse it."""
    stop_after: tuple[str, ...] = ()
    """Strings that end a completion and are part of it."""
    constraint: Constraint | None = None
    """A constraint on whole completions, if the template has one."""

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Render the prompt."""
        ...

    def parse(self, text: str) -> Verdict | float:
        """Parse the verdict or the grade; raises `JudgeParseError`."""
        ...

    def parse_leniently(self, text: str) -> Verdict | float:
        """Parse as `parse` does, else in a tolerant format, except where it is in doubt what is meant.

        Raises:
            JudgeParseError: neither parses.
        """
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            return self._loosely(text)

    def answers(self) -> Mapping[str, Verdict]:
        """Every text that is a judgement without preceding words, for log-probability scoring."""
        ...

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """A completion, readable by `parse`, for shares of `answers` that sum to 1."""
        ...

    def target(self, verdict: Verdict) -> str | None:
        """A completion that is only this verdict, for training; None if the template has none."""
        if self.singly or not self.has_answers:
            return None
        texts = {said: text for text, said in self.answers().items()}
        return texts[verdict] + self.closing if verdict in texts else None

    def _loosely(self, text: str) -> Verdict | float:
        """Parse the tolerant format, if there is one; raises `JudgeParseError`."""
        return self.parse(text)


def agreed(readings: Iterable[_Reading], nothing: Fault) -> _Reading:
    """Return the verdict that all readings of a text agree on.

    Raises:
        JudgeParseError: there are none (with the fault `nothing`), or they differ.
    """
    distinct = set(readings)
    if len(distinct) > 1:
        raise JudgeParseError(Fault.CONTRADICTION)
    if not distinct:
        raise JudgeParseError(nothing)
    return distinct.pop()


def stated(pattern: re.Pattern[str], answer: str, nothing: Fault) -> set[str]:
    """Return the matches outside quotations, of which at least one must begin or end a line.

    Raises:
        JudgeParseError: there is none (with the fault `nothing`), all are quoted, or all are in passing.
    """
    own = own_words(answer)
    found = list(pattern.finditer(own))
    if not found:
        raise JudgeParseError(Fault.QUOTED if pattern.search(answer) else nothing)
    if not any(begins_line(own, match.start()) or ends_line(own, match.end()) for match in found):
        raise JudgeParseError(Fault.IN_PASSING)
    return {match[1] for match in found}


def in_range(first: float, second: float, lowest: float, highest: float) -> Verdict:
    """Return the verdict of two scores; raises `JudgeParseError` if one is out of range."""
    if not (lowest <= first <= highest and lowest <= second <= highest):
        raise JudgeParseError(Fault.OUT_OF_RANGE)
    return Verdict.of_scores(first, second)


def expected(answers: Mapping[str, Verdict], shares: Mapping[str, float]) -> tuple[float, float]:
    """Return the expected scores of a distribution over answers with scores."""
    first = sum(share * (answers[text].first or 0.0) for text, share in shares.items())
    second = sum(share * (answers[text].second or 0.0) for text, share in shares.items())
    return first, second


def verdict_alone(form: JudgeTemplate) -> Constraint:
    """Return a choice among all judgements without preceding words.

    Words before the verdict would not help: a model that does not know the format can go on with them until
    its tokens are used up, and any bound on their length would be ours and not the template's.
    """
    return Constraint("choices", json.dumps([answer + form.closing for answer in form.answers()]))


@cache
def all_pairs(form: str, lowest: int, highest: int) -> dict[str, Verdict]:
    """Format every pair of integer scores with `form`; return the texts with their verdicts."""
    scores = range(lowest, highest + 1)
    return {form.format(a, b): Verdict.of_scores(a, b) for a in scores for b in scores}

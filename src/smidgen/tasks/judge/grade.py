"""The template `grade`: grade one answer alone, by a rubric."""

import re
from collections.abc import Mapping

from smidgen.data.types import Message
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import Case, Fault, JudgeTemplate, Verdict, agreed, expected, stated
from smidgen.tasks.judge.quotations import own_words
from smidgen.tasks.thinking import without_thinking

_SYSTEM = """\
Grade a response by a rubric. Write feedback that goes by the rubric alone, then a whole number from 1 to 5. \
The form is: "(feedback) [RESULT] (a number from 1 to 5)". Write nothing after it."""
RUBRIC = """\
How well does the response do what was asked: is it right, complete, relevant and clear?
1: it fails. 2: it mostly fails. 3: it does part of it. 4: it does it with slips. 5: nothing is missing."""


class Grade(JudgeTemplate):
    """One answer alone: feedback, then `[RESULT]` and an integer from 1 to 5."""

    name = "grade"
    singly = True
    LOWEST, HIGHEST = 1, 5

    _DELIMITERS = (
        Delimiter("###Score Rubric:"),
        Delimiter("###The instruction to evaluate:"),
        Delimiter("###Reference Answer (Score 5):"),
        Delimiter("###Response to evaluate:"),
        Delimiter("###Feedback:"),
    )
    _STRICT = re.compile(r"\[RESULT\]\s*\(?\s*([1-4](?:\.[0-9]+)?|5(?:\.0+)?)(?![0-9.]*[0-9])(?:\s*/\s*5\b)?")
    _LENIENT = re.compile(r"(?<![0-9.])([1-5])(?:\s*/\s*5)?(?![0-9.]*[0-9])")

    def __init__(self, rubric: str = RUBRIC):
        """Grade by `rubric`: a question and the meaning of each grade."""
        self.rubric = rubric

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Render the prompt with the markers of Prometheus, and the reference if there is one."""
        number = free_number(self._DELIMITERS, (self.rubric, *case))
        rubric, instruction, reference, response, feedback = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"{reference}\n{case.reference}\n\n" if case.reference else ""
        content = (
            f"{rubric}\n{self.rubric}\n\n{instruction}\n{case.prompt}\n\n{right}"
            f"{response}\n{case.first}\n\n{feedback}"
        )
        return Message("system", _SYSTEM), Message("user", content)

    def parse(self, text: str) -> float:
        """Parse the number after `[RESULT]`, which must begin or end a line; all occurrences must agree."""
        return agreed(
            map(float, stated(self._STRICT, without_thinking(text), Fault.NO_GRADE)), Fault.NO_GRADE
        )

    def _loosely(self, text: str) -> float:
        """Parse a number from 1 to 5 anywhere."""
        found = self._LENIENT.findall(own_words(without_thinking(text)))
        return agreed(map(float, found), Fault.NO_GRADE)

    def answers(self) -> Mapping[str, Verdict]:
        """Every grade; the verdict's first score is the grade."""
        return {f"[RESULT] {n}": Verdict("tie", n) for n in range(self.LOWEST, self.HIGHEST + 1)}

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """The expected grade."""
        return f"[RESULT] {expected(self.answers(), shares)[0]:.4f}"

"""The template `rubric`: criteria, an analysis, and a boxed pair of scores."""

import re
from collections.abc import Mapping

from smidgen.data.types import Constraint, Message
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import (
    NUMBER,
    Case,
    Fault,
    JudgeParseError,
    Verdict,
    agreed,
    all_pairs,
    expected,
    in_range,
)
from smidgen.tasks.judge.quotations import QUOTED, begins_line, blank, is_quoted, own_words
from smidgen.tasks.thinking import OPENING, without_thinking


class Rubric:
    """Criteria of its own making, an analysis, and a boxed pair of scores from 1 to 10.

    What stands in the criteria and in the analysis is no verdict, closed or not, and a closing tag that is
    quoted closes neither. The verdict follows the closed analysis, or begins a line where there is no
    analysis.
    """

    name = "rubric"
    singly = False
    needs_reference = False
    has_answers = True
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ("</scores>",)
    constraint: Constraint | None = None

    SYSTEM = (
        "Judge two responses to one request. Their order and length do not count. Answer in three blocks: "
        "<specific_criteria>what matters here</specific_criteria> "
        "<analysis>how each response does</analysis> "
        "<scores>\\boxed{a, b}</scores> "
        "where a scores Response A and b scores Response B, from 1 (bad) to 10 (perfect)."
    )
    LOWEST, HIGHEST = 1, 10
    _DELIMITERS = (
        Delimiter("#### Conversation Context ####"),
        Delimiter("#### Reference Answer ####"),
        Delimiter("#### Responses to be Scored ####"),
        Delimiter("[The Begin of Response A]"),
        Delimiter("[The End of Response A]"),
        Delimiter("[The Begin of Response B]"),
        Delimiter("[The End of Response B]"),
    )
    _BEGINS = re.compile(r"<(?:specific_criteria|analysis|scores)>")
    _SECTION = re.compile(r"<(/?)(specific_criteria|analysis)>")
    _BLOCK = re.compile(r"<scores>(.*?)</scores>", re.DOTALL)
    _BOXED = re.compile(rf"\\boxed\s*\{{{{1,2}}\s*{NUMBER}\s*,\s*{NUMBER}\s*\}}")
    _BARE = re.compile(rf"(?<![0-9.]){NUMBER}\s*(?:/\s*10)?\s*,\s*{NUMBER}(?![0-9.]*[0-9])")

    def messages(self, case: Case) -> tuple[Message, ...]:
        """A system message with the form, and the markers of published judges around the rest.

        The markers are numbered where a text holds one of them; see `smidgen.tasks.judge.delimiters`.
        """
        number = free_number(self._DELIMITERS, case)
        context, reference, responses, begin_a, end_a, begin_b, end_b = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"\n{reference}\n{case.reference}" if case.reference else ""
        content = (
            f"{context}\n{case.prompt}{right}\n{responses}\n"
            f"{begin_a}\n{case.first}\n{end_a}\n{begin_b}\n{case.second}\n{end_b}"
        )
        return Message("system", self.SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """The boxed pair of the scores blocks, all of which have to say the same."""
        answer = self._answer(text)
        bare = self._without_sections(answer)
        own = own_words(bare)
        blocks = list(self._BLOCK.finditer(own))
        if not blocks:
            if self._BLOCK.search(answer):
                raise JudgeParseError(Fault.QUOTED)
            raise JudgeParseError(Fault.TRUNCATED if "<scores>" in own else Fault.NO_BLOCK)
        pairs = [pair for block in blocks for pair in self._BOXED.findall(answer[slice(*block.span(1))])]
        verdict = self._verdict(pairs)
        if not any(self._is_meant(bare, answer, own, block) for block in blocks):
            raise JudgeParseError(Fault.IN_PASSING)
        return verdict

    def parse_leniently(self, text: str) -> Verdict:
        """As `parse`, else the boxed pair outside of quotations, else the two numbers around a comma."""
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            own = own_words(self._without_sections(self._answer(text)))
            return self._verdict(self._BOXED.findall(own) or self._BARE.findall(own))

    def answers(self) -> Mapping[str, Verdict]:
        """A scores block for every two whole scores."""
        return all_pairs("<scores>\n\\boxed{{{}, {}", self.LOWEST, self.HIGHEST)

    def said(self, shares: Mapping[str, float]) -> str:
        """A scores block with the expected scores."""
        first, second = expected(self.answers(), shares)
        return f"<scores>\n\\boxed{{{first:.4f}, {second:.4f}}}\n</scores>"

    def _verdict(self, found: list[tuple[str, str]]) -> Verdict:
        first, second = agreed(((float(a), float(b)) for a, b in found), Fault.NO_PAIR)
        return in_range(first, second, self.LOWEST, self.HIGHEST)

    def _answer(self, text: str) -> str:
        """The text without its thinking.

        Where a tag that ends thinking stands in a section, it is part of it, unless a whole answer follows.
        """
        answer = without_thinking(text, self._BEGINS)
        thought = text[: len(text) - len(answer)]
        if not thought.lstrip().startswith(OPENING):
            follows = self._SECTION.match(answer.lstrip())
            if self._without_sections(thought + "x").endswith(QUOTED) and not follows:
                return text
        return answer

    def _without_sections(self, answer: str) -> str:
        """The text with the criteria and analyses blanked, as quotations are: its length stays the same."""
        own, depth, start, name = answer, 0, 0, ""
        for tag in self._SECTION.finditer(answer):
            if not depth:
                if not tag[1] and not is_quoted(own, tag.start()):
                    depth, start, name = 1, tag.start(), tag[2]
            elif tag[2] == name and not is_quoted(answer[start:], tag.start() - start):
                depth += -1 if tag[1] else 1
                if not depth:
                    own = own[:start] + blank(own[start : tag.end()]) + own[tag.end() :]
        return own[:start] + blank(own[start:]) if depth else own

    @staticmethod
    def _is_meant(bare: str, answer: str, own: str, block: re.Match[str]) -> bool:
        """Whether a block follows a closed analysis, which `bare` lacks, or begins its line."""
        closings = re.finditer("</analysis>", answer[: block.start()])
        return any(bare[tag.start()] == QUOTED for tag in closings) or begins_line(own, block.start())

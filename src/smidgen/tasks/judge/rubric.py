"""The template `rubric`: criteria, an analysis, and a boxed pair of scores."""

import re
from collections.abc import Mapping

from smidgen.data.types import Message
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import (
    NUMBER,
    Case,
    Fault,
    JudgeParseError,
    JudgeTemplate,
    Verdict,
    agreed,
    all_pairs,
    expected,
    in_range,
)
from smidgen.tasks.judge.quotations import QUOTED, begins_line, blank, is_quoted, own_words
from smidgen.tasks.thinking import OPENING, without_thinking

SYSTEM = """\
Judge two responses to one request. Their order and length do not count. Answer in three blocks: \
<specific_criteria>what matters here</specific_criteria> \
<analysis>how each response does</analysis> \
<scores>\\boxed{a, b}</scores> \
where a scores Response A and b scores Response B, from 1 (bad) to 10 (perfect)."""


class Rubric(JudgeTemplate):
    """Self-generated criteria, an analysis, and a boxed pair of scores from 1 to 10.

    Nothing inside the criteria or the analysis is a verdict, even if the block is not closed, and a quoted
    closing tag does not close a block. The verdict follows the closed analysis, or begins a line if there is
    no analysis.
    """

    name = "rubric"
    closing = "}\n</scores>"
    stop_after: tuple[str, ...] = ("</scores>",)

    LOWEST, HIGHEST = 1, 10
    scale = HIGHEST - LOWEST
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
        """Render the format as a system message, and the texts between the markers of published judges.

        The markers are numbered if a text contains one of them; see `smidgen.tasks.judge.delimiters`.
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
        return Message("system", SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """Parse the boxed pair of the scores blocks, which must all agree."""
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

    def _loosely(self, text: str) -> Verdict:
        """Parse a boxed pair outside quotations, else two numbers separated by a comma."""
        own = own_words(self._without_sections(self._answer(text)))
        return self._verdict(self._BOXED.findall(own) or self._BARE.findall(own))

    def answers(self) -> Mapping[str, Verdict]:
        """A scores block for every pair of integer scores."""
        return all_pairs("<scores>\n\\boxed{{{}, {}", self.LOWEST, self.HIGHEST)

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """A scores block with the expected scores."""
        first, second = expected(self.answers(), shares)
        return f"<scores>\n\\boxed{{{first:.4f}, {second:.4f}}}\n</scores>"

    def _verdict(self, found: list[tuple[str, str]]) -> Verdict:
        first, second = agreed(((float(a), float(b)) for a, b in found), Fault.NO_PAIR)
        return in_range(first, second, self.LOWEST, self.HIGHEST)

    def _answer(self, text: str) -> str:
        """Remove the thinking from a completion.

        A closing tag of thinking inside a section is part of the section, unless a whole answer follows it.
        """
        answer = without_thinking(text, self._BEGINS)
        thought = text[: len(text) - len(answer)]
        if not thought.lstrip().startswith(OPENING):
            follows = self._SECTION.match(answer.lstrip())
            if self._without_sections(thought + "x").endswith(QUOTED) and not follows:
                return text
        return answer

    def _without_sections(self, answer: str) -> str:
        """Blank the criteria and analyses, like quotations; the length stays the same."""
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
        """Whether a block follows a closed analysis (blanked in `bare`) or begins its line."""
        closings = re.finditer("</analysis>", answer[: block.start()])
        return any(bare[tag.start()] == QUOTED for tag in closings) or begins_line(own, block.start())

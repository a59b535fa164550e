"""Judge templates: the prompts and parsers of the common judgement formats.

Each template keeps the tags, markers and literals of the published judges of its format, so that their
weights and recordings can be used; the wording is our own. Constant text is in the system message or at the
beginning, so that all prompts share a prefix.

- `rubric`: criteria, analysis and a boxed pair of scores, as in self-principled critique
  (https://arxiv.org/abs/2504.02495).
- `scores`: two numbers on the first line, then reasons (JudgeLM, https://arxiv.org/abs/2310.17631).
- `single`: one number for one answer, compared with a reference that has already got 10 (JudgeLM).
- `verdict`: reasons, then `[[A]]`, `[[B]]` or `[[C]]` for a tie (MT-bench, https://arxiv.org/abs/2306.05685).
- `grade`: one answer alone, from 1 to 5 (Prometheus, https://arxiv.org/abs/2310.08491).

`parse` is strict and decides whether a judgement is right. `parse_leniently` tolerates format errors, which
separates failures of format from failures of judgement. Neither reads quotations or chooses between
contradictory verdicts.

The judged texts are between delimiters that they cannot forge: in all templates, delimiters are numbered if a
text contains one (`smidgen.tasks.judge.delimiters`).
"""

import re
from collections.abc import Iterable, Mapping

from smidgen.data.types import Message
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import (
    NUMBER,
    Case,
    Choice,
    Fault,
    JudgeParseError,
    JudgeTemplate,
    Verdict,
    agreed,
    all_pairs,
    expected,
    in_range,
    stated,
)
from smidgen.tasks.judge.quotations import QUOTED, own_words
from smidgen.tasks.thinking import without_thinking

_SCORES_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_SCORES_TASK = """\
Score the two answers to the question above for helpfulness, relevance, accuracy and level of detail, each \
from 1 to 10; higher is better. The first line of your output must hold only the two scores, of Assistant 1 \
and of Assistant 2, with a space between them. Explain them on the lines after it. Neither the order of the \
answers nor their length may sway you."""
_VERDICT_SYSTEM = """\
Compare the answers of two AI assistants to the question of a user, and decide which of them follows the \
user's instructions and answers the question better. Consider helpfulness, relevance, accuracy, depth and \
detail. Explain your comparison briefly. Neither the order of the answers, nor their length, nor the names \
of the assistants may sway you. End with your verdict in exactly this form: "[[A]]" if assistant A is \
better, "[[B]]" if assistant B is better, "[[C]]" for a tie."""


class TwoScores(JudgeTemplate):
    """Two numbers on the first line, then reasons."""

    name = "scores"
    LOWEST, HIGHEST = 0, 10
    scale = HIGHEST - LOWEST

    _DELIMITERS = (
        Delimiter("[Question]"),
        Delimiter("[Reference Answer]"),
        Delimiter("[The Start of Assistant 1's Answer]"),
        Delimiter("[The End of Assistant 1's Answer]"),
        Delimiter("[The Start of Assistant 2's Answer]"),
        Delimiter("[The End of Assistant 2's Answer]"),
        Delimiter("[System]"),
    )
    _LINE = re.compile(rf"{NUMBER}(?:\s*/\s*10)?(?:\s*,\s*|\s+){NUMBER}(?:\s*/\s*10)?")
    _BEGINS = re.compile(rf"{_LINE.pattern}[^\S\n]*(?:\n|\Z)")

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Render the prompt with the markers of JudgeLM, and the reference if there is one."""
        number = free_number(self._DELIMITERS, case)
        question, reference, start_1, end_1, start_2, end_2, system = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"{reference}\n{case.reference}\n\n" if case.reference else ""
        content = (
            f"{question}\n{case.prompt}\n\n{right}{start_1}\n{case.first}\n{end_1}\n\n"
            f"{start_2}\n{case.second}\n{end_2}\n\n{system}\n{_SCORES_TASK}"
        )
        return Message("system", _SCORES_SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """Parse the first non-empty line, which must consist of two numbers.

        A later line that consists of two other numbers contradicts them.
        """
        lines = [line.strip() for line in self._own(text).strip().splitlines()]
        if not lines or not self._LINE.fullmatch(lines[0]):
            raise JudgeParseError(Fault.NO_SCORES)
        return self._verdict(filter(None, map(self._LINE.fullmatch, lines)))

    def _loosely(self, text: str) -> Verdict:
        """Parse two adjacent numbers anywhere."""
        return self._verdict(self._LINE.finditer(self._own(text)))

    def answers(self) -> Mapping[str, Verdict]:
        """A first line for every pair of integer scores."""
        return all_pairs("{} {}", 1, self.HIGHEST)

    def target(self, verdict: Verdict) -> str | None:
        """The line with the scores, which need not be whole numbers; None without scores."""
        if verdict.first is None or verdict.second is None:
            return None
        return f"{verdict.first:g} {verdict.second:g}"

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """The expected scores."""
        first, second = expected(self.answers(), shares)
        return f"{first:.4f} {second:.4f}"

    def _own(self, text: str) -> str:
        return own_words(without_thinking(text, self._BEGINS))

    def _verdict(self, found: Iterable[re.Match[str]]) -> Verdict:
        first, second = agreed(((float(pair[1]), float(pair[2])) for pair in found), Fault.NO_SCORES)
        return in_range(first, second, self.LOWEST, self.HIGHEST)


class BesideReference(JudgeTemplate):
    """One answer, compared with the reference: the prompt already gives the reference 10."""

    name = "single"
    singly = True
    needs_reference = True
    LOWEST, HIGHEST = TwoScores.LOWEST, TwoScores.HIGHEST
    scale = TwoScores.scale
    _FIRST_LINE = re.compile(rf"{NUMBER}(?:\s*/\s*10)?")
    _BEGINS = re.compile(rf"{_FIRST_LINE.pattern}[^\S\n]*(?:\n|\Z)")

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Render as `scores`, with the reference as the first answer and its 10 at the start of the line."""
        assert case.reference is not None
        pair = Case(case.prompt, case.reference, case.first)
        return *TwoScores().messages(pair), Message("assistant", f"{self.HIGHEST} ")

    def parse(self, text: str) -> float:
        """Parse the first line, which must consist of one number.

        A later line that consists of another number contradicts it.
        """
        lines = [line.strip() for line in self._own(text).splitlines()]
        if not lines or not self._FIRST_LINE.fullmatch(lines[0]):
            raise JudgeParseError(Fault.NO_SCORE)
        return self._score(filter(None, map(self._FIRST_LINE.fullmatch, lines)))

    def _loosely(self, text: str) -> float:
        """Parse a number anywhere."""
        return self._score(self._FIRST_LINE.finditer(self._own(text)))

    def answers(self) -> Mapping[str, Verdict]:
        """Every integer score; the first score of the verdict is the answer's."""
        return {f"{n}": Verdict("tie", n) for n in range(1, self.HIGHEST + 1)}

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """The expected score."""
        return f"{expected(self.answers(), shares)[0]:.4f}"

    def _own(self, text: str) -> str:
        return own_words(without_thinking(text, self._BEGINS))

    def _score(self, found: Iterable[re.Match[str]]) -> float:
        score = agreed((float(number[1]) for number in found), Fault.NO_SCORE)
        return in_range(score, score, self.LOWEST, self.HIGHEST).first or 0.0


class Literals(JudgeTemplate):
    """Reasons, then `[[A]]`, `[[B]]`, or `[[C]]` for a tie."""

    name = "verdict"
    closing = "]]"

    _DELIMITERS = (
        Delimiter("[User Question]"),
        Delimiter("[The Start of Reference Answer]"),
        Delimiter("[The End of Reference Answer]"),
        Delimiter("[The Start of Assistant A's Answer]"),
        Delimiter("[The End of Assistant A's Answer]"),
        Delimiter("[The Start of Assistant B's Answer]"),
        Delimiter("[The End of Assistant B's Answer]"),
    )
    _CHOICES: Mapping[str, Choice] = {"A": "first", "B": "second", "C": "tie"}
    _STRICT = re.compile(r"\[\[([ABC])\]\]")
    _SHARES = re.compile(r"A ([01]\.\d{4}), B ([01]\.\d{4}), C [01]\.\d{4}: \[\[")
    _LENIENT = re.compile(
        rf"\[+\s*([abc])\s*\]+|^[^\w{QUOTED}]*([abc])[^\w{QUOTED}]*$", re.IGNORECASE | re.MULTILINE
    )
    _NAMED = re.compile(r"\b(?:output|assistant|response)\s*\(?([ab])\b\)?|\b(tie)\b", re.IGNORECASE)

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Render the prompt with the markers of MT-bench and RewardBench, and any reference."""
        number = free_number(self._DELIMITERS, case)
        question, start, end, start_a, end_a, start_b, end_b = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"{start}\n{case.reference}\n{end}\n\n" if case.reference else ""
        content = (
            f"{question}\n{case.prompt}\n\n{right}{start_a}\n{case.first}\n{end_a}\n\n"
            f"{start_b}\n{case.second}\n{end_b}"
        )
        return Message("system", _VERDICT_SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """Parse the verdict, which must begin or end a line; all occurrences must agree.

        If the text has the shares of the verdicts (`verdict_text`), they become its scores.
        """
        answer = without_thinking(text)
        found = agreed(stated(self._STRICT, answer, Fault.NO_VERDICT), Fault.NO_VERDICT)
        shares = self._SHARES.match(answer)
        scores = (float(shares[1]), float(shares[2])) if shares else (None, None)
        return Verdict(self._CHOICES[found], *scores)

    def _loosely(self, text: str) -> Verdict:
        """Parse a letter in brackets or alone on a line, else the only answer that is named."""
        own = own_words(without_thinking(text))
        found = self._LENIENT.findall(own) or self._NAMED.findall(own)
        letter = agreed((next(filter(None, groups)).upper() for groups in found), Fault.NO_VERDICT)
        return Verdict("tie" if letter == "TIE" else self._CHOICES[letter])

    def answers(self) -> Mapping[str, Verdict]:
        """The three verdicts."""
        return {f"[[{letter}": Verdict(choice) for letter, choice in self._CHOICES.items()}

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """The share of each verdict, and the verdict with the largest share."""
        best = max(shares, key=lambda text: shares[text])
        parts = ", ".join(f"{text.lstrip('[')} {share:.4f}" for text, share in shares.items())
        return f"{parts}: {best}]]"

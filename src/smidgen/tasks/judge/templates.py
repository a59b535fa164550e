"""How a judge is asked and how its answer is read: one template each for the known forms of judgement.

Each form keeps the tags, markers and literals of those who publish judges in it, so that their weights and
recordings can be used here; the wording is our own. Everything constant stands in the system message or at
the beginning, so that all prompts share a prefix.

- `rubric`: criteria, analysis and a boxed pair of scores, as in self-principled critique
  (https://arxiv.org/abs/2504.02495).
- `scores`: two numbers on the first line, then reasons (JudgeLM, https://arxiv.org/abs/2310.17631).
- `single`: one number, for one answer beside the reference, which has 10 already (JudgeLM again).
- `verdict`: reasons, then `[[A]]`, `[[B]]` or `[[C]]` for a tie (MT-bench, https://arxiv.org/abs/2306.05685).
- `grade`: one answer alone, from 1 to 5 (Prometheus, https://arxiv.org/abs/2310.08491).

`parse` is strict and decides whether an answer is right. `parse_leniently` forgives the form and tells how
much of a failure is form and how much is judgement. Neither reads what a judge quotes, nor chooses between
verdicts that differ.

What is judged stands between delimiters, and cannot forge them: they are numbered where it holds one, in all
templates alike (`smidgen.tasks.judge.delimiters`).
"""

import re
from collections.abc import Iterable, Mapping

from smidgen.data.types import Constraint, Message
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import (
    NUMBER,
    Case,
    Choice,
    Fault,
    JudgeParseError,
    Verdict,
    agreed,
    all_pairs,
    expected,
    in_range,
    stated,
)
from smidgen.tasks.judge.quotations import QUOTED, own_words
from smidgen.tasks.thinking import without_thinking


class TwoScores:
    """Two numbers on the first line, then reasons."""

    name = "scores"
    singly = False
    needs_reference = False
    has_answers = True
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    constraint: Constraint | None = None
    LOWEST, HIGHEST = 0, 10

    _SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
    _TASK = (
        "Score the two answers to the question above for helpfulness, relevance, accuracy and level of "
        "detail, "
        "each from 1 to 10; higher is better. The first line of your output must hold only the two "
        "scores, of "
        "Assistant 1 and of Assistant 2, with a space between them. Explain them on the lines after it. "
        "Neither "
        "the order of the answers nor their length may sway you."
    )
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
        """The markers of JudgeLM, with the reference where there is one."""
        number = free_number(self._DELIMITERS, case)
        question, reference, start_1, end_1, start_2, end_2, system = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"{reference}\n{case.reference}\n\n" if case.reference else ""
        content = (
            f"{question}\n{case.prompt}\n\n{right}{start_1}\n{case.first}\n{end_1}\n\n"
            f"{start_2}\n{case.second}\n{end_2}\n\n{system}\n{self._TASK}"
        )
        return Message("system", self._SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """The two numbers of the first line that is not empty; nothing else may stand there.

        Two other numbers alone on a later line contradict them.
        """
        lines = [line.strip() for line in self._own(text).strip().splitlines()]
        if not lines or not self._LINE.fullmatch(lines[0]):
            raise JudgeParseError(Fault.NO_SCORES)
        return self._verdict(filter(None, map(self._LINE.fullmatch, lines)))

    def parse_leniently(self, text: str) -> Verdict:
        """As `parse`, else the two numbers that stand side by side anywhere."""
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            return self._verdict(self._LINE.finditer(self._own(text)))

    def answers(self) -> Mapping[str, Verdict]:
        """A first line for every two whole scores."""
        return all_pairs("{} {}", 1, self.HIGHEST)

    def said(self, shares: Mapping[str, float]) -> str:
        """The expected scores."""
        first, second = expected(self.answers(), shares)
        return f"{first:.4f} {second:.4f}"

    def _own(self, text: str) -> str:
        return own_words(without_thinking(text, self._BEGINS))

    def _verdict(self, found: Iterable[re.Match[str]]) -> Verdict:
        first, second = agreed(((float(pair[1]), float(pair[2])) for pair in found), Fault.NO_SCORES)
        return in_range(first, second, self.LOWEST, self.HIGHEST)


class BesideReference:
    """One answer alone, beside the reference: the judge is made to give that one 10, and goes on."""

    name = "single"
    singly = True
    needs_reference = True
    has_answers = True
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    constraint: Constraint | None = None
    LOWEST, HIGHEST = TwoScores.LOWEST, TwoScores.HIGHEST
    _FIRST_LINE = re.compile(rf"{NUMBER}(?:\s*/\s*10)?")
    _BEGINS = re.compile(rf"{_FIRST_LINE.pattern}[^\S\n]*(?:\n|\Z)")

    def messages(self, case: Case) -> tuple[Message, ...]:
        """As in `scores`, with the reference for the first answer, and the line begun with its 10."""
        assert case.reference is not None
        pair = Case(case.prompt, case.reference, case.first)
        return *TwoScores().messages(pair), Message("assistant", f"{self.HIGHEST} ")

    def parse(self, text: str) -> float:
        """The number that the first line holds, and nothing else.

        Another number alone on a later line contradicts it.
        """
        lines = [line.strip() for line in self._own(text).splitlines()]
        if not lines or not self._FIRST_LINE.fullmatch(lines[0]):
            raise JudgeParseError(Fault.NO_SCORE)
        return self._score(filter(None, map(self._FIRST_LINE.fullmatch, lines)))

    def parse_leniently(self, text: str) -> float:
        """As `parse`, else the number that stands anywhere."""
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            return self._score(self._FIRST_LINE.finditer(self._own(text)))

    def answers(self) -> Mapping[str, Verdict]:
        """Every whole score; the verdict's first score is the answer's."""
        return {f"{n}": Verdict("tie", n) for n in range(1, self.HIGHEST + 1)}

    def said(self, shares: Mapping[str, float]) -> str:
        """The expected score."""
        return f"{expected(self.answers(), shares)[0]:.4f}"

    def _own(self, text: str) -> str:
        return own_words(without_thinking(text, self._BEGINS))

    def _score(self, found: Iterable[re.Match[str]]) -> float:
        score = agreed((float(number[1]) for number in found), Fault.NO_SCORE)
        return in_range(score, score, self.LOWEST, self.HIGHEST).first or 0.0


class Literals:
    """Reasons, then `[[A]]`, `[[B]]`, or `[[C]]` for a tie."""

    name = "verdict"
    singly = False
    needs_reference = False
    has_answers = True
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    constraint: Constraint | None = None

    _SYSTEM = (
        "Compare the answers of two AI assistants to the question of a user, and decide which of them "
        "follows the "
        "user's instructions and answers the question better. Consider helpfulness, relevance, accuracy, "
        "depth and "
        "detail. Explain your comparison briefly. Neither the order of the answers, nor their length, "
        "nor the names "
        'of the assistants may sway you. End with your verdict in exactly this form: "[[A]]" if '
        "assistant A is "
        'better, "[[B]]" if assistant B is better, "[[C]]" for a tie.'
    )
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
        """The markers of MT-bench and RewardBench, with the reference where there is one."""
        number = free_number(self._DELIMITERS, case)
        question, start, end, start_a, end_a, start_b, end_b = (
            delimiter.numbered(number) for delimiter in self._DELIMITERS
        )
        right = f"{start}\n{case.reference}\n{end}\n\n" if case.reference else ""
        content = (
            f"{question}\n{case.prompt}\n\n{right}{start_a}\n{case.first}\n{end_a}\n\n"
            f"{start_b}\n{case.second}\n{end_b}"
        )
        return Message("system", self._SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """The verdict, which begins or ends a line; wherever else one stands, it has to be the same.

        Where the text is the shares of the verdicts (`said`), they are its scores.
        """
        answer = without_thinking(text)
        found = agreed(stated(self._STRICT, answer, Fault.NO_VERDICT), Fault.NO_VERDICT)
        shares = self._SHARES.match(answer)
        scores = (float(shares[1]), float(shares[2])) if shares else (None, None)
        return Verdict(self._CHOICES[found], *scores)

    def parse_leniently(self, text: str) -> Verdict:
        """As `parse`, else the letter in brackets or alone on a line, else the answer that alone is named."""
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            own = own_words(without_thinking(text))
            found = self._LENIENT.findall(own) or self._NAMED.findall(own)
            letter = agreed((next(filter(None, groups)).upper() for groups in found), Fault.NO_VERDICT)
            return Verdict("tie" if letter == "TIE" else self._CHOICES[letter])

    def answers(self) -> Mapping[str, Verdict]:
        """The three verdicts."""
        return {f"[[{letter}": Verdict(choice) for letter, choice in self._CHOICES.items()}

    def said(self, shares: Mapping[str, float]) -> str:
        """The share of each verdict, and the one with the greatest."""
        best = max(shares, key=lambda text: shares[text])
        parts = ", ".join(f"{text.lstrip('[')} {share:.4f}" for text, share in shares.items())
        return f"{parts}: {best}]]"

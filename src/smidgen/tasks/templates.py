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
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from smidgen.data.types import Constraint, Message
from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.forms import (
    NUMBER,
    Case,
    Choice,
    Fault,
    Form,
    JudgeParseError,
    Verdict,
    agreed,
    all_pairs,
    expected,
    in_range,
)
from smidgen.tasks.own_form import read_form
from smidgen.tasks.quotations import begins_line, ends_line, own_words
from smidgen.tasks.rubric import Rubric
from smidgen.tasks.thinking import without_thinking


class TwoScores:
    """Two numbers on the first line, then reasons."""

    name = "scores"
    singly = False
    needs_reference = False
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
    _LINE = re.compile(rf"{NUMBER}(?:\s*/\s*10)?(?:\s*,\s*|\s+){NUMBER}(?:\s*/\s*10)?")
    _BEGINS = re.compile(rf"{_LINE.pattern}[^\S\n]*(?:\n|\Z)")

    def messages(self, case: Case) -> tuple[Message, ...]:
        """The markers of JudgeLM, with the reference where there is one."""
        reference = f"[Reference Answer]\n{case.reference}\n\n" if case.reference else ""
        content = (
            f"[Question]\n{case.prompt}\n\n{reference}"
            f"[The Start of Assistant 1's Answer]\n{case.first}\n[The End of Assistant 1's Answer]\n\n"
            f"[The Start of Assistant 2's Answer]\n{case.second}\n[The End of Assistant 2's Answer]\n\n"
            f"[System]\n{self._TASK}"
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
    _CHOICES: Mapping[str, Choice] = {"A": "first", "B": "second", "C": "tie"}
    _STRICT = re.compile(r"\[\[([ABC])\]\]")
    _SHARES = re.compile(r"A ([01]\.\d{4}), B ([01]\.\d{4}), C [01]\.\d{4}: \[\[")
    _LENIENT = re.compile(r"\[+\s*([abc])\s*\]+|^\W*([abc])\W*$", re.IGNORECASE | re.MULTILINE)
    _NAMED = re.compile(r"\b(?:output|assistant|response)\s*\(?([ab])\b\)?|\b(tie)\b", re.IGNORECASE)

    def messages(self, case: Case) -> tuple[Message, ...]:
        """The markers of MT-bench and RewardBench, with the reference where there is one."""
        reference = (
            f"[The Start of Reference Answer]\n{case.reference}\n[The End of Reference Answer]\n\n"
            if case.reference
            else ""
        )
        content = (
            f"[User Question]\n{case.prompt}\n\n{reference}"
            f"[The Start of Assistant A's Answer]\n{case.first}\n[The End of Assistant A's Answer]\n\n"
            f"[The Start of Assistant B's Answer]\n{case.second}\n[The End of Assistant B's Answer]"
        )
        return Message("system", self._SYSTEM), Message("user", content)

    def parse(self, text: str) -> Verdict:
        """The verdict, which begins or ends a line; wherever else one stands, it has to be the same.

        Where the text is the shares of the verdicts (`said`), they are its scores.
        """
        answer = without_thinking(text)
        found = agreed(_stated(self._STRICT, answer, Fault.NO_VERDICT), Fault.NO_VERDICT)
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


class Grade:
    """One answer alone: feedback, then `[RESULT]` and a whole number from 1 to 5."""

    name = "grade"
    singly = True
    needs_reference = False
    stop: tuple[str, ...] = ()
    stop_after: tuple[str, ...] = ()
    constraint: Constraint | None = None
    LOWEST, HIGHEST = 1, 5
    RUBRIC = (
        "How well does the response do what was asked: is it right, complete, relevant and clear?\n"
        "1: it fails. 2: it mostly fails. 3: it does part of it. 4: it does it with slips. 5: nothing is "
        "missing."
    )

    _SYSTEM = (
        "Grade a response by a rubric. Write feedback that goes by the rubric alone, then a whole number "
        "from 1 to 5. "
        'The form is: "(feedback) [RESULT] (a number from 1 to 5)". Write nothing after it.'
    )
    _STRICT = re.compile(r"\[RESULT\]\s*\(?\s*([1-4](?:\.[0-9]+)?|5(?:\.0+)?)(?![0-9.]*[0-9])(?:\s*/\s*5\b)?")
    _LENIENT = re.compile(r"(?<![0-9.])([1-5])(?:\s*/\s*5)?(?![0-9.]*[0-9])")

    def __init__(self, rubric: str = RUBRIC):
        """Grade by `rubric`, a question and what each grade means."""
        self.rubric = rubric

    def messages(self, case: Case) -> tuple[Message, ...]:
        """Markers of Prometheus, with the reference where there is one."""
        reference = f"###Reference Answer (Score 5):\n{case.reference}\n\n" if case.reference else ""
        content = (
            f"###Score Rubric:\n{self.rubric}\n\n###The instruction to "
            f"evaluate:\n{case.prompt}\n\n{reference}"
            f"###Response to evaluate:\n{case.first}\n\n###Feedback:"
        )
        return Message("system", self._SYSTEM), Message("user", content)

    def parse(self, text: str) -> float:
        """The number after `[RESULT]`, which begins or ends a line; another one has to be the same."""
        return agreed(
            map(float, _stated(self._STRICT, without_thinking(text), Fault.NO_GRADE)), Fault.NO_GRADE
        )

    def parse_leniently(self, text: str) -> float:
        """As `parse`, else the number from 1 to 5."""
        try:
            return self.parse(text)
        except JudgeParseError as error:
            if error.fault.is_doubt:
                raise
            found = self._LENIENT.findall(own_words(without_thinking(text)))
            return agreed(map(float, found), Fault.NO_GRADE)

    def answers(self) -> Mapping[str, Verdict]:
        """Every grade; the verdict's first score is the grade."""
        return {f"[RESULT] {n}": Verdict("tie", n) for n in range(self.LOWEST, self.HIGHEST + 1)}

    def said(self, shares: Mapping[str, float]) -> str:
        """The expected grade."""
        return f"[RESULT] {expected(self.answers(), shares)[0]:.4f}"


def _stated(pattern: re.Pattern[str], answer: str, nothing: Fault) -> set[str]:
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


FORMS: Mapping[str, type[Rubric | TwoScores | BesideReference | Literals | Grade]] = {
    form.name: form for form in (Rubric, TwoScores, BesideReference, Literals, Grade)
}


def find_form(name: str, *, rubric: str | None = None) -> Form:
    """The template of that name, or of that TOML file.

    Args:
        name: of the template, or the path of a file that ends in .toml.
        rubric: what `grade` grades by: a question, and what each grade means.

    Raises:
        ConfigError: there is none, the file is not a template, or the template takes no rubric.
    """
    if rubric is not None:
        if name != Grade.name:
            raise ConfigError(f"a rubric is for the template {Grade.name}, not for {name}; leave it out")
        if not rubric.strip():
            raise ConfigError("the rubric is empty; expected a question, and what each grade means")
        return Grade(rubric.strip())
    if name.endswith(".toml"):
        return read_form(Path(name))
    if name not in FORMS:
        raise ConfigError(
            f"there is no template '{name}'.{did_you_mean(name, FORMS)} Known: {', '.join(FORMS)}, or a "
            ".toml file"
        )
    return FORMS[name]()

"""Rows as the checks of a dataset see them, whatever their task: a prompt, its answers and maybe a label."""

import re
from collections.abc import Hashable
from dataclasses import dataclass

from smidgen.data.items import Pair

# Chinese, Japanese and Korean have no spaces between words, so each of their characters is a word.
_UNSPACED = "\u2e80-\u2fdf\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s.,;:!?\"'“”‘’。，、！？；：]")


@dataclass(frozen=True)
class Example:
    """One row of a task.

    Attributes:
        id: unique in its file.
        prompt: the text that is asked, without what the task adds to every prompt.
        answers: the completion to learn, or the two answers of a pair; empty if the row has neither.
        label: the class to predict, where there are classes; of a pair, the better side.
        row: the row that it comes from, if that has several.
    """

    id: str
    prompt: str
    answers: tuple[str, ...] = ()
    label: str | None = None
    row: str | None = None

    @property
    def is_pair(self) -> bool:
        """Whether its answers are judged, and not learned."""
        return len(self.answers) == 2

    @property
    def completion(self) -> str | None:
        """The completion to learn; None if the row is a pair or has none."""
        return self.answers[0] if len(self.answers) == 1 else None

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the row."""
        return (self.prompt, *self.answers)

    @property
    def question(self) -> Hashable:
        """What is asked, ignoring case and spacing: of a pair also its answers, in any order."""
        answers = frozenset(map(normalise, self.answers)) if self.is_pair else frozenset[str]()
        return normalise(self.prompt), answers

    @property
    def said(self) -> str:
        """What is right, ignoring case and spacing: of a pair the better answer, as sides do not count."""
        if self.is_pair and self.label in ("a", "b"):
            return normalise(self.answers["ab".index(self.label)])
        return normalise(self.label if self.label is not None else self.completion or "")


def pair_example(pair: Pair) -> Example:
    """Return a pair as the checks see it."""
    row = pair.answer_ids[0].rpartition("/")[0] if pair.answer_ids else None
    return Example(pair.id, pair.prompt, (pair.a, pair.b), pair.better, row)


def normalise(text: str) -> str:
    """Normalise case and spacing, which do not make two texts different."""
    return " ".join(text.split()).casefold()


def words_of(text: str) -> list[str]:
    """Return the words and signs of a text in lower case, without the punctuation of sentences."""
    return _WORD.findall(text.casefold())

"""Generated texts that are worth remembering, and others that are not."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from smidgen.data.grammar import Drawing, in_split, sections
from smidgen.data.memory_facts import CHANGED, ENDED, STATED, UnsayableError, attributes, draw_fact
from smidgen.data.memory_noise import noisy
from smidgen.data.world import Split

CATEGORY_WEIGHTS = {"fact": 33, "preference": 20, "lesson": 14, "correction": 15, "plan": 18}
SORT_WEIGHTS = {
    "log": 20, "chatter": 20, "question": 18, "greeting": 6, "command": 14, "code": 6, "output": 6,
    "hypothetical": 6, "trivia": 4,
}  # fmt: skip
"""Of texts to skip."""
LANGUAGE_WEIGHTS = {"en": 70, "de": 12, "zh": 12, "mixed": 6}
_TASTES = ("drink", "food", "dislike", "color", "answers", "hobby")
_UNFRAMED = ("log", "code", "output")
_PLANS = ("trip", "visit", "deadline")
_VALUES_OF = {"en": "en", "de": "de", "zh": "zh", "mixed": "en"}
"""The language of the values in a text; those of a mixed text have their English names."""


class Author:
    """Draws texts of one split."""

    def __init__(self, split: Split, rng: random.Random) -> None:
        self.split: Split = split
        self.rng = rng

    def row(self, name: str) -> dict[str, Any]:
        """Draw a row with this id."""
        language = self._weighted(LANGUAGE_WEIGHTS)
        if self.rng.random() < 0.5:
            category = self._weighted(CATEGORY_WEIGHTS)
            told = {"decision": "SAVE", "category": category}
            text = self._framed(self._worthy(category, language), language, saved=True)
        else:
            sort = self._sort(language)
            told = {"decision": "SKIP", "kind": sort}
            text = self._skipped(sort, language)
        return {"id": name, "text": text, **told, "language": language}

    def _sort(self, language: str) -> str:
        while f"@{(sort := self._weighted(SORT_WEIGHTS))}" not in sections(f"texts.{language}.txt"):
            if sort in ("code", "output"):
                return sort
        return sort

    def _worthy(self, category: str, language: str) -> str:
        """Draw a text of a category: from its own templates, or a fact that the user tells."""
        tellers: dict[str, tuple[float, Callable[[str], str]]] = {
            "fact": (0.55, self._fact),
            "preference": (0.25, lambda lang: self._stated(lang, _TASTES)),
            "correction": (0.5, self._correction),
            "plan": (0.15, lambda lang: self._stated(lang, _PLANS)),
        }
        share, tell = tellers.get(category, (0.0, self._fact))
        if language != "mixed" and self.rng.random() < share:
            while True:
                with suppress(UnsayableError):
                    return tell(language)
        return self._drawn(category, language)

    def _fact(self, language: str) -> str:
        left_out = (*_TASTES, *_PLANS)
        known = [each.name for each in attributes(self.split) if each.name not in left_out]
        return self._stated(language, known)

    def _stated(self, language: str, names: Sequence[str], role: str = STATED) -> str:
        fitting = [a for a in attributes(self.split) if a.name in names and a.has(role, language)]
        if not fitting:
            raise UnsayableError
        fact = draw_fact(self.rng, self.split, self.rng.choice(fitting))
        old = fact.with_other_value() if role == CHANGED else None
        by_user = True if fact.subject.is_user and self.rng.random() < 0.8 else None
        wording = self.rng.randrange(2)
        return fact.text(language, self.rng, role=role, old=old, by_user=by_user, wording=wording)[0]

    def _correction(self, language: str) -> str:
        role = CHANGED if self.rng.random() < 0.75 else ENDED
        return self._stated(language, [each.name for each in attributes(self.split)], role)

    def _drawn(self, section: str, language: str) -> str:
        known = sections(f"texts.{language}.txt")
        files = ("values.txt", f"texts.{language}.txt", "texts.en.txt")
        if f"@{section}" not in known:  # code and output are the same in every language
            known = sections("texts.en.txt")
        template = self.rng.choice(in_split(known[f"@{section}"], self.split))
        return Drawing(self.rng, self.split, files).text(
            template, _VALUES_OF[language], wording=self.rng.randrange(2)
        )

    def _framed(self, text: str, language: str, *, saved: bool) -> str:
        """Put a text among others that decide nothing, and write it as people do."""
        draw = self.rng.random()
        gap = "" if language == "zh" else " "
        around = self.rng.choice(["chatter", "greeting"])
        if draw < 0.1:
            text = f"{self._ended(self._drawn(around, language))}{gap}{text}"
        elif saved and draw < 0.16:
            after = self.rng.choice(["chatter", "question"])
            text = f"{self._ended(text)}{gap}{self._drawn(after, language)}"
        return noisy(text, self.rng, language)

    def _ended(self, text: str) -> str:
        return text if text[-1:] in ".!?。！？:," else f"{text}{self.rng.choice(['.', '!', '...'])}"

    def _skipped(self, sort: str, language: str) -> str:
        text = self._drawn(sort, language)
        if sort in _UNFRAMED:
            return noisy(text, self.rng, language, framed=False)
        return self._framed(text, language, saved=False)

    def _weighted(self, weights: dict[str, int]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]


def memorize_rows(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """Return generated rows of our own format for the task `memorize`; few texts occur twice."""
    author = Author(split, random.Random(f"memorize/{split}/{seed}"))
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number in range(1, count + 1):
        for _ in range(5):  # short greetings run out
            row = author.row(f"memorize-{split}-{number}")
            if row["text"] not in seen:
                break
        seen.add(row["text"])
        rows.append(row)
    return rows

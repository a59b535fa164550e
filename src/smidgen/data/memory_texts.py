"""Generated texts that are worth remembering, and others that are not."""

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from smidgen.data.grammar import MARKS, WRITTEN, Drawing, in_split, sections, tidied, weighted
from smidgen.data.memory_facts import CHANGED, ENDED, STATED, UnsayableError, attributes, draw_fact
from smidgen.data.memory_noise import noisy
from smidgen.data.memory_written_rows import with_written
from smidgen.data.world import Split

CATEGORY_WEIGHTS = {"fact": 33, "preference": 20, "lesson": 14, "correction": 15, "plan": 18}
SORT_WEIGHTS = {
    "log": 10, "build": 9, "code": 9, "chatter": 11, "greeting": 9, "thanks": 9, "question": 13,
    "command": 13, "hypothetical": 22, "fiction": 22, "quote": 14, "trivia": 10, "transient": 13,
    "sarcasm": 10, "advert": 9,
}  # fmt: skip
"""Of texts to skip; the likest to facts, what is only imagined or true of nobody, are the most frequent."""
LANGUAGE_WEIGHTS = {"en": 70, "de": 12, "zh": 12, "mixed": 6}
INTENTS = {
    "fact": (
        ("tell_fact", "state_information"),
        ("gives information about a person or a thing", "tells a fact"),
    ),
    "preference": (
        ("state_preference", "say_taste"),
        ("says what somebody likes or dislikes", "states a taste"),
    ),
    "lesson": (
        ("share_lesson", "report_insight"),
        ("tells what was learnt from experience", "draws a lesson"),
    ),
    "correction": (
        ("correct_record", "fix_mistake"),
        ("corrects what was said before", "says that it is otherwise"),
    ),
    "plan": (
        ("announce_plan", "schedule"),
        ("says what will be done", "tells an intention or a date to come"),
    ),
    "log": (("report_change", "work_log"), ("notes a change of code or a step of work", "a line of a log")),
    "chatter": (("small_talk", "chat"), ("says nothing in particular", "casual talk")),
    "question": (("ask_question", "get_answer"), ("asks something", "wants to know something")),
    "greeting": (("greet", "say_hello"), ("greets or takes leave", "a greeting")),
    "command": (("give_order", "request_action"), ("wants something done at once", "an instruction")),
    "hypothetical": (("imagine", "what_if"), ("imagines what is not so", "supposes something")),
}
"""Names and descriptions of the intents of generated texts, by category or sort."""
OFFERED = (3, 6)
"""Fewest and most intents on offer."""
_TRIES = 5
"""Texts drawn until one is new; short greetings run out."""
_TASTES = ("drink", "food", "dislike", "color", "answers", "style", "hobby", "band")
_UNFRAMED = ("log", "code", "build")
_OF_ANY_LANGUAGE = ("code", "build")
_ASIDES = (
    "chatter",
    "chatter",
    "greeting",
    "thanks",
    "question",
    "errand",
    "transient",
    "transient",
    "trivia",
    "musing",
)
"""Sections of sentences that stand beside others and decide nothing: an errand needs no text to work on,
and a musing, a wish or a plot in passing, says nothing of its neighbours."""
_ERRAND_SHARE = 0.25
"""Of commands."""
_SAVED_SHARE = 0.3
"""Of texts to save, put into a frame; such sentences also stand in frames that make them not worth saving."""
_ASIDE_WEIGHTS = {0: 50, 1: 26, 2: 15, 3: 9}
_PLANS = ("trip", "visit", "deadline")
_VALUES_OF = {"en": "en", "de": "de", "zh": "zh", "mixed": "en"}
"""The language of the values in a text; those of a mixed text have their English names."""


class Author:
    """Draws texts of one split."""

    def __init__(self, split: Split, rng: random.Random, languages: Collection[str]) -> None:
        self.split: Split = split
        self.rng = rng
        self._languages = {each: weight for each, weight in LANGUAGE_WEIGHTS.items() if each in languages}

    def row(self, name: str) -> dict[str, Any]:
        """Draw a row with this id."""
        language = weighted(self.rng, self._languages)
        if self.rng.random() < 0.5:
            category = weighted(self.rng, CATEGORY_WEIGHTS)
            told = {"decision": "SAVE", "category": category}
            text = self._framed(self._saved(category, language), language)
            if category == "lesson" and self.rng.random() < 0.2:  # as at the end of a log
                text = f"{self._drawn('log', language)}\n{text}"
        else:
            sort = self._sort(language)
            told = {"decision": "SKIP", "kind": sort}
            text = self._skipped(sort, language)
        return {"id": name, "text": text, **told, "language": language}

    def intent_row(self, name: str) -> dict[str, Any]:
        """Draw a text with intents on offer, of which one in eight times none is right."""
        language = weighted(self.rng, self._languages)
        sort = self.rng.choice([each for each in INTENTS if f"@{each}" in sections(f"texts.{language}.txt")])
        if sort in CATEGORY_WEIGHTS:
            text = noisy(self._worthy(sort, language), self.rng, language)
        else:
            text = noisy(self._drawn(sort, language), self.rng, language, framed=sort not in _UNFRAMED)
        others = self.rng.sample([each for each in INTENTS if each != sort], self.rng.randint(*OFFERED))
        has_right = self.rng.random() >= 1 / 8
        offered = [*others[1:], sort] if has_right else others
        self.rng.shuffle(offered)
        named = {each: tuple(map(self.rng.choice, INTENTS[each])) for each in offered}
        intents = [{"name": named[each][0], "description": named[each][1]} for each in offered]
        return {
            "id": name,
            "text": text,
            "intents": intents,
            "intent": named[sort][0] if has_right else "oos",
        }

    def _sort(self, language: str) -> str:
        while f"@{(sort := weighted(self.rng, SORT_WEIGHTS))}" not in sections(f"texts.{language}.txt"):
            if sort in _OF_ANY_LANGUAGE:
                return sort
        return sort

    def _saved(self, category: str, language: str) -> str:
        told = self._worthy(category, language)
        if "@save" not in sections(f"texts.{language}.txt") or self.rng.random() >= _SAVED_SHARE:
            return told
        return self._drawn("save", language, told)

    def _worthy(self, category: str, language: str) -> str:
        """Draw a text of a category: from its own templates, or a fact that the user tells."""
        tellers: dict[str, tuple[float, Callable[[str], str]]] = {
            "fact": (0.6, self._fact),
            "preference": (0.25, lambda lang: self._stated(lang, _TASTES)),
            "plan": (0.15, lambda lang: self._stated(lang, _PLANS)),
        }
        share, tell = tellers.get(category, (0.0, self._fact))
        if language != "mixed" and self.rng.random() < share:
            while True:
                with suppress(UnsayableError):
                    return tell(language)
        return self._drawn(category, language)

    def _fact(self, language: str) -> str:
        """Draw a fact that holds, has changed or has ended; who tells that it changed corrects nobody."""
        left_out = (*_TASTES, *_PLANS)
        known = [each.name for each in attributes(self.split) if each.name not in left_out]
        return self._stated(language, known, self.rng.choices((STATED, CHANGED, ENDED), (70, 20, 10))[0])

    def _stated(self, language: str, names: Sequence[str], role: str = STATED) -> str:
        fitting = [a for a in attributes(self.split) if a.name in names and a.has(role, language)]
        if not fitting:
            raise UnsayableError
        fact = draw_fact(self.rng, self.split, self.rng.choice(fitting))
        old = fact.with_other_value() if role == CHANGED else None
        by_user = True if fact.subject.is_user and self.rng.random() < 0.8 else None
        mark = self.rng.choice(MARKS)
        return fact.text(language, self.rng, role=role, old=old, by_user=by_user, mark=mark)[0]

    def _drawn(self, section: str, language: str, told: str | None = None) -> str:
        """Draw a text of a section; `{told}` is this sentence, or one that is worth saving by itself."""
        if section == "command" and self.rng.random() < _ERRAND_SHARE:
            section = "errand"
        known = sections(f"texts.{language}.txt")
        files = ("values.txt", f"texts.{language}.txt", "texts.en.txt")
        if f"@{section}" not in known:  # code and builds look the same in every language
            known = sections("texts.en.txt")
        template = self.rng.choice(in_split(known[f"@{section}"], self.split))
        slots = {"told": lambda: told or self._worthy(weighted(self.rng, CATEGORY_WEIGHTS), language)}
        text = Drawing(self.rng, self.split, files).text(
            template, _VALUES_OF[language], mark=self.rng.choice(MARKS), slots=slots
        )
        return tidied(text) if language in ("en", "mixed") else text

    def _framed(self, text: str, language: str) -> str:
        """Put a text among sentences that decide nothing, and write it as people do."""
        sentences = [text]
        for _ in range(weighted(self.rng, _ASIDE_WEIGHTS)):
            aside = self._drawn(self.rng.choice(_ASIDES), language)
            sentences.insert(self.rng.choice((0, len(sentences))), aside)
        gap = "" if language == "zh" else self.rng.choice((" ", " ", " ", "\n"))
        *before, last = sentences
        joined = gap.join([*(self._ended(sentence) for sentence in before), last])
        return noisy(joined, self.rng, language)

    def _ended(self, text: str) -> str:
        return text if text[-1:] in ".!?。！？:," else f"{text}{self.rng.choice(['.', '!', '...'])}"

    def _skipped(self, sort: str, language: str) -> str:
        if sort not in _UNFRAMED:
            return self._framed(self._drawn(sort, language), language)
        lines = [self._drawn(sort, language) for _ in range(1 + weighted(self.rng, _ASIDE_WEIGHTS))]
        return noisy("\n".join(lines), self.rng, language, framed=False)


def memorize_rows(
    split: Split, count: int, seed: int, languages: Collection[str] = WRITTEN
) -> list[dict[str, Any]]:
    """Return rows for the task `memorize` in our own format; few texts occur twice.

    They are generated, and in training written ones too.
    """
    rng = random.Random(f"memorize/{split}/{seed}")
    author = Author(split, rng, languages)
    seen: set[str] = set()

    def generated(name: str) -> dict[str, Any]:
        drawn = (author.row(name) for _ in range(_TRIES))
        row = next((row for row in drawn if row["text"] not in seen), None) or author.row(name)
        seen.add(row["text"])
        return row

    return with_written("memorize", generated, split, count, rng, languages)


def classify_rows(
    split: Split, count: int, seed: int, languages: Collection[str] = WRITTEN
) -> list[dict[str, Any]]:
    """Return generated rows of our own format for the task `classify`."""
    author = Author(split, random.Random(f"classify/{split}/{seed}"), languages)
    return [author.intent_row(f"classify-{split}-{number}") for number in range(1, count + 1)]

"""Texts from templates: choices, slots, and values in several languages, split into training and test.

In a template, `(a|b|)` is a choice, `{city}` a value of that section, the same wherever it occurs again,
`{city#2}` another, and `{int:2-9}` a number; a backslash takes a character as it is. A file has sections,
`== name`, of one template a line. The lines of a section `== @name` are split: by a hash of the line, some
occur in test rows only and the others in training rows only.

A value has a translation for each language, after ` = `, and each may have other wordings: after ` ~ ` a
synonym, after ` ^ ` an abbreviation.
"""

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from smidgen.data.world import Split

_Choice = TypeVar("_Choice", str, int)

FOLDER = Path(__file__).parent / "memory_grammar"
LANGUAGES = ("en", "de", "zh")
WRITTEN = (*LANGUAGES, "mixed")
"""The languages of rows: one, or two in one text or beside each other."""
SYNONYM, ABBREVIATION = "~", "^"
MARKS = ("", SYNONYM, ABBREVIATION)
NAMED = ("name", "surname", "city", "company", "pet", "project", "band", "book", "school", "tool", "system")
"""The sections of values that are proper names."""
_TEST_SHARE = 0.15
_WORDING = re.compile(r" ([~^]) ")
_TIDIED = (
    (re.compile(r"(?<!person )\b([Aa]) (?=(?!one|[Ee]u)[aeio]|[FHLMNRSX][A-Z])"), r"\1n "),
    (re.compile(r"\ba (?=(?!One|Eu)[AEIO])"), "an "),
    (re.compile(r"(?<=[bcdfgklmnprtv])ys\b"), "ies"),
    (re.compile(r"(?<=fish)s\b"), ""),
    (re.compile(r" +(?=[.,!?](?:\s|$)|['’](?:d|ll|m|re|s|ve)\b)|(?<=\S) +(?= \S)"), ""),
)
"""What values and empty choices leave behind: articles, plurals, spaces, each with what belongs there."""


def in_split(lines: Sequence[str], split: Split, *, least: int = 1) -> tuple[str, ...]:
    """Return the lines of a split, in their order: a share for the test, at least `least` if possible."""
    if len(lines) < 2 * least:
        return tuple(lines) if split == "train" else ()
    ranked = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
    tested = set(ranked[: max(least, round(_TEST_SHARE * len(lines)))])
    return tuple(line for line in lines if (line in tested) == (split == "test"))


@cache
def sections(name: str) -> Mapping[str, tuple[str, ...]]:
    """Read the sections of a file of templates; the mark of those that are split is part of their name."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            heading = line.removeprefix("== ")
            found[heading] = []
        elif line.strip() and not (line.startswith("# ") and not heading):
            found[heading].append(line)
    return {heading: tuple(lines) for heading, lines in found.items()}


@cache
def values_of(section: str, split: Split, name: str = "values.txt") -> tuple[str, ...]:
    """Return the values of a section of a split; every value of a section that is not split."""
    known = sections(name)
    if f"@{section}" in known:
        return in_split(known[f"@{section}"], split, least=3)
    return known[section]


def entities(split: Split) -> set[str]:
    """Return every wording of the proper names of a split: people, places, companies, works and tools."""
    known = sections("values.txt")
    return {
        wording
        for section in NAMED
        for line in in_split(known[f"@{section}"], split, least=3)
        for translation in line.split(" = ")
        for wording in _WORDING.split(translation)[::2]
    }


@dataclass(frozen=True)
class Wording:
    """One wording of a value, and what it is to the first one of its language."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Value:
    """A value with its wordings in every language."""

    line: str

    def wordings(self, language: str) -> tuple[Wording, ...]:
        """Return the wordings in a language; those of the first language if it has none of its own."""
        return _wordings(self.line, language)

    def text(self, language: str, mark: str = "", rng: random.Random | None = None) -> str:
        """Return a wording with this mark, drawn by `rng` if there are several; without one, the first."""
        found = self.wordings(language)
        marked = [each for each in found if each.mark == mark] or found[:1]
        return (rng.choice(marked) if rng else marked[0]).text


@cache
def _wordings(line: str, language: str) -> tuple[Wording, ...]:
    translations = line.split(" = ")
    place = LANGUAGES.index(language)
    parts = _WORDING.split(translations[place if place < len(translations) else 0])
    return (Wording(parts[0]), *map(Wording, parts[2::2], parts[1::2]))


@dataclass
class Drawing:
    """Values and choices of one row, drawn on first use.

    Attributes:
        rng: draws them.
        split: the split of the row.
        files: where sections are looked up, in this order.
        bound: the values drawn so far, by slot.
    """

    rng: random.Random
    split: Split
    files: tuple[str, ...] = ("values.txt",)
    bound: dict[str, Value] = field(default_factory=dict)

    def value(self, slot: str) -> Value:
        """Return the value of a slot, different from those of other slots of the same section."""
        if slot not in self.bound:
            section = slot.partition("#")[0]
            taken = {value.line for name, value in self.bound.items() if name.partition("#")[0] == section}
            name = next(name for name in self.files if {section, f"@{section}"} & sections(name).keys())
            free = [line for line in values_of(section, self.split, name) if line not in taken]
            self.bound[slot] = Value(self.rng.choice(free))
        return self.bound[slot]

    def text(
        self,
        template: str,
        language: str,
        *,
        mark: str = "",
        slots: Mapping[str, Callable[[], str]] | None = None,
    ) -> str:
        """Expand a template.

        Args:
            template: the template.
            language: of the values.
            mark: which wordings of values are taken, where they have such.
            slots: slots that are filled otherwise than by sections.
        """
        out, at = [], 0
        while at < len(template):
            character = template[at]
            if character == "\\":
                out.append({"n": "\n"}.get(template[at + 1], template[at + 1]))
                at += 2
            elif character == "(":
                options, at = _options(template, at)
                chosen = self.rng.choice(options)
                out.append(self.text(chosen, language, mark=mark, slots=slots))
            elif character == "{":
                end = template.index("}", at)
                out.append(self._filled(template[at + 1 : end], language, mark, slots or {}))
                at = end + 1
            else:
                out.append(character)
                at += 1
        return "".join(out)

    def _filled(self, slot: str, language: str, mark: str, slots: Mapping[str, Callable[[], str]]) -> str:
        if slot in slots:
            return slots[slot]()
        if slot.startswith("int:"):
            low, high = slot.removeprefix("int:").split("-")
            return str(self.rng.randint(int(low), int(high)))
        return self.value(slot).text(language, mark, self.rng)


def weighted(rng: random.Random, weights: Mapping[_Choice, int]) -> _Choice:
    """Draw a key in proportion to its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def tidied(text: str) -> str:
    """Return an English text with the articles, plurals and spaces that its values and choices ask for."""
    for wrong, right in _TIDIED:
        text = wrong.sub(right, text)
    return text


def _options(template: str, at: int) -> tuple[list[str], int]:
    """Return the options of the choice that opens at a position, and the position behind it."""
    depth, start, options = 0, at + 1, []
    while True:
        character = template[at]
        if character == "\\":
            at += 1
        elif character == "(":
            depth += 1
        elif character in "|)" and depth == 1:
            options.append(template[start:at])
            start = at + 1
        if character == ")":
            depth -= 1
            if depth == 0:
                return options, at + 1
        at += 1

"""Facts about people, projects and things, which can be said in several ways, changed and ended."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from smidgen.data.grammar import (
    LANGUAGES,
    Drawing,
    Value,
    in_split,
    sections,
    tidied,
    values_of,
    weighted,
)
from smidgen.data.world import Split

STATED, CHANGED, CORRECTED, ENDED, AFTER, UNNAMED = "", "!", "~", "x", ">", "?"
_DATIVES = {"der": "dem", "die": "der", "mein": "meinem", "meine": "meiner"}
_IDLE_SPACE = re.compile(r" (?= |[.,;]|$|'(?:m|ve)\b)")
"""A space that a choice of nothing, or of a short form, leaves."""
_PEOPLE = {"user": 45, "kin": 20, "name": 35}
"""Weights of the subjects of facts about a person."""
_CLOSE = ("user", "kin", "creature")
"""The sections of the user and of those around him, called from his or from another's point of view."""


class UnsayableError(LookupError):
    """What was drawn cannot be said with the templates of its split, so that something else is drawn."""


@dataclass(frozen=True)
class Attribute:
    """What can be said of a subject, such as where it lives.

    Attributes:
        name: its name.
        is_multi: whether several values hold at a time, so that another value replaces none.
        subject: `person`, or the section that subjects are drawn from.
        slot: the slot, if any, that tells facts of a subject apart: who feeds the cat may not feed the dog.
        value: template of a value in every language.
        kind: the kind of a change.
        lines: templates by language and role: the fact as it is `STATED`, stated with its value `UNNAMED`,
            `CHANGED`, `CORRECTED`, `ENDED`, or ended with what holds `AFTER` it.
    """

    name: str
    is_multi: bool
    subject: str
    slot: str
    value: str
    kind: str
    lines: Mapping[tuple[str, str], tuple[str, ...]]

    def has(self, role: str, language: str) -> bool:
        """Whether it can be said in a language in this role."""
        return bool(self.lines.get((language, role)))


@cache
def attributes(split: Split) -> tuple[Attribute, ...]:
    """Return every attribute with the templates of a split."""
    return tuple(_attribute(heading, lines, split) for heading, lines in sections("facts.txt").items())


def _attribute(heading: str, lines: tuple[str, ...], split: Split) -> Attribute:
    name, arity, about, rest = heading.split(" ", 3)
    subject, _, slot = about.partition("+")
    value, kind = rest.rsplit(" ", 1)
    by_role: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        tag, text = line.split(" ", 1)
        by_role.setdefault((tag[:2], tag[2:]), []).append(text)
    kept = {key: in_split(texts, split, least=2 if len(texts) > 4 else 1) for key, texts in by_role.items()}
    template = value if "{" in value else f"{{{value}}}"
    return Attribute(name, arity == "multi", subject, slot, template, kind, kept)


@dataclass(frozen=True)
class Subject:
    """Whom or what a fact is about; `section` says where it is drawn from."""

    section: str
    value: Value

    @property
    def is_user(self) -> bool:
        """Whether it is the user, who may speak of himself."""
        return self.section == "user"

    def text(self, language: str, rng: random.Random) -> str:
        """Return its name; people around the user are called from his or from another's point of view."""
        wordings = self.value.wordings(language)
        spoken = rng.choice(wordings) if self.section in _CLOSE else wordings[0]
        return spoken.text


@dataclass(frozen=True)
class Fact:
    """One value of one attribute of one subject; `others` are the slots that belong to it, such as a role."""

    attribute: Attribute
    subject: Subject
    value: Drawing
    others: Drawing = field(compare=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a second value would replace: attribute, subject and the slot that tells facts apart."""
        slot = self.others.bound.get(self.attribute.slot)
        return self.attribute.name, self.subject.value.line, slot.line if slot else ""

    @property
    def is_about_itself(self) -> bool:
        """Whether its value is its subject, as if somebody shared a flat with himself."""
        return self.subject.value in self.value.bound.values()

    def value_text(self, language: str, mark: str = "") -> str:
        """Return its value in a language, in wordings with this mark."""
        template = Value(self.attribute.value).text(language)
        return self.value.text(template, language, mark=mark)

    def marks(self, language: str) -> set[str]:
        """Return the marks of other wordings that its value or a slot of it has in a language."""
        slot = self.others.bound.get(self.attribute.slot)
        bound = [*self.value.bound.values(), *([slot] if slot else [])]
        return {wording.mark for value in bound for wording in value.wordings(language)[1:]}

    def with_other_value(self) -> "Fact":
        """Return the same fact with another value."""
        drawing = Drawing(self.value.rng, self.value.split)
        other = replace(self, value=drawing)
        for _ in range(50):
            drawing.bound.clear()
            if other.value_text("en") != self.value_text("en") and not other.is_about_itself:
                break
        return other

    def text(
        self,
        language: str,
        rng: random.Random,
        *,
        role: str = STATED,
        old: "Fact | None" = None,
        mark: str = "",
        line: str | None = None,
        not_line: str | None = None,
        by_user: bool | None = None,
    ) -> tuple[str, str]:
        """Say it, and return the text and its template.

        Args:
            language: the language.
            rng: draws the template.
            role: the fact itself, its change or its end.
            old: the fact that is changed.
            mark: which wordings of values are taken.
            line: the template, if not any.
            not_line: a template to avoid.
            by_user: whether only, or never, to say it as the user does of himself; None for either.

        Raises:
            UnsayableError: there is no template.
        """
        fitting = [
            each
            for each in self.attribute.lines.get((language, role), ())
            if each != not_line
            and line in (None, each)
            and (old is not None or "{old}" not in each)
            and (_is_told(each) or self.subject.is_user)
            and (by_user is None or by_user != _is_told(each))
        ]
        if not fitting:
            raise UnsayableError
        drawn = rng.choice(fitting)
        drawing = Drawing(rng, self.others.split, bound=self.others.bound)
        slots = {
            "p": lambda: self.subject.text(language, rng),
            "p's": lambda: possessive(self.subject.text(language, rng)),
            "p3": lambda: dative(self.subject.text(language, rng)),
            "v": lambda: self.value_text(language, mark),
            "old": lambda: old.value_text(language) if old else "",
        }
        text = _IDLE_SPACE.sub("", drawing.text(drawn, language, mark=mark, slots=slots))
        if language == "en":
            text = tidied(text)
        return text[:1].upper() + text[1:], drawn


def possessive(name: str) -> str:
    """Return the English possessive of a name."""
    return f"{name}'" if name.endswith("s") and not name.startswith(("my ", "the ")) else f"{name}'s"


def dative(name: str) -> str:
    """Return the German dative of a person, whose article or pronoun alone changes."""
    first, _, rest = name.partition(" ")
    return f"{_DATIVES.get(first, first)} {rest}".rstrip()


def _is_told(line: str) -> bool:
    """Whether a template names its subject; otherwise the user speaks of himself."""
    return any(slot in line for slot in ("{p}", "{p's}", "{p3}"))


def draw_fact(rng: random.Random, split: Split, attribute: Attribute, subject: Subject | None = None) -> Fact:
    """Draw a fact of an attribute, about a subject or any, whose value is not its subject."""
    drawn = subject or draw_subject(rng, split, attribute.subject)
    fact = Fact(attribute, drawn, Drawing(rng, split), Drawing(rng, split))
    if attribute.slot:
        fact.others.value(attribute.slot)
    while not fact.value.bound or fact.is_about_itself:
        fact.value.bound.clear()
        for language in LANGUAGES:
            fact.value_text(language)
    return fact


def draw_subject(rng: random.Random, split: Split, kind: str) -> Subject:
    """Draw a subject: a person, or a value of a section."""
    section = weighted(rng, _PEOPLE) if kind == "person" else kind
    return Subject(section, Value(rng.choice(values_of(section, split))))

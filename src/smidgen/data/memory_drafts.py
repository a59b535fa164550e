"""A row of arbitration in the making: the new text, the stored facts it is made for, what is to happen."""

import random
from dataclasses import dataclass, field

from smidgen.data.memory_facts import Fact, UnsayableError

OPPOSITES = {"food": "dislike", "dislike": "food"}
_ENTANGLED = (
    {"food", "dislike"},
    {"language", "learning"},
    {"home", "lodging"},
    {"job", "employer", "probation", "absence", "leave"},
    {"team", "reports", "acting", "private_tie", "work_tie"},
    {"newcomer", "kinship"},
    {"sits", "shares"},
    {"class", "substitute"},
    {"stack", "hosting"},
    {"reads", "writes", "program_tie"},
    {"parent_firm", "firm_tie"},
)
"""Attributes of which one says something about another of the same subject."""


@dataclass
class Draft:
    """A row before distractors: the new text, the action, and the stored facts it was made for.

    Attributes:
        text: the new fact as it is said.
        action: the action.
        fact: what the text is about.
        stored: facts that are among the candidates, with their texts.
        language: of the new text.
        stored_language: of the candidates.
        has_target: whether the first of the stored facts is the target.
    """

    text: str
    action: str
    fact: Fact
    stored: list[tuple[Fact, str]] = field(default_factory=list)
    language: str = "en"
    stored_language: str = "en"
    has_target: bool = True


def drafted(
    text: str, action: str, fact: Fact, target: tuple[Fact, str], language: str, stored_language: str
) -> Draft:
    """Return a draft about one stored fact, unless both are said alike."""
    if text.casefold().strip(" .。") == target[1].casefold().strip(" .。"):
        raise UnsayableError
    return Draft(text, action, fact, [target], language, stored_language)


def clashes(other: Fact, fact: Fact) -> bool:
    """Whether a stored fact would say something else about what a new one is about."""
    same_subject = other.subject.value == fact.subject.value
    names = {other.attribute.name, fact.attribute.name}
    return same_subject and (other.key == fact.key or any(names <= group for group in _ENTANGLED))


def in_order(old: Fact, new: Fact) -> tuple[Fact, Fact]:
    """Return a fact before and after its change: what is extended ends in a later year."""
    years = [fact.value.bound["year"].line for fact in (old, new) if "year" in fact.value.bound]
    return (new, old) if years != sorted(years) else (old, new)


def joined(rng: random.Random, first: str, second: str, language: str) -> str:
    """Return two sentences as one text."""
    if language == "zh":
        return f"{first}{second}"
    link = {"en": [" Also, ", " ", " And ", " By the way, "], "de": [" ", " Außerdem: "]}[language]
    return f"{first.rstrip()}{rng.choice(link)}{second}"

"""Which facts about one subject contradict each other, and which only are of a similar matter."""

from smidgen.data.memory_facts import Fact

OPPOSITES = {"food": "dislike", "dislike": "food"}
"""A taste that becomes the other is changed."""
_SIMILAR = (
    {"home", "rent", "neighbour", "sits"},
    {"job", "employer", "salary", "room", "commute"},
    {"study", "degree", "job"},
    {"commute", "car"},
    {"rent", "salary", "spends"},
    {"kids", "siblings", "partner", "birthday"},
    {"neighbour", "sits", "partner", "role"},
    {"food", "drink", "allergy"},
    {"condition", "injury", "allergy", "dose", "visit"},
    {"hobby", "instrument", "gym", "band", "book"},
    {"editor", "system", "style"},
    {"language", "answers", "style"},
    {"trip", "leave", "visit"},
    {"pet", "allergy"},
    {"school", "age"},
    {"team", "reports", "mentors"},
    {"stack", "port", "limit"},
    {"deadline", "release"},
    {"duty", "teamsize", "belongs", "budget"},
)
"""Attributes that are spoken of alike and stand side by side: what one says leaves the others as they are."""


def is_similar(name: str, other: str) -> bool:
    """Whether two attributes are of a similar matter; a person has a second role, but no second home."""
    return any({name, other} <= names for names in _SIMILAR) and (name != other or name in ("role", "duty"))


def clashes(other: Fact, fact: Fact) -> bool:
    """Whether a stored fact would say something else about what a new one is about."""
    same_subject = other.subject.value == fact.subject.value
    names = {other.attribute.name, fact.attribute.name}
    return same_subject and (
        other.key == fact.key or names <= set(OPPOSITES) or names <= {"language", "learning"}
    )

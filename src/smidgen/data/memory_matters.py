"""Which facts about one subject cannot both hold, and which merely are of a similar matter."""

from smidgen.data.memory_facts import Fact

OPPOSITES = {"food": "dislike", "dislike": "food"}
"""A taste that becomes the other is changed."""
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

_RIVALS = (
    {"tabs", "four spaces", "two spaces"},
    {"snake case", "camel case"},
    {"short answers", "detailed answers"},
    {"dark mode", "light mode"},
    {"metric units", "imperial units"},
    {"British spelling", "American spelling"},
    {"formal language", "a friendly tone"},
    {"bullet points", "numbered lists", "plain text"},
)
"""Values of which one excludes the others, although the attribute may have several."""
_ONE_AT_A_TIME = ("leave",)
"""Attributes that have one value at a time, which ends by itself."""


def is_similar(name: str, other: str) -> bool:
    """Whether two attributes are of a similar matter; a person has a second role, but no second home."""
    return any({name, other} <= names for names in _SIMILAR) and (name != other or name in ("role", "duty"))


def clashes(other: Fact, fact: Fact) -> bool:
    """Whether a stored fact would say something else about what a new one is about."""
    same_subject = other.subject.value == fact.subject.value
    names = {other.attribute.name, fact.attribute.name}
    return same_subject and (other.key == fact.key or any(names <= group for group in _ENTANGLED))


def both_hold(other: Fact, fact: Fact) -> bool:
    """Whether two facts of an attribute that may have several values say two things that both are so."""
    values = {other.value_text("en"), fact.value_text("en")}
    pets = [each.others.bound.get("pet") for each in (other, fact)]
    is_one_pet = pets[0] is not None and pets[0] == pets[1]
    excluded = fact.attribute.name in _ONE_AT_A_TIME or any(values <= rivals for rivals in _RIVALS)
    return len(values) > 1 and not is_one_pet and not excluded

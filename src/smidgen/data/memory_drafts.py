"""A row of arbitration in the making: the new text, the stored facts it is made for, what is to happen."""

from dataclasses import dataclass, field

from smidgen.data.memory_facts import Fact, UnsayableError


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
        also: a second fact that the text says.
    """

    text: str
    action: str
    fact: Fact
    stored: list[tuple[Fact, str]] = field(default_factory=list)
    language: str = "en"
    stored_language: str = "en"
    has_target: bool = True
    also: Fact | None = None

    @property
    def facts(self) -> list[Fact]:
        """What the text is about, and what is stored."""
        also = [] if self.also is None else [self.also]
        return [self.fact, *also, *(fact for fact, _ in self.stored)]


def drafted(
    text: str, action: str, fact: Fact, target: tuple[Fact, str], language: str, stored_language: str
) -> Draft:
    """Return a draft about one stored fact, unless both are said alike but for the name of the subject."""
    if _unnamed(text, fact, language) == _unnamed(target[1], fact, stored_language):
        raise UnsayableError
    return Draft(text, action, fact, [target], language, stored_language)


def _unnamed(text: str, fact: Fact, language: str) -> str:
    """Return a text in lower case, with a sign for its subject."""
    text = text.casefold().strip(" .。")
    for wording in sorted(fact.subject.value.wordings(language), key=lambda each: -len(each.text)):
        text = text.replace(wording.text.casefold(), "*")
    return text


def in_order(old: Fact, new: Fact) -> tuple[Fact, Fact]:
    """Return a fact before and after its change: what is extended ends in a later year."""
    years = [fact.value.bound["year"].line for fact in (old, new) if "year" in fact.value.bound]
    return (new, old) if years != sorted(years) else (old, new)

"""Generated rows of new facts beside stored ones, with what is to happen.

The new fact and the one it concerns are said by different templates, or with another wording, or in another
language. The other candidates are about the same person or the same matter, so that shared words decide
nothing: the same fact about somebody else is new, and so is a second value of what may have several.
"""

import random
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from smidgen.data.grammar import ABBREVIATION, SYNONYM, WRITTEN, Drawing, in_split, sections, weighted
from smidgen.data.memory_drafts import Draft, drafted, in_order
from smidgen.data.memory_facts import (
    AFTER,
    CHANGED,
    CORRECTED,
    ENDED,
    STATED,
    UNNAMED,
    Fact,
    UnsayableError,
    attributes,
    draw_fact,
)
from smidgen.data.memory_matters import OPPOSITES, both_hold, clashes, is_similar
from smidgen.data.memory_noise import joined, noisy, uncapitalised
from smidgen.data.memory_written_rows import with_written
from smidgen.data.world import Split

KIND_WEIGHTS = {
    "paraphrase": 12,
    "cross-language": 9,
    "synonym": 8,
    "abbreviation": 8,
    "correction": 13,
    "relational": 10,
    "expiry": 11,
    "mixed": 10,
    "new": 19,
}
LANGUAGE_WEIGHTS = {"en": 74, "de": 13, "zh": 13}
"""Of rows in one language; those of two are besides."""
_TRIES = 500
_ACROSS = "cross-language"
_COUNT_WEIGHTS = {1: 15, 2: 22, 3: 28, 4: 20, 5: 15}
_FRAMED_SHARES = {"again": 0.12, "changed": 0.25, "ended": 0.25}
"""How often a fact is repeated, changed or ended by a frame of `texts.*.txt` around its plain statement."""
_UNNAMED_SHARE = 0.25
"""How often a fact that can leave its party unnamed does so in the store."""
_SYNONYM_SHARE = 0.3
"""How often a fact that is repeated in another structure has other words for its value, too."""
_PAIRS = (
    ("en", "zh"),
    ("zh", "en"),
    ("en", "de"),
    ("de", "en"),
    ("en", "zh"),
    ("en", "de"),
    ("de", "zh"),
    ("zh", "de"),
)


class Writer:
    """Draws rows of one split; a draft that its templates cannot say is drawn again."""

    def __init__(self, split: Split, rng: random.Random, languages: Collection[str]) -> None:
        self.split: Split = split
        self.rng = rng
        self.attributes = attributes(split)
        self._languages = {each: weight for each, weight in LANGUAGE_WEIGHTS.items() if each in languages}
        self._pairs = _PAIRS if "mixed" in languages else tuple((each, each) for each in self._languages)
        makers: dict[str, Callable[[], Draft]] = {
            "paraphrase": self._paraphrase,
            _ACROSS: self._across,
            "synonym": self._synonym,
            "abbreviation": self._abbreviation,
            "correction": lambda: self._change("correction"),
            "relational": lambda: self._change("relational"),
            "expiry": self._expiry,
            "mixed": self._mixed,
            "new": self._new,
        }
        self.makers = {kind: make for kind, make in makers.items() if "mixed" in languages or kind != _ACROSS}
        self._kinds = {kind: KIND_WEIGHTS[kind] for kind in self.makers}

    def row(self, name: str) -> dict[str, Any]:
        """Draw a row with this id."""
        kind, draft, listed = self._drafted()
        target = None
        candidates = []
        ids = [f"m{number}" for number in self.rng.sample(range(10, 999), len(listed))]
        for place, (text, is_target) in zip(ids, listed, strict=True):
            candidates.append({"id": place, "text": text})
            target = place if is_target else target
        languages = {draft.language, draft.stored_language}
        row = {
            "id": name,
            "fact": noisy(draft.text, self.rng, draft.language),
            "candidates": candidates,
            "decision": draft.action,
            "kind": kind,
            "language": draft.language if len(languages) == 1 else "mixed",
        }
        return row if target is None else row | {"target": target}

    def _drafted(self) -> tuple[str, Draft, list[tuple[str, bool]]]:
        """Draw a kind and a draft of it; another kind where the templates of its languages have none."""
        while True:
            kind = weighted(self.rng, self._kinds)
            for _ in range(_TRIES):
                with suppress(UnsayableError):
                    draft = self.makers[kind]()
                    return kind, draft, self._listed(draft)

    def _listed(self, draft: Draft) -> list[tuple[str, bool]]:
        """Return the candidates in random order, each with whether it is the target."""
        count = max(weighted(self.rng, _COUNT_WEIGHTS), len(draft.stored), 1)
        keys = {fact.key for fact in draft.facts}
        texts = [text for _, text in draft.stored]
        for _ in range(40):
            if len(texts) == count:
                break
            other = self._distractor(draft.fact)
            if other.key in keys or any(clashes(other, fact) for fact in draft.facts):
                continue
            with suppress(UnsayableError):
                stored_language = self._stored_language(draft)
                role = UNNAMED if self._is_unnamed(other, stored_language) else STATED
                said, _ = self._said(other, stored_language, role=role)
                if said not in texts:
                    texts.append(said)
                    keys.add(other.key)
        if not texts:
            raise UnsayableError
        listed = [(text, at == 0 and draft.has_target) for at, text in enumerate(texts)]
        self.rng.shuffle(listed)
        return listed

    def _stored_language(self, draft: Draft) -> str:
        return draft.stored_language if self.rng.random() < 0.85 else draft.language

    def _is_unnamed(self, fact: Fact, language: str) -> bool:
        return fact.attribute.has(UNNAMED, language) and self.rng.random() < _UNNAMED_SHARE

    def _distractor(self, fact: Fact) -> Fact:
        """Draw a fact near another: of the same subject, of the same matter, or neither."""
        draw = self.rng.random()
        same_kind = [each for each in self.attributes if each.subject == fact.attribute.subject]
        if draw < 0.5 and len(same_kind) > 1:
            return self._beside(fact, in_similar_matter=draw < 0.2)
        if draw < 0.8:
            return draw_fact(self.rng, self.split, fact.attribute)
        return self._any()

    def _any(self, fits: Callable[[Any], bool] = lambda attribute: True) -> Fact:
        if not (fitting := [each for each in self.attributes if fits(each)]):
            raise UnsayableError
        return draw_fact(self.rng, self.split, self.rng.choice(fitting))

    def _said(self, fact: Fact, language: str, *, is_stored: bool = True, **told: Any) -> tuple[str, str]:
        """Say a fact; stored ones mostly speak of the user, new ones are mostly told by him."""
        by_user = self.rng.random() < (0.2 if is_stored else 0.65) if fact.subject.is_user else None
        try:
            return fact.text(language, self.rng, by_user=by_user, **told)
        except UnsayableError:
            return fact.text(language, self.rng, **told)

    def _framed(self, frame: str, fact: Fact, language: str, old: Fact, not_line: str | None = None) -> str:
        """State a fact in a frame that says what it does to the store."""
        templates = in_split(sections(f"texts.{language}.txt")[f"@{frame}"], self.split)
        told, _ = self._said(fact, language, is_stored=False, not_line=not_line)
        slots = {"told": lambda: uncapitalised(told), "old": lambda: old.value_text(language)}
        text = Drawing(self.rng, self.split).text(self.rng.choice(templates), language, slots=slots)
        return text[:1].upper() + text[1:]

    def _paraphrase(self) -> Draft:
        fact, language = self._in_one_language()
        draft = self._duplicate(fact, language, language)
        if self.rng.random() < 0.15:  # the candidate says more
            more = self._said(self._beside(fact), language)[0]
            draft.stored = [(fact, joined(self.rng, draft.stored[0][1], more, language))]
        return draft

    def _across(self) -> Draft:
        stored_language, language = self.rng.choice(self._pairs)
        fact = self._any(lambda a: a.has(STATED, language) and a.has(STATED, stored_language))
        return self._duplicate(fact, language, stored_language)

    def _synonym(self) -> Draft:
        """The same sentence with other words: another choice of its template, or wording of its value."""
        fact, language = self._in_one_language()
        marks = fact.marks(language)
        if SYNONYM not in marks and self.rng.random() < 0.5:
            raise UnsayableError
        return self._reworded(fact, language, SYNONYM, is_same_line=True)

    def _abbreviation(self) -> Draft:
        fact, language = self._in_one_language()
        if ABBREVIATION not in fact.marks(language):
            raise UnsayableError
        return self._reworded(fact, language, ABBREVIATION, is_same_line=False)

    def _reworded(self, fact: Fact, language: str, mark: str, *, is_same_line: bool) -> Draft:
        first, second = self.rng.choice((("", mark), (mark, "")))
        stored, line = self._said(fact, language, mark=first)
        line = line if is_same_line else None
        new, _ = self._said(fact, language, is_stored=False, mark=second, line=line)
        return drafted(new, "NONE", fact, (fact, stored), language, language)

    def _duplicate(self, fact: Fact, language: str, stored_language: str) -> Draft:
        stored = self._said(fact, stored_language)
        if language == stored_language and self.rng.random() < _FRAMED_SHARES["again"]:
            new = self._framed("again", fact, language, fact, not_line=stored[1])
        else:
            mark = SYNONYM if self.rng.random() < _SYNONYM_SHARE else ""
            new = self._said(fact, language, is_stored=False, not_line=stored[1], mark=mark)[0]
        return drafted(new, "NONE", fact, (fact, stored[0]), language, stored_language)

    def _change(self, kind: str, language: str = "", stored_language: str = "") -> Draft:
        language = language or weighted(self.rng, self._languages)
        stored_language = stored_language or language
        if kind == "correction" and self.rng.random() < 0.06:
            return self._turned(language)
        old = self._any(lambda attribute: attribute.kind == kind and attribute.has(CHANGED, language))
        if self._is_unnamed(old, stored_language):
            role = self.rng.choice((STATED, STATED, CHANGED))
            return self._after(old, old, "UPDATE", role, language, stored_language, stored_role=UNNAMED)
        old, new = in_order(old, old.with_other_value())
        draw = self.rng.random()
        role = CHANGED
        if draw < 0.3 and not old.attribute.is_multi:
            role = STATED
        elif draw > 0.75 and old.attribute.has(CORRECTED, language):
            role = CORRECTED
        return self._after(old, new, "UPDATE", role, language, stored_language)

    def _turned(self, language: str) -> Draft:
        """A taste that has become its opposite."""
        old = self._any(lambda attribute: attribute.name in OPPOSITES)
        opposite = next(a for a in self.attributes if a.name == OPPOSITES[old.attribute.name])
        new = Fact(opposite, old.subject, old.value, old.others)
        return self._after(old, new, "UPDATE", STATED, language, language)

    def _expiry(self) -> Draft:
        draw = self.rng.random()
        if draw < 0.15:
            return self._change("expiry")
        role, action = (AFTER, "UPDATE") if draw < 0.45 else (ENDED, "DELETE")
        language = weighted(self.rng, self._languages)
        fact = self._any(lambda attribute: attribute.has(role, language))
        return self._after(fact, fact, action, role, language, language)

    def _after(
        self,
        old: Fact,
        new: Fact,
        action: str,
        role: str,
        language: str,
        stored_language: str,
        stored_role: str = STATED,
    ) -> Draft:
        stored = self._said(old, stored_language, role=stored_role)
        frame = {CHANGED: "changed", ENDED: "ended"}.get(role, "")
        is_named = stored_role == STATED
        if is_named and self.rng.random() < _FRAMED_SHARES.get(frame, 0):
            said = self._framed(frame, new, language, old)
        else:
            told = {} if role == STATED else {"role": role, "old": old if is_named else None}
            said = self._said(new, language, is_stored=False, **told)[0]
        return drafted(said, action, new, (old, stored[0]), language, stored_language)

    def _mixed(self) -> Draft:
        """Two things at once, as the guide of the memory cases has them."""
        draw = self.rng.random()
        if draw < 0.38:  # a change or an end, in another language
            stored_language, language = self.rng.choice(self._pairs)
            if draw < 0.3:
                return self._change(self.rng.choice(["correction", "relational"]), language, stored_language)
            fact = self._any(lambda a: a.has(ENDED, language) and a.has(STATED, stored_language))
            return self._after(fact, fact, "DELETE", ENDED, language, stored_language)
        is_stored = draw >= 0.58  # the second thing too, in another candidate
        if draw < 0.7:  # the first is repeated
            fact, language = self._in_one_language()
            draft = self._duplicate(fact, language, language)
            draft.action, draft.has_target = ("NONE", False) if is_stored else ("UPDATE", True)
        elif draw < 0.85:
            draft = self._change(self.rng.choice(["correction", "relational"]))
        else:
            draft = self._expiry()
        other = draft.also = self._beside(draft.fact)
        said = self._said(other, draft.language, is_stored=False)[0]
        draft.text = joined(self.rng, draft.text, said, draft.language)
        if is_stored:
            draft.stored.append((other, self._said(other, draft.language)[0]))
        return draft

    def _in_one_language(self) -> tuple[Fact, str]:
        language = weighted(self.rng, self._languages)
        return self._any(lambda attribute: attribute.has(STATED, language)), language

    def _beside(self, fact: Fact, *, in_similar_matter: bool = False) -> Fact:
        """Draw another fact about the same subject that leaves the first as it is."""
        near = [each for each in self.attributes if each.subject == fact.attribute.subject]
        similar = [each for each in near if is_similar(each.name, fact.attribute.name)]
        other = draw_fact(
            self.rng, self.split, self.rng.choice((in_similar_matter and similar) or near), fact.subject
        )
        if clashes(other, fact):
            raise UnsayableError
        return other

    def _new(self) -> Draft:
        language = weighted(self.rng, self._languages)
        stored_language = self.rng.choice(self._pairs)[0] if self.rng.random() < 0.1 else language
        fact = self._any(lambda attribute: attribute.has(STATED, language))
        said, _ = self._said(fact, language, is_stored=False)
        near = [self._near(fact)] if self.rng.random() < 0.55 else []
        if self.rng.random() < 0.45:
            near.append(self._beside(fact, in_similar_matter=True))
        kept = [(each, self._said(each, stored_language)[0]) for each in near]
        return Draft(said, "ADD", fact, kept, language, stored_language, has_target=False)

    def _near(self, fact: Fact) -> Fact:
        """Draw what shares the words of a fact and leaves it new: somebody else's, or a further value."""
        if fact.attribute.is_multi and self.rng.random() < 0.5:
            further = draw_fact(self.rng, self.split, fact.attribute, fact.subject)
            if not both_hold(further, fact):
                raise UnsayableError
            return further
        other = draw_fact(self.rng, self.split, fact.attribute)
        if other.subject.value == fact.subject.value:
            raise UnsayableError
        return Fact(fact.attribute, other.subject, fact.value, other.others)


def arbitrate_rows(
    split: Split, count: int, seed: int, languages: Collection[str] = WRITTEN
) -> list[dict[str, Any]]:
    """Return rows for the task `arbitrate` in our own format: generated, and in training written ones too."""
    rng = random.Random(f"arbitrate/{split}/{seed}")
    writer = Writer(split, rng, languages)
    return with_written("arbitrate", writer.row, split, count, rng, languages)

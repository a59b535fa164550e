"""What a router is asked: a text to remember or not, a fact beside stored ones, a text with intents."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from smidgen.data.memories import Candidate, Decision, IntentOffer
from smidgen.data.stream_decoder import HALF_CHARACTER
from smidgen.data.types import Completion, Constraint, Sample
from smidgen.errors import DataError
from smidgen.router.learned import LearnedIntents
from smidgen.tasks.memory import (
    Arbitrate,
    Classify,
    Memorize,
    arbitrate_samples,
    classify_sample,
    memorize_sample,
)
from smidgen.tasks.memory.classify import MOST_TEXT as MOST_TO_CLASSIFY
from smidgen.tasks.memory.comparing import MOST_CHARACTERS as MOST_OF_FACT
from smidgen.tasks.memory.comparing import decided, read_comparison
from smidgen.tasks.memory.memorize import MOST_CHARACTERS as MOST_TO_MEMORIZE
from smidgen.tasks.memory.texts import shortened

Intents = Mapping[str, str] | Sequence[IntentOffer | str]
"""Intents to choose from: names with descriptions, or names alone."""
KnownIntents = tuple[IntentOffer, ...] | LearnedIntents
"""Intents that stand in the prompt, or that were learnt by heart."""


class Asker(Protocol):
    """The part of a task that asks."""

    name: str
    needs_confidence: bool

    def constraint_of(self, sample: Sample) -> Constraint | None:
        """Return the constraint on the answer to a sample."""
        ...


class Decider(Asker, Protocol):
    """The part of a task that decides by one answer."""

    def decision(self, sample: Sample, text: str) -> Decision:
        """Read the decision in an answer; raises `ParseError`."""
        ...


MEMORIZE, ARBITRATE, CLASSIFY = Memorize(), Arbitrate(), Classify()
DECIDERS: dict[str, Asker] = {task.name: task for task in (MEMORIZE, ARBITRATE, CLASSIFY)}
"""The tasks that decide, by name."""


class Question(Protocol):
    """A question to a router.

    Attributes:
        task: name of the task in `DECIDERS`.
        most: number of characters of each of its texts that the model sees.
    """

    task: ClassVar[str]
    most: ClassVar[int]

    @property
    def decider(self) -> Asker:
        """The task that it is a question of."""
        ...

    @property
    def adapter(self) -> Path | None:
        """The LoRA adapter that answers; None for that of the router."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that it asks about."""
        ...

    def samples(self, name: str) -> list[Sample]:
        """Return the prompts, whose ids begin with `name`; none if there is nothing to ask the model.

        Raises:
            DataError: the question makes no sense.
        """
        ...

    def decision(self, answers: Sequence[tuple[Sample, Completion]]) -> Decision:
        """Read the decision in the answers to all prompts.

        Raises:
            ParseError: one is no answer.
        """
        ...


class _OfRouter:
    """A question to the router's own adapter."""

    @property
    def adapter(self) -> None:
        """That of the router."""


@dataclass(frozen=True)
class _OfText(ABC):
    """A question about one text, decided by one answer."""

    text: str

    @property
    @abstractmethod
    def decider(self) -> Decider:
        """The task that it is a question of."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def decision(self, answers: Sequence[tuple[Sample, Completion]]) -> Decision:
        """Read the decision in the answer."""
        ((sample, completion),) = answers
        return self.decider.decision(sample, completion.text)


@dataclass(frozen=True)
class MemorizeQuestion(_OfRouter, _OfText):
    """Whether a text is worth remembering."""

    task: ClassVar[str] = MEMORIZE.name
    most: ClassVar[int] = MOST_TO_MEMORIZE

    @property
    def decider(self) -> Decider:
        """The task that it is a question of."""
        return MEMORIZE

    def samples(self, name: str) -> list[Sample]:
        """Return the prompt."""
        return [memorize_sample(self.text, id=name)]


@dataclass(frozen=True)
class ArbitrateQuestion(_OfRouter):
    """What becomes of the candidates in view of a fact, which is compared with each of them."""

    fact: str
    candidates: tuple[Candidate, ...]
    task: ClassVar[str] = ARBITRATE.name
    most: ClassVar[int] = MOST_OF_FACT

    @property
    def decider(self) -> Asker:
        """The task that it is a question of."""
        return ARBITRATE

    @property
    def texts(self) -> tuple[str, ...]:
        """The fact, then the candidates."""
        return (self.fact, *(each.text for each in self.candidates))

    def samples(self, name: str) -> list[Sample]:
        """Return a prompt per candidate.

        Raises:
            DataError: two candidates have the same id, or there are too many.
        """
        ids = [each.id for each in self.candidates]
        if twice := [each for each in ids if ids.count(each) > 1]:
            raise DataError(f"two candidates have the id {twice[0]!r}; give each an id of its own")
        return arbitrate_samples(self.fact, self.candidates, id=name)

    def decision(self, answers: Sequence[tuple[Sample, Completion]]) -> Decision:
        """Decide by all comparisons; a fact is new if nothing is stored."""
        return decided([read_comparison(*answer) for answer in answers])


@dataclass(frozen=True)
class ClassifyQuestion(_OfRouter, _OfText):
    """Which of the intents a text has; they stand in the prompt."""

    intents: tuple[IntentOffer, ...]
    task: ClassVar[str] = CLASSIFY.name
    most: ClassVar[int] = MOST_TO_CLASSIFY

    @property
    def decider(self) -> Decider:
        """The task that it is a question of."""
        return CLASSIFY

    def samples(self, name: str) -> list[Sample]:
        """Return the prompt.

        Raises:
            DataError: no intents are offered.
        """
        if not self.intents:
            raise DataError("no intents are given to choose from; give them to the router or with the text")
        return [classify_sample(self.text, self.intents, id=name)]


@dataclass(frozen=True)
class LearnedQuestion(_OfText):
    """Which of the intents that an adapter has learnt by heart a text has."""

    learned: LearnedIntents
    task: ClassVar[str] = CLASSIFY.name
    most: ClassVar[int] = MOST_TO_CLASSIFY

    @property
    def decider(self) -> Decider:
        """The task that was learnt."""
        return self.learned.task

    @property
    def adapter(self) -> Path:
        """The adapter that learnt it."""
        return self.learned.adapter

    def samples(self, name: str) -> list[Sample]:
        """Return the prompt."""
        return [self.learned.task.sample(shortened(self.text, MOST_TO_CLASSIFY), id=name)]


def classify_question(text: str, known: KnownIntents) -> Question:
    """Ask for the intent of a text, among those on offer or those that were learnt."""
    return (
        LearnedQuestion(text, known) if isinstance(known, LearnedIntents) else ClassifyQuestion(text, known)
    )


def asked(question: Question, name: str) -> tuple[list[Sample], str]:
    """Return the prompts of a question, and a note on what of its texts the model does not see as it is.

    Raises:
        DataError: the question makes no sense; the message says why.
    """
    if strange := [text for text in question.texts if not isinstance(text, str)]:
        raise DataError(f"a text is {strange[0]!r}; expected a string")
    if not question.texts[0].strip():
        raise DataError("the text is empty; expected something to decide on")
    return question.samples(name), _note(question)


def intents_of(given: Intents) -> tuple[IntentOffer, ...]:
    """Return intents as the tasks take them."""
    if isinstance(given, Mapping):
        return tuple(IntentOffer(name, description) for name, description in given.items())
    return tuple(IntentOffer(each) if isinstance(each, str) else each for each in given)


def _note(question: Question) -> str:
    notes = []
    if longer := [len(text) for text in question.texts if len(text.strip()) > question.most]:
        notes.append(
            f"{max(longer):,} characters of text were shortened to {question.most:,}, beginning and end"
        )
    if any(HALF_CHARACTER.search(text) for text in question.texts):
        notes.append("half characters (lone surrogates) were replaced")
    return "; ".join(notes)

"""The class `Router`; see `smidgen.router`."""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Protocol, Self

from smidgen.data.memories import Candidate
from smidgen.data.types import Request, Sampling
from smidgen.errors import ConfigError, ModelError, UserError
from smidgen.inference import Session, open_engine
from smidgen.options import EngineName, EngineOptions
from smidgen.router.dispatch import TOGETHER, Dispatcher
from smidgen.router.job import Job, Outcome
from smidgen.router.latency import Latencies
from smidgen.router.learned import LearnedIntents
from smidgen.router.questions import (
    DECIDERS,
    ArbitrateQuestion,
    Intents,
    KnownIntents,
    MemorizeQuestion,
    Question,
    asked,
    classify_question,
    intents_of,
)

BUDGET = 0.5
"""Seconds that a question may take before it is deferred."""
PLACES = 2
"""Questions of one task that the engine works on at a time; on two cores, more only slow each other down."""
ANSWER_TOKENS = 96
ROOM_TOKENS = 1800
"""Tokens beyond its prompt for which the first question of a task reserves room, so that a long text does not
make an engine load its model again: with a prompt, just below llama.cpp's step of 2048."""
WARM_TEXTS = ("My sister lives in Graz.", "What time is it?", "The build passed.", "I like green tea.")


class Sessions(Protocol):
    """What a router needs of an engine."""

    def session(self) -> Session:
        """Open a session."""
        ...

    def close(self) -> None:
        """Release what the router alone used."""
        ...


class Router:
    """A loaded model that decides on texts, within a budget of time, for callers in any thread."""

    def __init__(
        self,
        model: str | EngineOptions = EngineOptions.model,
        adapter: Path | str | None = None,
        *,
        engine: EngineName = "auto",
        budget: float | None = BUDGET,
        intents: Intents = (),
        classifier: Path | str | None = None,
        places: int = PLACES,
        sessions: Sessions | None = None,
    ):
        """Load a model and compute the prefixes of its prompts, so that no question waits for that.

        Args:
            model: a model as `EngineOptions` takes it, or all options of its engine.
            adapter: folder of a LoRA adapter to apply to the model.
            engine: the engine that runs it.
            budget: seconds after which a question is deferred; None for no limit.
            intents: what `classify` chooses from, unless it is given others.
            classifier: folder of a run of the task `intent` on the same base, whose adapter and labels
                `classify` uses instead, unless it is given intents.
            places: number of questions of one task that the engine works on at a time.
            sessions: an engine that is open already and serves others too; the model then only names it in
                journals, and the adapter goes with every question.

        Raises:
            ConfigError: a setting is out of range, or does not apply to the engine or beside another.
            DataError: the classifier cannot be read.
            ModelError: the model cannot be loaded, or does not decide.
        """
        if budget is not None and not budget > 0:
            raise ConfigError(f"the budget is {budget:g} seconds; expected more than 0, or None for no limit")
        if places < 1:
            raise ConfigError(f"places is {places}; expected 1 or more")
        if classifier is not None and intents:
            raise ConfigError("both intents and a classifier, which has its own, are given; leave one out")
        self.budget = inf if budget is None else budget
        self.intents: KnownIntents = (
            intents_of(intents) if classifier is None else LearnedIntents.of_run(Path(classifier))
        )
        options = model if isinstance(model, EngineOptions) else EngineOptions(model, engine)
        if adapter is not None:
            options = replace(options, adapter=Path(adapter))
        options = replace(options, batch_size=places * (len(DECIDERS) - 1 + TOGETHER))
        self.model = options.model
        started = time.perf_counter()
        self._numbers = itertools.count(1)
        self._adapter = None if sessions is None else options.adapter
        self._engine: Sessions = open_engine(options) if sessions is None else sessions
        self._dispatcher = Dispatcher(self._engine.session(), places)
        self._latencies = Latencies()
        try:
            self._warm(places)
        except BaseException:
            self.close()
            raise
        self._latencies.cold_start = time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def memorize(self, text: str) -> Outcome:
        """Decide whether a text is worth remembering: SAVE with a category, or SKIP."""
        return self.ask(MemorizeQuestion(text))

    def arbitrate(self, fact: str, candidates: Sequence[Candidate]) -> Outcome:
        """Decide what becomes of stored candidates in view of a fact: ADD, UPDATE, DELETE or NONE."""
        return self.ask(ArbitrateQuestion(fact, tuple(candidates)))

    def classify(self, text: str, intents: Intents | None = None) -> Outcome:
        """Decide which intent a text has, or `oos`; the intents are those of the router unless given."""
        return self.ask(classify_question(text, self.intents if intents is None else intents_of(intents)))

    def ask(self, question: Question) -> Outcome:
        """Ask, and wait for the outcome at most as long as the budget; a bad question has failed.

        Raises:
            WorkError: the router is closed.
        """
        job = self._submitted(question)
        try:
            return job.first.result(None if job.budget == inf else job.deadline - time.perf_counter())
        except TimeoutError:
            self._dispatcher.expire()
            return job.first.result()

    def submit(self, question: Question) -> "Future[Outcome]":
        """Ask without waiting; the result is the outcome within the budget. Raises as `ask`.

        Callbacks of the future run in the router's thread and must not wait for another question.
        """
        return self._submitted(question).first

    @property
    def num_unsettled(self) -> int:
        """Number of questions without an outcome, those deferred included."""
        return self._dispatcher.num_unsettled

    @property
    def latencies(self) -> Latencies:
        """The outcomes so far and how long they took."""
        return self._latencies

    def close(self) -> None:
        """Release the model. Questions without an outcome are deferred for good."""
        self._dispatcher.close()
        self._engine.close()

    def _submitted(self, question: Question) -> Job:
        """Submit a question as a job, whose outcome is counted."""
        job = Job(question.task, self.budget)
        job.first.add_done_callback(lambda first: self._latencies.record(first.result()))
        self._start(job, question, ANSWER_TOKENS)
        return job

    def _start(self, job: Job, question: Question, max_tokens: int) -> None:
        decider = question.decider
        try:
            samples, job.note = asked(question, f"{question.task}-{next(self._numbers)}")
            constraints = [decider.constraint_of(sample) for sample in samples]
        except UserError as error:
            job.tell(job.failed(str(error)))
            return
        job.read = lambda answers: question.decision(list(zip(samples, answers, strict=True)))
        logprobs = decider.needs_confidence and len(samples) > 1
        job.requests = [
            Request(
                sample,
                Sampling(max_tokens=max_tokens),
                constraint,
                logprobs,
                question.adapter or self._adapter,
                forced_logprobs=False,
            )
            for sample, constraint in zip(samples, constraints, strict=True)
        ]
        self._dispatcher.submit(job)

    def _warm(self, places: int) -> None:
        """Ask a few questions of every task, so that the model is loaded and knows their prefixes.

        Raises:
            ModelError: the model does not answer.
        """
        for questions in warm_questions(self.intents, max(2, places)):
            jobs = [Job(question.task, inf) for question in questions]
            for job, question in zip(jobs, questions, strict=True):
                self._start(job, question, ROOM_TOKENS)
            for job in jobs:
                outcome = job.first.result()
                if job.error is not None:
                    raise ModelError(f"the model {self.model} does not decide: {outcome.reason}")


def warm_questions(intents: KnownIntents, count: int) -> list[list[Question]]:
    """Return questions of every task that differ in their texts only, `count` of each."""
    texts = [f"{WARM_TEXTS[i % len(WARM_TEXTS)]} {i}" for i in range(count)]
    known = (Candidate("a", "My brother lives in Graz."), Candidate("b", "I drink coffee."))
    questions: list[list[Question]] = [
        [MemorizeQuestion(text) for text in texts],
        [ArbitrateQuestion(text, known) for text in texts],
    ]
    if intents:
        questions.append([classify_question(text, intents) for text in texts])
    return questions

"""Lines of questions through a router, many at a time; with a store, what is saved is arbitrated and applied.

With a store, an input is journaled as soon as its line is read, before the model is asked. Texts are
memorised several at a time, but one after the other compared with what is stored, in the order of the
lines, so that a later line sees what an earlier one changed. A decision that the store finds stale is made
again. Whatever has no decision in the end stays pending in the store, and is taken up by the next run.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from smidgen.data.memories import Candidate, Decision
from smidgen.errors import DataError
from smidgen.memory import Applied, Store
from smidgen.router.job import Outcome
from smidgen.router.lines import Line
from smidgen.router.questions import ArbitrateQuestion, MemorizeQuestion, Question
from smidgen.router.router import Router

AHEAD = 8
"""Lines that are read before the first of them is done."""
CANDIDATES = 5
"""Stored memories that a text is compared with."""
MOST_STALE = 5
"""Times that a decision is made again because the store has changed; then the input stays pending."""


@dataclass(frozen=True)
class Routed:
    """What came of a line.

    Attributes:
        line: the line.
        outcome: the outcome of the last question; None if the line is bad or was decided before.
        decisions: the decisions, first on the text and then, with a store, on what is stored.
        stored: what the store did.
        is_again: whether this follows an outcome that was deferred.
    """

    line: Line
    outcome: Outcome | None = None
    decisions: tuple[Decision, ...] = ()
    stored: Applied | None = None
    is_again: bool = False

    @property
    def status(self) -> str:
        """The status of the outcome; `bad` for a bad line, `known` for an input that was decided before."""
        if self.outcome is not None:
            return self.outcome.status
        return "bad" if self.line.fault else "known"

    def to_json(self) -> dict[str, Any]:
        """Return the fields that say something."""
        line, told = self.line, self.outcome.to_json() if self.outcome else {}
        told.pop("decision", None)
        told |= {"task": line.question.task} if line.question else {}
        decisions = [{k: v for k, v in asdict(each).items() if v is not None} for each in self.decisions]
        stored = self.stored and {k: v for k, v in asdict(self.stored).items() if v not in (None, "")}
        rest = {"reason": line.fault} if line.fault else {}
        rest |= {"stored": stored} if stored else {}
        return {
            "line": line.number,
            "id": line.id,
            "status": self.status,
            "decisions": decisions,
            **told,
            **rest,
        }


@dataclass(eq=False)
class Errand:
    """A line on its way.

    Attributes:
        line: the line.
        position: how many began before it.
        decisions: those made so far.
        candidates: what the text was last compared with.
        seconds: how long its questions took.
        is_asked: whether the first question has no outcome yet.
        wants_comparing: whether the text is to be compared with what is stored.
        stale: how often the store found its decision stale.
        is_told: whether an outcome was yielded.
    """

    line: Line
    position: int
    decisions: list[Decision] = field(default_factory=list)
    candidates: Sequence[Candidate] = ()
    seconds: float = 0.0
    is_asked: bool = True
    wants_comparing: bool = False
    stale: int = 0
    is_told: bool = False


def route(
    router: Router,
    lines: Iterable[Line],
    store: Store | None = None,
    *,
    version: str = "",
    in_order: bool = True,
) -> Generator[Routed, None, None]:
    """Route lines; yields what comes of each, and again what comes of those that were deferred.

    Args:
        router: decides.
        lines: read in a thread of their own, so that a slow source does not hold up what was read.
        store: where texts that are saved go. Its pending inputs are taken up first.
        version: what the journal names as the version of the router.
        in_order: yield the first outcomes in the order of the lines, rather than as they come.

    Raises:
        WorkError: the store cannot be written; what is not applied stays pending.
    """
    told: dict[int, Routed] = {}
    position = 0
    for errand, routed in _Stream(router, store, version).run(lines):
        if routed.is_again or not in_order:
            yield routed
            continue
        told[errand.position] = routed
        while position in told:
            yield told.pop(position)
            position += 1


Event = Line | tuple[Errand, Outcome] | Exception | None
"""A line was read; an outcome came; reading failed; there are no more lines."""


class _Stream:
    """The errands of one call of `route`."""

    def __init__(self, router: Router, store: Store | None, version: str):
        self._router, self._store, self._version = router, store, version
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._first: deque[Errand] = deque()  # in the order of the lines, until their first outcome
        self._to_compare: deque[Errand] = deque()
        self._compared: Errand | None = None
        self._begun = self._open = 0
        self._taken_up: set[str] = set()  # inputs of an earlier run
        self._is_over = threading.Event()

    def run(self, lines: Iterable[Line]) -> Iterator[tuple[Errand, Routed]]:
        """Yield what comes of every line."""
        threading.Thread(target=self._read, args=(lines,), name="smidgen-lines", daemon=True).start()
        reads = True
        try:
            while reads or self._open:
                event = self._events.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    reads = False
                    continue
                found = list(self._begin(event) if isinstance(event, Line) else self._take(*event))
                self._compare_next()
                for errand, routed in found:
                    if routed.status != "deferred":
                        self._open -= 1
                    if not routed.is_again:
                        self._room.release()
                    yield errand, routed
        finally:
            self._is_over.set()

    def _read(self, lines: Iterable[Line]) -> None:
        """Journal and hand over the lines, in a thread."""
        try:
            for pending in self._store.pending() if self._store else ():
                self._taken_up.add(pending.id)
                self._hand_over(Line(0, pending.id, MemorizeQuestion(pending.text)))
            for line in lines:
                self._hand_over(line)
            self._events.put(None)
        except Exception as error:  # raised by the thread that consumes
            self._events.put(error)

    def _hand_over(self, line: Line) -> None:
        self._room.acquire()
        if not self._is_over.is_set():
            self._events.put(self._journaled(line) if line.number else line)

    def _journaled(self, line: Line) -> Line:
        """Journal a text that may be stored; return the line without a question if it is decided already."""
        if self._store is None or not isinstance(line.question, MemorizeQuestion):
            return line
        try:
            is_new = self._store.received(line.id, line.question.text)
        except DataError as error:
            return Line(line.number, line.id, fault=f"line {line.number}: {error}")
        is_known = line.id in self._taken_up or line.id not in {each.id for each in self._store.pending()}
        return Line(line.number, line.id) if not is_new and is_known else line

    def _begin(self, line: Line) -> Iterator[tuple[Errand, Routed]]:
        errand = Errand(line, self._begun)
        self._begun, self._open = self._begun + 1, self._open + 1
        if line.question is None:
            yield errand, Routed(line)
        else:
            self._first.append(errand)
            self._ask(errand, line.question)

    def _ask(self, errand: Errand, question: Question) -> None:
        future = self._router.submit(question)
        future.add_done_callback(lambda done: self._events.put((errand, done.result())))

    def _take(self, errand: Errand, outcome: Outcome) -> Iterator[tuple[Errand, Routed]]:
        """Go on with an outcome: to the next question, to the store, or to the caller."""
        is_stored, is_comparison = self._is_stored(errand), errand is self._compared or bool(errand.decisions)
        errand.is_asked = False
        if errand is self._compared:
            self._compared = None
        if outcome.status == "deferred":
            outcome.when_settled(lambda final: self._events.put((errand, final)))
        else:
            errand.seconds += outcome.seconds
        if outcome.decision is None:
            self._journal_deferral(errand, outcome)
            yield self._routed(errand, outcome)
            return
        errand.decisions.append(outcome.decision)
        if is_stored and not is_comparison and outcome.decision.action == "SAVE":
            errand.wants_comparing = True
            if errand not in self._first:  # it was deferred, and its turn is over
                self._to_compare.append(errand)
        else:
            yield from self._apply(errand, outcome)

    def _compare_next(self) -> None:
        """Compare the next text with what is stored, unless another one is being compared."""
        while self._first and not self._first[0].is_asked:
            errand = self._first.popleft()
            if errand.wants_comparing:
                self._to_compare.append(errand)
        if self._to_compare and self._compared is None:
            assert self._store is not None
            errand = self._compared = self._to_compare.popleft()
            question = errand.line.question
            assert isinstance(question, MemorizeQuestion)
            errand.candidates = self._store.candidates(question.text, CANDIDATES)
            self._ask(errand, ArbitrateQuestion(question.text, tuple(errand.candidates)))

    def _apply(self, errand: Errand, outcome: Outcome) -> Iterator[tuple[Errand, Routed]]:
        """Apply the decisions of an errand, if it has a store; if they are stale, decide again."""
        stored = None
        if self._is_stored(errand):
            assert self._store is not None
            stored = self._store.apply(
                errand.line.id,
                errand.decisions,
                candidates=errand.candidates,
                model=self._router.model,
                version=self._version,
            )
            if stored.state == "stale":
                errand.stale += 1
                errand.decisions.pop()
                if errand.stale < MOST_STALE:
                    self._to_compare.appendleft(errand)
                    return
        yield self._routed(errand, outcome, stored)

    def _journal_deferral(self, errand: Errand, outcome: Outcome) -> None:
        if self._is_stored(errand):
            assert self._store is not None
            with suppress(DataError):  # another process has decided it meanwhile
                self._store.defer(
                    errand.line.id, outcome.reason, model=self._router.model, version=self._version
                )

    def _routed(
        self, errand: Errand, outcome: Outcome, stored: Applied | None = None
    ) -> tuple[Errand, Routed]:
        is_again, errand.is_told = errand.is_told, True
        outcome = replace(outcome, seconds=errand.seconds or outcome.seconds)
        return errand, Routed(errand.line, outcome, tuple(errand.decisions), stored, is_again)

    def _is_stored(self, errand: Errand) -> bool:
        return self._store is not None and isinstance(errand.line.question, MemorizeQuestion)

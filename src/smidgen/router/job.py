"""One question to a router while it is on its way, and what came of it."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from smidgen.data.memories import Decision
from smidgen.data.types import UNANSWERED, Completion, Request
from smidgen.errors import ParseError

Status = Literal["decided", "deferred", "failed"]

DEFERRED = "no decision within the budget of {budget:g} s; it is tried again when the router is idle"
CLOSED = "the router was closed before it decided"


@dataclass(frozen=True)
class Outcome:
    """What came of a question.

    Attributes:
        task: `memorize`, `arbitrate` or `classify`.
        status: `decided`; `deferred` if there is no decision within the budget, and `settled` waits for it;
            `failed` if there will be none.
        decision: the decision, within the schema and the ids that were offered; None unless it is decided.
        seconds: from the question to this outcome, waiting included.
        attempts: how often the model was asked.
        reason: why it is deferred or failed.
        note: what was changed before the model was asked, such as a text that was shortened.
    """

    task: str
    status: Status
    decision: Decision | None
    seconds: float
    attempts: int
    reason: str = ""
    note: str = ""
    _final: "Future[Outcome] | None" = field(default=None, repr=False, compare=False)

    def settled(self, timeout: float | None = None) -> "Outcome":
        """Return this outcome, or if it was deferred what came of it, for which this waits.

        Args:
            timeout: seconds after which the deferred outcome is returned as it is; None waits without limit.
        """
        if self._final is None:
            return self
        try:
            return self._final.result(timeout)
        except TimeoutError:
            return self

    def when_settled(self, call: Callable[["Outcome"], object]) -> None:
        """Call `call` with the outcome that `settled` returns, at once or from the router's thread."""
        if self._final is None:
            call(self)
        else:
            self._final.add_done_callback(lambda final: call(final.result()))

    def to_json(self) -> dict[str, Any]:
        """Return the fields; of the decision those that it has, and no empty reason or note."""
        decision = self.decision and {k: v for k, v in vars(self.decision).items() if v is not None}
        said = {name: text for name in ("reason", "note") if (text := getattr(self, name))}
        facts = {"seconds": round(self.seconds, 6), "attempts": self.attempts}
        return {"task": self.task, "status": self.status, "decision": decision, **facts, **said}


@dataclass(eq=False)
class Job:
    """A question that a dispatcher gets decided.

    Attributes:
        task: name of the task; questions of one task share its places.
        budget: seconds until it is deferred.
        requests: the requests to the engine; the answers to all of them make the decision.
        read: reads the decision from the answers, in the order of the requests; raises `ParseError`.
        note: as in `Outcome`.
        asked: when it was asked, from `time.perf_counter`.
        first: the outcome within the budget.
        final: the outcome in the end: `first`, or what comes after a deferral.
        attempts: how often the engine was given the requests.
        answers: the answers so far, by the number of their requests.
        tickets: the session's tickets of the requests that the engine works on, and their numbers.
        due: when a deferred one may be tried again.
        is_late: whether it was deferred.
        error: the error of the engine that failed it.
    """

    task: str
    budget: float
    requests: list[Request] = field(default_factory=list)
    read: Callable[[Sequence[Completion]], Decision] = field(init=False)
    note: str = ""
    asked: float = field(default_factory=time.perf_counter)
    first: "Future[Outcome]" = field(default_factory=Future)
    final: "Future[Outcome]" = field(default_factory=Future)
    attempts: int = 0
    answers: dict[int, Completion] = field(default_factory=dict)
    tickets: dict[int, int] = field(default_factory=dict)
    due: float = 0.0
    is_late: bool = False
    error: Exception | None = None

    @property
    def deadline(self) -> float:
        """When the budget is spent."""
        return self.asked + self.budget

    @property
    def next_requests(self) -> list[int]:
        """The numbers of the requests that the engine has not been given."""
        given = {*self.answers, *self.tickets.values()}
        return [number for number in range(len(self.requests)) if number not in given]

    def take(self, number: int, answer: Completion) -> Outcome | None:
        """Take the answer to a request; return what all of them mean, if that is known."""
        if why := UNANSWERED.get(answer.finish_reason):
            return self.failed(f"{why}; shorten the text")
        self.answers[number] = answer
        return self.outcome() if len(self.answers) == len(self.requests) else None

    def outcome(self) -> Outcome:
        """Return what the answers mean, which are all there."""
        answers = [self.answers[number] for number in range(len(self.requests))]
        try:
            return self._outcome("decided", self.read(answers))
        except ParseError as error:
            return self.failed(f"the answer is no decision: {error}")

    def failed(self, reason: str) -> Outcome:
        """Return that there is no decision, and will be none."""
        return self._outcome("failed", reason=reason)

    def failed_by(self, error: Exception, what: str = "") -> Outcome:
        """Return that an error of the engine has failed it; `what` precedes the message."""
        self.error = error
        return self.failed(f"{what}{error}" if str(error) else f"{what}{type(error).__name__}")

    def deferred(self, reason: str = "") -> Outcome:
        """Return that there is no decision yet."""
        reason = reason or DEFERRED.format(budget=self.budget)
        return replace(self._outcome("deferred", reason=reason), _final=self.final)

    def tell(self, outcome: Outcome) -> None:
        """Hand an outcome to those who wait for it; from outside of any lock, since they may ask again."""
        with suppress(InvalidStateError):  # a decision and a deferral may come at the same time
            self.first.set_result(outcome)
        if outcome.status != "deferred" or outcome.reason == CLOSED:
            self.final.set_result(outcome)

    def _outcome(self, status: Status, decision: Decision | None = None, reason: str = "") -> Outcome:
        seconds = time.perf_counter() - self.asked
        return Outcome(self.task, status, decision, seconds, self.attempts, reason, self.note)

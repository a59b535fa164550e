"""Deciding whether the server or a request is at fault when a request fails.

Some failures are clearly the server's and raise at once: it cannot be reached, refuses the key or does not
know the model (401, 403, 404 and similar), or still returns 429 after all retries. Any other failure may be
caused by one request: a status such as 400 or 500 or a timeout on every try, an error in a 200, or an answer
that is not JSON or not a completion. Such a failure is held until its cause is clear:

- Once the server answers a later request, the failed request is at fault. It is completed with the finish
  reason `error`.
- After `MOST` consecutive failures no more requests are sent. If the server has answered nothing so far, the
  server is at fault, and the first failure is raised.
- After `MOST` consecutive failures otherwise, and at the end, a harmless probe with the same settings is
  sent. If it is answered, the requests are at fault; if not, the first failure is raised.

A request whose failure is raised is not completed, so a resumed evaluation sends it again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from smidgen.data.types import Completion, Request, Sample
from smidgen.errors import SmidgenError
from smidgen.inference.engine import Session
from smidgen.inference.offline import Source

MOST = 8
"""Consecutive failures that are held; few enough to give up on a broken server soon."""
FAILED = "error"
"""Finish reason of a request that is itself at fault; one of `smidgen.data.types.UNANSWERED`."""


class NotAnswered(UserWarning):
    """A request failed on a server that answers other requests."""


class RequestFailed(Exception):
    """One request failed.

    Attributes:
        what: what happened.
        error: the error to raise if the server is at fault.
    """

    def __init__(self, kind: type[SmidgenError], what: str, advice: str):
        """Build the error, of type `kind`, from what happened followed by advice."""
        super().__init__(what)
        self.what = what
        self.error = kind(what + advice)


class Failures:
    """Failures since the last answer, whose cause is not known yet."""

    def __init__(self, blame: Callable[[RequestFailed], None]):
        """Start without failures; `blame` is called with each failure that is the request's own fault."""
        self._blame = blame
        self._held: list[tuple[Request, RequestFailed]] = []
        self._has_answered = False

    @property
    def are_many(self) -> bool:
        """Whether to stop sending requests until the cause of the failures is known."""
        return len(self._held) >= MOST

    def keep(self, request: Request, failed: RequestFailed) -> None:
        """Record a failed request."""
        self._held.append((request, failed))

    def answered(self) -> list[tuple[Request, Completion]]:
        """Record that the server answers; return the held requests, completed with `FAILED`."""
        self._has_answered = True
        held, self._held = self._held, []
        for _, failed in held:
            self._blame(failed)
        return [(request, Completion("", finish_reason=FAILED)) for request, _ in held]

    def judge(self, ask: Callable[[Request], Exception | None]) -> list[tuple[Request, Completion]]:
        """Determine the cause of the held failures with a probe; no request may be in flight.

        Args:
            ask: sends a request, waits for the answer, and returns its error, or None.

        Returns:
            The requests that are themselves at fault.

        Raises:
            SmidgenError: the server is at fault.
        """
        if not self._held:
            return []
        request, first = self._held[0]
        if self.are_many and not self._has_answered:
            raise first.error
        messages = tuple(replace(message, content="Hello") for message in request.sample.messages)
        error = ask(replace(request, sample=Sample("smidgen-probe", messages)))
        if error is not None:
            raise first.error if isinstance(error, RequestFailed) else error
        return self.answered()


def completed_despite_failures(
    session: Session, requests: Iterable[Request], blame: Callable[[RequestFailed], None]
) -> Iterator[tuple[Request, Completion]]:
    """Complete requests in finishing order, including those that fail by their own fault; close the session.

    Args:
        session: a session without requests; its errors are `RequestFailed` if a request may be at fault.
        requests: read only as far ahead as the session has room.
        blame: called with each failure that is the request's own fault.

    Raises:
        SmidgenError: the server is at fault; requests in flight were completed first.
    """
    source, failures, failure = Source(requests), Failures(blame), None

    def ask(request: Request) -> Exception | None:
        session.submit(request)
        events = [event for _ in iter(lambda: session.is_idle, True) for event in session.step()]
        return next((event.error for event in events if event.error is not None), None)

    try:
        while True:
            if failure is None and not failures.are_many and not source.is_exhausted:
                for request in source.read(session.room):
                    session.submit(request)
            if session.is_idle:
                if failure is not None or not failures.are_many:
                    break
                yield from failures.judge(ask)
                continue
            reads_on = (
                source.is_slow and not source.is_exhausted and session.room > 0 and not failures.are_many
            )
            for event in session.step(timeout=0 if reads_on and failure is None else None):
                if event.completion is not None:
                    yield event.request, event.completion
                    yield from failures.answered()
                elif isinstance(event.error, RequestFailed):
                    failures.keep(event.request, event.error)
                else:
                    failure = failure or event.error
        if failure is not None:
            raise failure
        yield from failures.judge(ask)
    finally:
        session.close()

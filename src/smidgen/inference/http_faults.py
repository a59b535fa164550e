"""Whether the server or a request is at fault where there is no answer.

Some failures are plainly the server's, and end the work at once: it cannot be reached, refuses the key or
does not know the model (401, 403, 404 and their like), or still asks for patience after all tries (429). Any
other may be of one request alone: a status such as 400 or 500 or a timeout each time it is sent, an error in
a 200, what is not JSON or not a completion. Such a failure is kept back until it is clear whose it is:

- Once the server has answered another request after it, it is the request's own. The request is completed
  with the finish reason `error`.
- After `MOST` failures in a row no more requests are sent. If the server has answered nothing so far, the
  fault is the server's, and the first failure is raised.
- After `MOST` in a row otherwise, and at the end, a harmless question with the same settings is sent. If it
  is answered, the failures are the requests' own; if not, the first is raised.

What is raised was not completed, so a resumed evaluation asks for it again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from smidgen.data.types import Completion, Request, Sample
from smidgen.errors import SmidgenError
from smidgen.inference.engine import Session
from smidgen.inference.offline import Source

MOST = 8
"""Failures in a row that are kept back; few enough that a broken server is not asked for long."""
FAILED = "error"
"""The finish reason of a request that failed by itself; one of `smidgen.data.types.UNANSWERED`."""


class NotAnswered(UserWarning):
    """A server that answers others has no answer to a request."""


class RequestFailed(Exception):
    """There is no answer to one request.

    Attributes:
        what: what happened.
        error: what to raise if that is the server's fault.
    """

    def __init__(self, kind: type[SmidgenError], what: str, advice: str):
        """Make an error of that kind of what happened and what to do about it, as it goes on."""
        super().__init__(what)
        self.what = what
        self.error = kind(what + advice)


class Failures:
    """The failures since the last answer."""

    def __init__(self, blame: Callable[[RequestFailed], None]):
        """Hand to `blame` why requests failed by themselves."""
        self._blame = blame
        self._kept: list[tuple[Request, RequestFailed]] = []
        self._has_answered = False

    @property
    def are_many(self) -> bool:
        """Whether no more requests may be sent before it is clear whose fault they are."""
        return len(self._kept) >= MOST

    def keep(self, request: Request, failed: RequestFailed) -> None:
        """Take note of a request that failed."""
        self._kept.append((request, failed))

    def answered(self) -> list[tuple[Request, Completion]]:
        """Take note that the server answers: what failed before is not its fault, and is completed so."""
        self._has_answered = True
        kept, self._kept = self._kept, []
        for _, failed in kept:
            self._blame(failed)
        return [(request, Completion("", finish_reason=FAILED)) for request, _ in kept]

    def judge(self, ask: Callable[[Request], Exception | None]) -> list[tuple[Request, Completion]]:
        """Find out whose fault the failures are, with nothing under way.

        Args:
            ask: sends a request, waits for its answer, and returns why there is none.

        Returns:
            The requests that failed by themselves.

        Raises:
            SmidgenError: it is the server's fault.
        """
        if not self._kept:
            return []
        request, first = self._kept[0]
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
    """Complete requests in finishing order, those that fail by themselves too, then close the session.

    Args:
        session: without requests; its errors are `RequestFailed` where a request may be at fault.
        requests: read no further ahead than the session has room for.
        blame: takes why a request failed by itself.

    Raises:
        SmidgenError: the server is at fault; requests under way were waited for and handed out.
    """
    source, failures, failure = Source(requests), Failures(blame), None

    def ask(request: Request) -> Exception | None:
        session.submit(request)
        events = [event for _ in iter(lambda: session.is_idle, True) for event in session.step()]
        return next((event.error for event in events if event.error is not None), None)

    try:
        while True:
            if failure is None and not failures.are_many and not source.is_over:
                for request in source.read(session.room):
                    session.submit(request)
            if session.is_idle:
                if failure is not None or not failures.are_many:
                    break
                yield from failures.judge(ask)
                continue
            reads_on = source.is_slow and not source.is_over and session.room > 0 and not failures.are_many
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

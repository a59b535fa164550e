"""Many requests, or one, through a session of their own: `complete` and `stream` of every engine."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized

from smidgen.data.types import Completion, Request
from smidgen.inference.engine import Session

SLOW = 0.1
"""Seconds; a source that takes longer for a request is not read ahead."""


class Source:
    """Requests to be read: a collection as far as is wanted, an iterator until it makes one wait.

    Attributes:
        is_slow: whether the request that was read last had to be waited for.
        is_over: whether there are no more.
    """

    def __init__(self, requests: Iterable[Request]):
        self._requests = iter(requests)
        self._is_at_hand = isinstance(requests, Sized)  # where reading must not depend on the clock
        self.is_slow = self.is_over = False

    def read(self, most: int) -> Iterator[Request]:
        """Read so many requests, or fewer."""
        for _ in range(most):
            started = time.perf_counter()
            try:
                request = next(self._requests)
            except StopIteration:
                self.is_over = True
                return
            self.is_slow = not self._is_at_hand and time.perf_counter() - started > SLOW
            yield request
            if self.is_slow:
                return


def completed(
    session: Session, requests: Iterable[Request], *, in_background: bool = False
) -> Iterator[tuple[Request, Completion]]:
    """Complete requests in finishing order, then close the session.

    Args:
        session: without requests.
        requests: read no further ahead than the session has room for.
        in_background: whether rows go on while the source is waited for; if not, a slow source is read only
            when there are none.
    """
    source = Source(requests)
    try:
        while True:
            if not source.is_over and (in_background or session.is_idle or not source.is_slow):
                for request in source.read(session.room):
                    session.submit(request)
            if session.is_idle:
                break
            reads_on = in_background and source.is_slow and not source.is_over and session.room > 0
            for event in session.step(timeout=0 if reads_on else None):
                if event.completion is not None:
                    yield event.request, event.completion
                elif event.error is not None:
                    raise event.error
    finally:
        session.close()


def streamed(
    session: Session, request: Request, fault_of: Callable[[Completion], Exception | None]
) -> Generator[str, None, Completion]:
    """Complete one request in pieces, then close the session; `fault_of` says what is no answer, and why."""
    try:
        session.submit(request, stream=True)
        while True:
            for event in session.step():
                if event.error is not None:
                    raise event.error
                if event.completion is not None and (fault := fault_of(event.completion)) is not None:
                    raise fault
                if event.piece:
                    yield event.piece
                if event.completion is not None:
                    return event.completion
    finally:
        session.close()

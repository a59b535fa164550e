"""Batch and single-request use of a session: `complete` and `stream` of every engine."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized

from smidgen.data.types import Completion, Request
from smidgen.inference.engine import Session

SLOW = 0.1
"""Seconds; a source that takes longer to yield a request is not read ahead."""


class Source:
    """A source of requests: a collection is read as far as wanted, an iterator until it blocks.

    Attributes:
        is_slow: whether the last request took longer than `SLOW`.
        is_exhausted: whether the source is exhausted.
    """

    def __init__(self, requests: Iterable[Request]):
        self._requests = iter(requests)
        self._is_collection = isinstance(requests, Sized)  # then reading does not depend on the clock
        self.is_slow = self.is_exhausted = False

    def read(self, most: int) -> Iterator[Request]:
        """Read at most `most` requests."""
        for _ in range(most):
            started = time.perf_counter()
            try:
                request = next(self._requests)
            except StopIteration:
                self.is_exhausted = True
                return
            self.is_slow = not self._is_collection and time.perf_counter() - started > SLOW
            yield request
            if self.is_slow:
                return


def completed(
    session: Session, requests: Iterable[Request], *, in_background: bool = False
) -> Iterator[tuple[Request, Completion]]:
    """Complete requests in finishing order, then close the session.

    Args:
        session: a session without requests.
        requests: read only as far ahead as the session has room.
        in_background: whether decoding continues while the source blocks; if not, a slow source is read only
            when the session is idle.
    """
    source = Source(requests)
    try:
        while True:
            if not source.is_exhausted and (in_background or session.is_idle or not source.is_slow):
                for request in source.read(session.room):
                    session.submit(request)
            if session.is_idle:
                break
            reads_on = in_background and source.is_slow and not source.is_exhausted and session.room > 0
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
    """Stream one completion, then close the session; `fault_of` returns the error of a completion."""
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

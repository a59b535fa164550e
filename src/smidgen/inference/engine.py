"""What evaluation, serving and the command line ask of whatever completes prompts."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from smidgen.data.types import Completion, Request, Sample, Scored


class Stream:
    """The text of one completion in pieces, none of which holds half a character or part of a stop string.

    Attributes:
        completion: the whole of it, once every piece was read.
    """

    def __init__(self, pieces: Generator[str, None, Completion]):
        self.completion: Completion | None = None
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.completion = yield from self._pieces


@dataclass(frozen=True)
class Event:
    """What a step of a session brought for one request.

    Attributes:
        ticket: what `Session.submit` returned for it.
        request: as it was submitted.
        piece: new text, for requests that asked for a stream; all pieces together are the completion's text.
        completion: the whole answer, in a request's last event.
        error: why there will be no answer, in a request's last event; other requests are not affected.
    """

    ticket: int
    request: Request
    piece: str = ""
    completion: Completion | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing more will come of this request."""
        return self.completion is not None or self.error is not None


class Session(Protocol):
    """Requests that arrive over time and are answered together (continuous batching).

    A request joins the running batch at the next step, as soon as there is room for it. `submit` and `cancel`
    may be called from any thread; `step` and `close` from one thread at a time.
    """

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Take a request; return its ticket. Faults of the request come as its event, not from here.

        Args:
            request: with its sampling, constraint and adapter.
            stream: whether events bring its text while it is made.

        Raises:
            WorkError: the session is closed.
        """
        ...

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Go on, or wait until something happens; return what it brought, maybe nothing.

        Without pending requests it returns at once.

        Args:
            timeout: seconds to wait at most, where the work is done by other threads or by a server.
        """
        ...

    def cancel(self, ticket: int) -> None:
        """Give a request up: no event of it comes from the next step on. One that is over is not affected."""
        ...

    def close(self) -> None:
        """Give up all requests and release what the session holds."""
        ...

    @property
    def pending(self) -> int:
        """How many requests have an event to come."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        ...

    @property
    def room(self) -> int:
        """How many more requests could be of use now; what is submitted beyond waits."""
        ...


class Engine(Protocol):
    """Something that completes prompts: weights, a server or a recording."""

    def session(self) -> Session:
        """Open a session, for requests that arrive over time. Close it before the engine."""
        ...

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests, each with its completion as it finishes.

        A list is read far ahead, and what its prompts share is run once. An iterator is read as long as it
        gives requests without delay; one that makes us wait is answered request by request as they come, and
        what runs in this process stands still meanwhile. So for arrivals over time, open a `session`.

        The order is the order of finishing. A timing counts from the moment a request's own prompt is run, so
        waiting for a place in the batch and running a shared prefix are not in it.

        Raises:
            UserError: a request cannot be served; the message says why and what to do.
        """
        ...

    def stream(self, request: Request) -> Stream:
        """Complete one request, handing out its text while it is made; raises as `complete` does."""
        ...

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Return the log-probability of every token of every continuation of each sample's prompt.

        Nothing is generated. Samples come back in any order. The end token is not scored.

        Args:
            samples: their messages are the prompts.
            continuations: texts that may follow each prompt.
            least_share: continuations are not run beyond the token where they part from each other if that
                token has less than this share of what all of them have there, and is not the most probable
                one; what follows it is −inf.

        Raises:
            UserError: the engine knows no probabilities.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory used so far, or None where it is not known."""
        ...

    def close(self) -> None:
        """Release what the engine holds; it cannot be used afterwards."""
        ...

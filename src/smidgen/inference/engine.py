"""The interface of inference engines, as used by evaluation, serving and the command line."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from smidgen.data.types import Completion, Continuations, Request, Sample, Scored

if TYPE_CHECKING:
    from smidgen.data.templates import Tokenizer


class Stream:
    """The text of one completion in pieces; no piece contains a partial character or part of a stop string.

    Attributes:
        completion: the full completion, once every piece has been read.
    """

    def __init__(self, pieces: Generator[str, None, Completion]):
        self.completion: Completion | None = None
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.completion = yield from self._pieces


@dataclass(frozen=True)
class Event:
    """Progress of one request in a step of a session.

    Attributes:
        ticket: the ticket that `Session.submit` returned.
        request: the submitted request.
        piece: new text, for streamed requests; the pieces together are the completion's text.
        completion: the full completion, in a request's last event.
        error: why the request failed, in its last event; other requests are not affected.
    """

    ticket: int
    request: Request
    piece: str = ""
    completion: Completion | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether this is the request's last event."""
        return self.completion is not None or self.error is not None


class Session(Protocol):
    """Continuous batching of requests that arrive over time.

    A request joins the running batch at the next step with room for it. `submit` and `cancel` may be called
    from any thread; `step` and `close` from one thread at a time.
    """

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Queue a request and return its ticket. An invalid request fails with an event, not here.

        Args:
            request: the request, with its sampling settings, constraint and adapter.
            stream: whether events contain its text as it is generated.

        Raises:
            WorkError: the session is closed.
        """
        ...

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Do one step of work, or wait for other threads or a server; return the new events, maybe none.

        Returns at once if no request is pending.

        Args:
            timeout: maximum seconds to wait for other threads or a server.
        """
        ...

    def cancel(self, ticket: int) -> None:
        """Cancel a request: it has no events from the next step on. Does nothing if it is finished."""
        ...

    def close(self) -> None:
        """Cancel all requests and release all resources of the session."""
        ...

    @property
    def pending(self) -> int:
        """Number of unfinished requests."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        ...

    @property
    def room(self) -> int:
        """Number of further requests worth submitting now; any beyond that wait."""
        ...


class Engine(Protocol):
    """Completes and scores prompts: with weights, a server or a recording."""

    def session(self) -> Session:
        """Open a session for requests that arrive over time. Close it before the engine."""
        ...

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests; yields each with its completion, in finishing order.

        A list is read far ahead, and shared prefixes of its prompts are computed once. An iterator is read as
        long as it yields without delay; while a slow one blocks, work in this process pauses. For requests
        that arrive over time, open a `session`.

        Timings start when a request's own prompt runs, so they do not include waiting for a place in the
        batch or the prefill of a shared prefix.

        Raises:
            UserError: a request cannot be served; the message says why and what to do.
        """
        ...

    def stream(self, request: Request) -> Stream:
        """Complete one request and stream its text; raises as `complete` does."""
        ...

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Return the log-probability of every token of every continuation of each sample's prompt.

        Nothing is generated. Samples come back in any order. The end token is not scored.

        Args:
            samples: their messages are the prompts.
            continuations: texts to score after each prompt, or after the prompt of each sample by its id.
            least_share: where the continuations diverge, a branch is pruned if its token has less than this
                share of the probability of all their tokens there, unless it is the most probable. Later
                tokens of a pruned branch get −inf.

        Raises:
            UserError: the engine does not support scoring.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """Return the peak memory so far, or None if it is unknown."""
        ...

    def close(self) -> None:
        """Release all resources of the engine; it cannot be used afterwards."""
        ...


class LocalEngine(Engine, Protocol):
    """An engine that runs a model in this process."""

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's tokenizer."""
        ...

    @property
    def batch_size(self) -> int:
        """Maximum number of rows decoded together."""
        ...

"""Requests of clients on their way through the scheduler, and the answers that they wait for."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Self

from smidgen.data.types import Completion, Request
from smidgen.errors import UserError
from smidgen.inference import Event
from smidgen.serving.faults import FAILED, OVERLOADED, ApiError

RETRY_AFTER = 1
"""Seconds after which a refused client may try again."""


class Job:
    """A request of a client, from its arrival to its last event.

    Attributes:
        index: its place among the requests that came together.
        request: the request.
        client: who asks.
        stream: whether its text comes in pieces.
        answers: receives its events.
        ticket: its ticket in the session, once it has started.
        arrived: when it came, from `time.perf_counter`.
    """

    def __init__(self, index: int, request: Request, client: str, stream: bool, answers: "Answers"):
        self.index = index
        self.request = request
        self.client = client
        self.stream = stream
        self.answers = answers
        self.ticket: int | None = None
        self.arrived = time.perf_counter()


class Answers:
    """The events of requests that came together; as a context, it cancels those that are unfinished.

    Attributes:
        queue_seconds: how long the first of them to start waited; None before.
    """

    def __init__(self, cancel: Callable[[set[Job]], None], deadline_s: float | None):
        """Expect nothing yet.

        Args:
            cancel: cancels requests, wherever they are.
            deadline_s: seconds until they are given up.
        """
        self.queue_seconds: float | None = None
        self.loop = asyncio.get_running_loop()
        self._cancel = cancel
        self._events: asyncio.Queue[tuple[Job, Event | ApiError]] = asyncio.Queue()
        self._deadline_s = deadline_s
        self._deadline = None if deadline_s is None else self.loop.time() + deadline_s
        self._unfinished: set[Job] = set()

    def expect(self, jobs: Iterable[Job]) -> None:
        """Set the requests that events are of."""
        self._unfinished = set(jobs)

    def put(self, job: Job, event: Event | ApiError) -> None:
        """Receive an event, in the event loop."""
        self._events.put_nowait((job, event))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Cancel the requests that are unfinished, which frees their places."""
        jobs, self._unfinished = self._unfinished, set()
        self._cancel(jobs)

    async def next(self) -> tuple[int, Event] | None:
        """Wait for the next event; return it with the place of its request, or None after the last one.

        Raises:
            ApiError: 400, a request cannot be served; 503 or 504, the deadline passed before or after it
                started; 503, the server stops; 500, the engine failed.
        """
        if not self._unfinished:
            return None
        try:
            async with asyncio.timeout_at(self._deadline):
                job, event = await self._events.get()
        except TimeoutError:
            raise self._late() from None
        if isinstance(event, ApiError):
            self._unfinished.discard(job)
            raise event
        if event.is_last:
            self._unfinished.discard(job)
        if event.error is not None:
            raise fault_of(event.error)
        if event.completion is not None and event.completion.finish_reason == "context":
            raise ApiError(
                400,
                "the prompt leaves no room for an answer in the model's context; shorten it",
                code="context_length_exceeded",
            )
        return job.index, event

    async def completions(self) -> list[Completion]:
        """Wait for all completions; return them in the order of the requests, and raise as `next` does."""
        found: dict[int, Completion] = {}
        async with self:
            while (each := await self.next()) is not None:
                index, event = each
                if event.completion is not None:
                    found[index] = event.completion
        return [found[index] for index in sorted(found)]

    def _late(self) -> ApiError:
        if all(job.ticket is None for job in self._unfinished):
            return overloaded(503, f"no place was free within {self._deadline_s:g} s; ask again later")
        return ApiError(
            504,
            f"the answer was not complete after {self._deadline_s:g} s; ask for fewer tokens, or raise the "
            "deadline",
            FAILED,
            code="deadline_exceeded",
        )


def fault_of(error: Exception) -> ApiError:
    """Return the API's error for one of the engine."""
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    fault = ApiError(500, "the engine failed on this request; the server's log says where", FAILED)
    fault.__cause__ = error  # for the log; its message may quote the prompts of others
    return fault


def overloaded(status: int, message: str) -> ApiError:
    """Return the error for a client that may try again soon."""
    error = ApiError(status, message, OVERLOADED, code="overloaded")
    error.headers = {"Retry-After": str(RETRY_AFTER)}
    return error

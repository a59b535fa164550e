"""The scheduler as an engine's session: for what steps a session in a thread of its own, such as a router.

So one engine, with its weights and its kept prefixes, serves conversations, judgements and memory decisions;
the requests of a session take turns with those of the clients.
"""

import asyncio
import queue
from collections.abc import Callable
from contextlib import suppress

from smidgen.data.types import Completion, Request
from smidgen.inference import Event
from smidgen.inference.inbox import InboxSession, Submitted, wait_for_events
from smidgen.serving.faults import ApiError
from smidgen.serving.scheduler import Scheduler

FULL = 429
"""Status with which the scheduler refuses requests while its queue is full."""
PAUSE = 0.05
"""Seconds before a request is entered again."""


class ScheduledSessions:
    """Sessions on a scheduler, in whose turns they are one client."""

    def __init__(self, scheduler: Scheduler, client: str, loop: asyncio.AbstractEventLoop):
        """Enter requests as `client`, in the event loop of the server."""
        self._scheduler, self._client, self._loop = scheduler, client, loop

    def session(self) -> "ScheduledSession":
        """Open a session."""
        return ScheduledSession(self._scheduler, self._client, self._loop)

    def close(self) -> None:
        """Do nothing: the engine is the server's."""


class ScheduledSession(InboxSession):
    """A `Session` whose requests a scheduler gets."""

    def __init__(self, scheduler: Scheduler, client: str, loop: asyncio.AbstractEventLoop):
        super().__init__()
        self._scheduler, self._client, self._loop = scheduler, client, loop
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Enter a request; see `Session.submit`. Its text comes in one piece."""
        ticket = self._inbox.submit(request, stream)
        self._soon(self._deal)
        return ticket

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Wait for at least one answer; return all that have arrived."""
        if self.is_idle:
            return []
        return self._inbox.finish(wait_for_events(self._events, timeout))

    def cancel(self, ticket: int) -> None:
        """Give up a request, and free its place; see `Session.cancel`."""
        if self._inbox.cancel(ticket):
            self._soon(self._deal)
            self._events.put(None)

    def close(self) -> None:
        """Give up all requests."""
        self._inbox.close()
        self._soon(self._give_up)

    @property
    def room(self) -> int:
        """The scheduler decides who waits."""
        return 1

    def _soon(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and everything of it has ended
            self._loop.call_soon_threadsafe(call)

    # ------------------------------------------------------------------------------------ in the event loop

    def _deal(self) -> None:
        arrived, gone = self._inbox.take()
        for ticket in gone:
            if ticket in self._tasks:
                self._tasks.pop(ticket).cancel()
        for one in arrived:
            self._tasks[one.ticket] = self._loop.create_task(self._answer(one))

    async def _answer(self, one: Submitted) -> None:
        completion: Completion | None = None
        error: Exception | None = None
        while completion is None and error is None:
            try:
                completion = await self._scheduler.complete(one.request, self._client)
            except ApiError as fault:
                if fault.status == FULL:  # who steps the session has deadlines of its own
                    await asyncio.sleep(PAUSE)
                else:  # as another session tells of it
                    error = fault.__cause__ if isinstance(fault.__cause__, Exception) else fault
            except Exception as fault:  # the request's alone
                error = fault
        self._tasks.pop(one.ticket, None)
        self._events.put(one.event(completion=completion, error=error))

    def _give_up(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

"""The part of a session whose requests are tasks of an event loop in another thread."""

import asyncio
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from smidgen.data.types import Request
from smidgen.inference.engine import Event
from smidgen.inference.inbox import InboxSession, Submitted, wait_for_events


class LoopSession(InboxSession, ABC):
    """A `Session` that waits for answers; what asks for them is `_answer`, in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        super().__init__()
        self._loop = loop
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Ask as soon as there is room; see `Session.submit`. The text comes in one piece."""
        ticket = self._inbox.submit(request, stream)
        self._soon(self._deal)
        return ticket

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Wait for at least one answer; return all that have arrived."""
        if self.is_idle:
            return []
        return self._inbox.finish(wait_for_events(self._events, timeout))

    def cancel(self, ticket: int) -> None:
        """Give up a request, and what it holds; see `Session.cancel`."""
        if self._inbox.cancel(ticket):
            self._soon(self._deal)
            self._events.put(None)

    def _soon(self, call: Callable[[], object]) -> None:
        """Call something in the event loop."""
        with suppress(RuntimeError):  # the loop is closed, and everything of it has ended
            self._loop.call_soon_threadsafe(call)

    def _deal(self) -> None:
        """Start new requests and stop cancelled ones, in the event loop."""
        arrived, gone = self._inbox.take()
        for ticket in gone & self._tasks.keys():
            self._tasks[ticket].cancel()
        for one in arrived:
            self._tasks[one.ticket] = task = self._loop.create_task(self._answer(one))
            task.add_done_callback(lambda _, ticket=one.ticket: self._tasks.pop(ticket, None))

    @abstractmethod
    async def _answer(self, one: Submitted) -> None:
        """Get the answer to a request, and put its event into `_events`."""

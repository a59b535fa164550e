"""The scheduler as an engine's session: for what steps a session in a thread of its own, such as a router.

So one engine, with its weights and its kept prefixes, serves conversations, judgements and memory decisions;
the requests of a session take turns with those of the clients.
"""

import asyncio

from smidgen.data.types import Completion
from smidgen.inference.inbox import Submitted
from smidgen.inference.loop_session import LoopSession
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


class ScheduledSession(LoopSession):
    """A `Session` whose requests a scheduler gets."""

    def __init__(self, scheduler: Scheduler, client: str, loop: asyncio.AbstractEventLoop):
        super().__init__(loop)
        self._scheduler, self._client = scheduler, client

    def close(self) -> None:
        """Give up all requests."""
        self._inbox.close()
        self._soon(self._give_up)

    @property
    def room(self) -> int:
        """The scheduler decides who waits."""
        return 1

    # ------------------------------------------------------------------------------------ in the event loop

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
        self._events.put(one.event(completion=completion, error=error))

    def _give_up(self) -> None:
        for task in self._tasks.values():
            task.cancel()

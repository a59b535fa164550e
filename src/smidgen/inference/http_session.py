"""A session of the engine `http`: requests are sent as they arrive, up to `batch_size` at a time."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable

import httpx2

from smidgen.data.types import Completion, Request
from smidgen.inference.engine import Event
from smidgen.inference.inbox import InboxSession, Submitted, wait_for_events


class HttpSession(InboxSession):
    """A `Session` on a server. An event loop in a separate thread sends requests and receives answers."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        complete: Callable[[httpx2.AsyncClient, Request], Awaitable[Completion]],
        batch_size: int,
    ):
        """Start the event loop.

        Args:
            client: connections to the server; closed with the session.
            complete: requests one completion.
            batch_size: maximum number of requests in flight.
        """
        super().__init__()
        self._client = client
        self._complete = complete
        self._batch_size = batch_size
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(batch_size)
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="smidgen-http", daemon=True)
        self._thread.start()

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Send a request as soon as fewer than `batch_size` are in flight; see `Session.submit`."""
        ticket = self._inbox.submit(request, stream)
        self._loop.call_soon_threadsafe(self._deal)
        return ticket

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Wait for at least one answer; return all that have arrived."""
        if self.is_idle:
            return []
        return self._inbox.finish(wait_for_events(self._events, timeout))

    def cancel(self, ticket: int) -> None:
        """Cancel a request and close its connection; see `Session.cancel`."""
        if self._inbox.cancel(ticket):
            self._loop.call_soon_threadsafe(self._deal)
            self._events.put(None)

    def close(self) -> None:
        """Cancel all requests and close the connections."""
        self._inbox.close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def room(self) -> int:
        """Number of further requests that would be sent immediately."""
        return max(0, self._batch_size - self.pending)

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async with self._client:
            await self._over.wait()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _deal(self) -> None:
        """Start new requests and stop cancelled ones."""
        arrived, gone = self._inbox.take()
        for ticket in gone & self._tasks.keys():
            self._tasks[ticket].cancel()
        for one in arrived:
            self._tasks[one.ticket] = task = self._loop.create_task(self._answer(one))
            task.add_done_callback(lambda _, ticket=one.ticket: self._tasks.pop(ticket))

    async def _answer(self, one: Submitted) -> None:
        try:
            async with self._free:
                completion = await self._complete(self._client, one.request)
        except Exception as error:  # any error becomes an event for the thread that steps
            self._events.put(one.event(error=error))
        else:
            piece = completion.text if one.stream else ""
            self._events.put(one.event(piece=piece, completion=completion))

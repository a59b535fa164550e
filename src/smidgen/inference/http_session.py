"""A session of the engine `http`: requests are sent as they arrive, up to `batch_size` at a time."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import httpx2

from smidgen.data.types import Completion, Request
from smidgen.inference.inbox import Submitted
from smidgen.inference.loop_session import LoopSession


class HttpSession(LoopSession):
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
        super().__init__(asyncio.new_event_loop())
        self._client = client
        self._complete = complete
        self._batch_size = batch_size
        self._free = asyncio.Semaphore(batch_size)
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="smidgen-http", daemon=True)
        self._thread.start()

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

    async def _answer(self, one: Submitted) -> None:
        try:
            async with self._free:
                completion = await self._complete(self._client, one.request)
        except Exception as error:  # any error becomes an event for the thread that steps
            self._events.put(one.event(error=error))
        else:
            piece = completion.text if one.stream else ""
            self._events.put(one.event(piece=piece, completion=completion))

"""Listening: a socket, and a uvicorn server that finishes what runs before it stops."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from smidgen.errors import ConfigError
from smidgen.serving.connections import GuardedProtocol
from smidgen.serving.scheduler import Scheduler

CLOSING = 5
"""Seconds that connections get to close, once nothing runs on them."""
BACKLOG = 2048


class DrainingServer(uvicorn.Server):
    """Listens until a signal; then refuses new requests with 503 until those that run are finished."""

    def __init__(
        self,
        app: ASGIApp,
        scheduler: Scheduler,
        *,
        grace_s: float,
        most_connections: int | None = None,
        idle_s: float | None = None,
        before: Callable[[], Awaitable[object]] | None = None,
    ):
        """Prepare.

        Args:
            app: the application.
            scheduler: is told to take no more requests.
            grace_s: seconds that running requests get after the signal before they are cancelled.
            most_connections: connections that clients may keep open together.
            idle_s: seconds without a request after which it stops by itself; None is never.
            before: awaited in the event loop before connections are taken.
        """
        config = uvicorn.Config(
            app,
            http=GuardedProtocol,
            limit_concurrency=most_connections,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,  # otherwise a client could name the address that it is known by
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=CLOSING,
        )
        super().__init__(config)
        self._scheduler = scheduler
        self._grace_s = grace_s
        self._last_moment: float | None = None
        self._idle_s = idle_s
        self._num_requests, self._last_busy = 0, time.monotonic()
        self._before = before

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        if self._before is not None:
            await self._before()
        await super().startup(sockets)
        self._last_busy = time.monotonic()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal stops at once."""
        if self._last_moment is None:
            self.stop()
        else:
            self.should_exit = True

    def stop(self) -> None:
        """Take no more requests, and exit once those that run are finished; from any thread."""
        self._last_moment = time.monotonic() + self._grace_s
        self._scheduler.drain()

    async def on_tick(self, counter: int) -> bool:
        """Exit once nothing runs, or the time is over; uvicorn asks ten times a second."""
        if self._idle_s is not None and self._last_moment is None:
            self._stop_if_idle(self._idle_s)
        if self._last_moment is not None and not self.should_exit:
            is_over = time.monotonic() >= self._last_moment
            self.should_exit = is_over or not self.server_state.tasks
            if is_over:
                # Those who wait get an error while there still are connections.
                await asyncio.to_thread(self._scheduler.close)
        return await super().on_tick(counter)

    def _stop_if_idle(self, idle_s: float) -> None:
        is_working = self.server_state.tasks or self._scheduler.running or self._scheduler.waiting
        if is_working or self.server_state.total_requests != self._num_requests:
            self._num_requests = self.server_state.total_requests
            self._last_busy = time.monotonic()
        elif time.monotonic() - self._last_busy >= idle_s:
            self.stop()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has an address but does not listen yet; port 0 takes a free one.

    Raises:
        ConfigError: the address is in use, or is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"there is no address {host} ({error.strerror}); check --host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        why = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {why}; choose another with --port"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the base URL that clients use."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"

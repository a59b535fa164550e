"""Connections that a server keeps: how long a client may take for its headers, and for reading an answer.

uvicorn waits for the headers of a connection without limit, once its first byte has come, and for a client
that does not read; what it cannot parse it answers in plain text. This is its protocol with deadlines and
OpenAI's shape. `uvicorn.Config(http=GuardedProtocol)` takes it; `limit_concurrency` bounds the connections.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from smidgen.serving.faults import INVALID, OVERLOADED, ApiError

HEAD_SECONDS = 10.0
"""From the opening of a connection, or the first byte of a later request, to the end of its headers."""
SEND_SECONDS = 30.0
"""A client that reads nothing of what is sent for so long has left."""


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines; see the module."""

    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._refuse(503, "the server has as many connections as it takes; try again later", OVERLOADED)
            return
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a client."""
        if self.transport.is_closing():
            return
        if self._head_timer is None and self.conn.their_state is h11.IDLE:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_late_head)
        super().data_received(data)

    def handle_events(self) -> None:
        """Act on what the bytes so far mean."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with a client that reads again."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, "the request is not valid HTTP/1.1, or its headers are too long; correct it")

    def _end_late_head(self) -> None:
        self._head_timer = None
        self._refuse(408, f"the headers did not arrive within {HEAD_SECONDS:g} s; send them faster")

    def _refuse(self, status: int, sentence: str, type: str = INVALID) -> None:
        """Answer if no answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = bytes(ApiError(status, sentence, type).response().body)
            self.transport.write(
                b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, len(body), body)
            )
        self.transport.close()

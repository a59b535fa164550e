"""Bodies of requests: how large, how slow and of what they may be, read once before any endpoint runs."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.serving.faults import ApiError

BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
LINGER_BYTES, LINGER_SECONDS = 2**20, 1.0
"""What is still read of a body that was refused: a client that is sending it sees the answer only if its own
connection is not reset, which closing with unread bytes does."""


class ClientGone(Exception):
    """The client left before its request was read; there is nobody to answer."""


class Bodies:
    """Reads the body of a request whole before it is handed on, in one piece; it must be declared as JSON."""

    def __init__(self, app: ASGIApp, most: int, seconds: float):
        """Take bodies of at most `most` bytes that arrive within `seconds`."""
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] in BODILESS:
            if declares_body(scope):
                raise ApiError(400, f"{scope['method']} takes no body here; leave it out")
            await self._app(scope, receive, send)
            return
        self._check_headers(Headers(scope=scope))
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(receive)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self._seconds:g} s; send it faster", code="timeout"
            ) from None
        message: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def receive_on() -> Message:
            nonlocal message
            handed, message = message, None
            return await receive() if handed is None else handed

        await self._app(scope, receive_on, send)

    def _check_headers(self, headers: Headers) -> None:
        if "transfer-encoding" in headers and "content-length" in headers:
            raise ApiError(400, "the body has a length and is sent in chunks; expected one of them")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "the body is compressed; send it as it is, without Content-Encoding")
        check_content_type(headers)
        declared = headers.get("content-length", "0")
        if not declared.isdecimal():
            raise ApiError(400, "the Content-Length is no number; send the number of bytes of the body")
        if len(declared) > 18 or int(declared) > self._most:
            raise self._too_large()

    async def _read(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is larger than {self._most:,} bytes; send less", code="request_too_large"
        )


def check_content_type(headers: Headers) -> None:
    """Check that a body is declared as JSON, which web pages of other origins cannot send unasked.

    Raises:
        ApiError: 415; it is not.
    """
    given = headers.get("content-type", "")
    kind, _, rest = given.partition(";")
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise ApiError(
            415,
            f"the body's Content-Type is '{given[:80]}'; send JSON with the header content-type: "
            "application/json",
            code="unsupported_media_type",
        )


def declares_body(scope: Scope) -> bool:
    """Whether the headers of a request announce a body."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


class Lingering:
    """Closes connections whose body was answered before it was read, instead of reading it to its end."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and close its connection after the answer if there is more of it."""
        if scope["type"] != "http" or not declares_body(scope):
            await self._app(scope, receive, send)
            return
        is_read = is_closing = False

        async def receive_on() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def send_on(message: Message) -> None:
            nonlocal is_closing
            if message["type"] == "http.response.start" and not is_read:
                is_closing = True
                MutableHeaders(scope=message)["connection"] = "close"
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_last and is_closing:
                await send({**message, "more_body": True})
                await _discard(receive_on)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, receive_on, send_on)


async def _discard(receive: Receive) -> None:
    """Read what a client is just sending, a little of it."""
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

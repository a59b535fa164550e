"""What stands before the endpoints: pure ASGI middleware, each refusing one thing in OpenAI's shape.

    guarded = middleware(Guards(keys=keys))        # for Starlette(middleware=guarded), the outermost first

`Answered` turns what the others and the endpoints raise into responses: no traceback reaches a client.
"""

import ipaddress
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.errors import ConfigError
from smidgen.serving.access_log import AccessLog, Observed
from smidgen.serving.body_limits import Bodies, ClientGone, Lingering
from smidgen.serving.faults import FAILED, OVERLOADED, ApiError
from smidgen.serving.keys import Keys
from smidgen.serving.metrics import Metrics
from smidgen.serving.rates import Buckets
from smidgen.serving.request_facts import facts_of, fault_of

MAX_BODY_BYTES = 4 * 2**20
MAX_HEADERS, MAX_HEADER_BYTES = 100, 16 * 2**10
OPEN_PATHS = frozenset({"/health"})
"""What answers without a key, for whoever watches over the server."""
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})
RESPONSE_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every response that does not set them itself."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?")


@dataclass(frozen=True)
class Guards:
    """What a server takes and what it refuses.

    Attributes:
        keys: the API keys; none are asked for if there are none.
        address: the address that the server listens at.
        allowed_hosts: further names that it is reached by, as the header Host has them.
        allowed_origins: origins of web pages that may use it, such as `https://tools.example.org`.
        max_body_bytes: bytes of a request's body.
        body_seconds: seconds until a body must have arrived.
        requests_per_minute: requests of one client, None for no limit.
    """

    keys: Keys = field(default_factory=Keys)
    address: str = "127.0.0.1"
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = 30.0
    requests_per_minute: float | None = None

    def __post_init__(self):
        """Validate the values.

        Raises:
            ConfigError: one is out of range.
        """
        for name in self.allowed_hosts:
            if not (found := _HOST.fullmatch(name.lower())) or found[2]:
                raise ConfigError(f"the allowed host is '{name}'; expected a name alone, such as gpu.lan")
        for origin in self.allowed_origins:
            if not re.fullmatch(r"https?://[^/@\s]+", origin):
                raise ConfigError(
                    f"the allowed origin is '{origin}'; expected a scheme and a host, such as "
                    "https://tools.example.org"
                )
        rate = self.requests_per_minute
        for name, value, least in (
            ("the largest body", self.max_body_bytes, 1),
            ("the time for a body", self.body_seconds, 0.1),
            ("the rate limit", 1 if rate is None else rate, 0.1),
        ):
            if not least <= value < math.inf:
                raise ConfigError(f"{name} is {value:g}; expected {least:g} or more")


def middleware(guards: Guards) -> list[Middleware]:
    """Return the middleware of a server, the outermost first."""
    rate = guards.requests_per_minute
    return [
        Middleware(Lingering),
        Middleware(Answered),
        Middleware(Heads),
        Middleware(Hosts, address=guards.address, allowed=guards.allowed_hosts),
        Middleware(Origins, allowed=guards.allowed_origins),
        *([Middleware(KeyCheck, keys=guards.keys)] if guards.keys else ()),
        *([Middleware(Rates, buckets=Buckets(rate))] if rate is not None else ()),
        Middleware(Bodies, most=guards.max_body_bytes, seconds=guards.body_seconds),
    ]


def observed(guards: Guards, log: AccessLog, metrics: Metrics) -> list[Middleware]:
    """Return the middleware of a server that logs and counts what it answers, refusals included."""
    return [Middleware(Observed, log=log, metrics=metrics), *middleware(guards)]


class Answered:
    """Answers every request: what was refused with its sentence, what failed with a sentence and an id."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; web sockets are closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        facts = facts_of(scope)
        is_started = False

        async def send_on(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = facts.id
                for name, value in RESPONSE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
            return
        except ClientGone:
            return
        except ApiError as error:
            found = error
        except Exception as error:  # whatever it is, the client gets a sentence and the log says where
            facts.fault = fault_of(error)
            found = ApiError(
                500,
                f"the server failed on this request; its log says why, under the id {facts.id}",
                FAILED,
                code="internal_error",
            )
        if not is_started:  # else the server cuts the connection, which a client cannot take for the end
            await found.response()(scope, receive, send_on)


class Heads:
    """Refuses requests with too many or too long headers, control characters, or another protocol."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the headers of a request."""
        headers = scope.get("headers", ())
        if scope.get("http_version", "1.1") not in ("1.0", "1.1"):
            raise ApiError(400, f"the protocol is HTTP/{scope['http_version']}; expected HTTP/1.1")
        if len(headers) > MAX_HEADERS:
            raise ApiError(431, f"the request has {len(headers)} headers; expected {MAX_HEADERS} at most")
        size = sum(len(name) + len(value) for name, value in headers) + len(scope.get("query_string", b""))
        if size > MAX_HEADER_BYTES:
            raise ApiError(
                431,
                f"the headers have {size:,} bytes; expected {MAX_HEADER_BYTES:,} at most; shorten them",
            )
        for name, value in headers:
            if _CONTROL.search(value):
                raise ApiError(
                    400, f"the header {name.decode('ascii')} has a control character; send printable text"
                )
        await self._app(scope, receive, send)


class Hosts:
    """Refuses names that the server was not told of, by which web pages reach it through DNS rebinding.

    Where it listens at every address, it may be reached by any: a name is what rebinding needs.
    """

    def __init__(self, app: ASGIApp, address: str = "127.0.0.1", allowed: Iterable[str] = ()):
        """Allow the names of the loopback, of the address and those given."""
        self._app = app
        self._allowed = LOOPBACK | {address.lower(), *(_host_name(name) for name in allowed)}
        self._allowed -= ANY_ADDRESS
        self._takes_addresses = address in ANY_ADDRESS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the host of a request."""
        if scope["type"] == "http":
            given = Headers(scope=scope).getlist("host")
            if len(given) != 1:
                raise ApiError(400, "the request has no header Host, or several; expected one")
            name = _host_name(given[0])
            if name not in self._allowed and not (self._takes_addresses and _is_address(name)):
                raise ApiError(
                    403,
                    f"the host is {_shown(given[0])}, which this server is not known by; use its address, or "
                    "start it with --allowed-host and this name",
                    code="host_not_allowed",
                )
        await self._app(scope, receive, send)


def _host_name(host: str) -> str:
    """Return the name in a header Host, without its port and brackets; empty if it is no host."""
    found = _HOST.fullmatch(host.lower())
    return found["name"].strip("[]") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Origins:
    """Refuses changes by web pages of other origins; no response says that they may read it (CORS)."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str] = ()):
        """Allow some origins besides the server's own."""
        self._app = app
        self._allowed = {origin.lower() for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the origin of a request."""
        if scope["type"] == "http" and scope["method"] not in READING_METHODS:
            headers = Headers(scope=scope)
            own = {f"{scheme}://{headers.get('host', '').lower()}" for scheme in ("http", "https")}
            for origin in headers.getlist("origin"):
                if origin.lower() not in own | self._allowed:
                    raise ApiError(
                        403,
                        f"the request comes from a web page of {_shown(origin)}, which may not use this "
                        "server; start it with --allowed-origin and this origin",
                        code="origin_not_allowed",
                    )
        await self._app(scope, receive, send)


class KeyCheck:
    """Refuses requests without one of the keys, except to `OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key of a request, and name its client by it."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            facts_of(scope).client = self._client(scope)
        await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> str:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        if scheme.lower() == b"bearer" and (client := self._keys.client_of(key.strip())):
            return client
        what = "the API key is not one of this server's" if given else "the request has no API key"
        error = ApiError(
            401,
            f"{what}; send one as `Authorization: Bearer KEY`",
            code="invalid_api_key",
        )
        error.headers = {"WWW-Authenticate": "Bearer"}
        raise error


class Rates:
    """Refuses the requests of clients that ask more often than they may, except to `OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, buckets: Buckets):
        self._app = app
        self._buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request of a client."""
        is_counted = scope["type"] == "http" and scope["path"] not in OPEN_PATHS
        if is_counted and (seconds := self._buckets.take(facts_of(scope).client)):
            error = ApiError(
                429,
                f"this client sent too many requests; wait {seconds} s and try again",
                OVERLOADED,
                code="rate_limit_exceeded",
            )
            error.headers = {"Retry-After": str(seconds)}
            raise error
        await self._app(scope, receive, send)


def _shown(text: str) -> str:
    return f"'{text}'" if len(text) <= 80 else f"'{text[:80]}…'"

"""Who may talk to the studio: this machine's browser, with the token that the terminal printed.

The server listens on the loopback interface only, which other pages of the browser reach, too. Against them
stand: the name of the host (a domain that is pointed at 127.0.0.1 is refused), a random token, which a cookie
of the strictest kind then carries, the origin of every request, and a policy under which the page runs only
its own files.
"""

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
COOKIE_SECONDS = 7 * 86_400
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "frame-src 'self'; img-src 'self' data:"
)
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
)
"""For reports, which are whole pages with their own styles: no script, and no request."""
_FIXED = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """Return a random token for the address of the page."""
    return secrets.token_urlsafe(32)


class Guard:
    """Lets a request pass if its host, its origin and its token are right, and adds headers to the answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # none is served
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Return why a request is refused, a redirect that sets the cookie, or None if it may pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            return _refused(
                421, "this is not the address of the studio; open the one that the terminal shows"
            )
        if scope["method"] not in ("GET", "HEAD") and not _is_own_page(headers, host):
            return _refused(403, "the request comes from another page; use the studio's own")
        cookie = f"smidgen-studio-{host.rpartition(':')[2]}"
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and scope["path"] == "/" and self._is_right(given):
            redirect = RedirectResponse("/", status_code=303)
            redirect.set_cookie(
                cookie, self._token, max_age=COOKIE_SECONDS, httponly=True, samesite="strict", path="/"
            )
            return redirect
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if not (self._is_right(bearer) or self._is_right(_cookie(headers, cookie))):
            return _refused(401, "the token is missing or wrong; open the address that the terminal shows")
        return None

    def _is_right(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())


def _is_own_page(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from the studio's page, or from no page at all."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and urlsplit(origin)[:2] != ("http", host):
        return False
    return site in (None, "same-origin", "none")


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _refused(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)


def _with_headers(send: Send) -> Send:
    """Return `send` with the headers of every answer; a policy that the answer has stays."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", POLICY)
            for name, value in _FIXED.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped

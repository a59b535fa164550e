"""HTTP requests to a server, with retries on transient errors, and the API key."""

import asyncio
import json
import os
import random
import ssl
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple

import httpx2

from smidgen.errors import ConfigError, WorkError
from smidgen.inference.http_faults import RequestFailed
from smidgen.inference.loopback import is_loopback

PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""Statuses of transient errors: the same request may succeed later."""
NEVER_REACHED = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol,
)  # fmt: skip
"""Errors before the server has received anything of a request."""
LONGEST_WAIT = 120.0
"""Maximum seconds between two tries, also if `Retry-After` is longer."""
KEY_NAME = "OPENAI_API_KEY"


class TriedAgain(UserWarning):
    """A request failed and is retried."""


@dataclass(frozen=True)
class Patience:
    """Timeout and retries.

    Attributes:
        timeout: seconds to wait for one answer.
        retries: maximum number of retries of a request.
        backoff: seconds before the first retry; doubled for each further one.
    """

    timeout: float = 600.0
    retries: int = 5
    backoff: float = 0.5


class Answer(NamedTuple):
    """A server's answer; `seconds` is the time it took."""

    status: int
    text: str
    seconds: float


class Server:
    """An HTTP server.

    Attributes:
        url: base URL without a trailing slash.
    """

    def __init__(self, url: str, *, api_key_env: str | None = None, patience: Patience = Patience()):
        """Check the URL and the key; nothing is sent.

        Raises:
            ConfigError: the URL has no host, or the key is missing or not allowed in a header.
        """
        self.url = _checked(url)
        self._patience = patience
        self._is_plain = self.url.startswith("http://")
        key = self._key(api_key_env)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own API, which refuses unknown fields."""
        return httpx2.URL(self.url).host == "api.openai.com"

    def connect(self, connections: int) -> httpx2.AsyncClient:
        """Return a client with at most `connections` connections to the server."""
        is_loopback = self._is_plain and self._is_here  # no proxy can reach it, and nothing is encrypted
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=self._patience.timeout,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not is_loopback,
            verify=not is_loopback and _authorities(),
        )

    async def ask(
        self, client: httpx2.AsyncClient, path: str, body: dict[str, Any] | None = None, *, advice: str
    ) -> Answer:
        """Send a request, retrying on transient errors; POST if there is a body, else GET.

        An error in the body of a 200 is treated as an answer with the error's own status.

        Args:
            client: as `connect` returns it.
            path: path after the base URL.
            body: JSON body.
            advice: what the user can do if there is no answer.

        Raises:
            WorkError: the server cannot be reached or returns 429, on every try.
            RequestFailed: there is no answer on any try, or it cannot be decoded.
        """
        fault = detail = ""
        is_server = False
        tries = self._patience.retries + 1
        for attempt in range(tries):
            detail, is_server = "", False
            pause = self._patience.backoff * 2**attempt * random.uniform(0.5, 1.0)
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._patience.timeout):
                    method = "GET" if body is None else "POST"
                    answer = await client.request(method, f"{self.url}{path}", json=body)
            except (TimeoutError, httpx2.TimeoutException) as error:
                is_server = isinstance(error, NEVER_REACHED)
                fault = f"did not answer within {self._patience.timeout:g} seconds"
            except httpx2.TransportError as error:
                fault = f"cannot be reached ({str(error) or type(error).__name__})"
                is_server = isinstance(error, NEVER_REACHED)
            except httpx2.DecodingError as error:
                raise RequestFailed(
                    WorkError,
                    f"the server at {self.url} answered with content that cannot be decoded ({error})",
                    "; check that the URL is that of an OpenAI-compatible server",
                ) from None
            else:
                text = answer.content.decode(errors="replace")  # JSON is always UTF-8, whatever the header
                status = _status(answer.status_code, text)
                if status not in PASSING:
                    return Answer(status, text, time.perf_counter() - started)
                fault, detail, is_server = f"answered {status}", f": {excerpt(text)}", status == 429
                pause = _retry_after(answer.headers.get("retry-after"), pause)
            if attempt + 1 < tries:
                # Without details of the request, so that Python shows the warning once for all in flight.
                warnings.warn(
                    f"the server at {self.url} {fault}; retrying, attempt {attempt + 2} of {tries}",
                    TriedAgain,
                    stacklevel=1,
                )
                await asyncio.sleep(min(pause, LONGEST_WAIT))
        failed = RequestFailed(
            WorkError, f"the server at {self.url} {fault}{detail} (attempts: {tries})", f"; {advice}"
        )
        raise failed.error if is_server else failed

    @property
    def _is_here(self) -> bool:
        """Whether the server is on this machine's loopback interface."""
        return is_loopback(httpx2.URL(self.url).host)

    def _key(self, name: str | None) -> str | None:
        """Return the API key; the key in the default variable is never sent unencrypted over a network."""
        key = os.environ.get(name or KEY_NAME)
        if not key:
            if name is not None:
                raise ConfigError(f"the environment variable {name} is not set; put the API key there")
            return None
        if name is None and self._is_plain and not self._is_here:
            warnings.warn(
                f"the key in {KEY_NAME} is not sent to {self.url}, because the connection is not encrypted; "
                f"name the variable with --api-key-env (api_key_env) to send it anyway",
                stacklevel=2,
            )
            return None
        if not all("!" <= character <= "~" for character in key):
            raise ConfigError(
                f"the environment variable {name or KEY_NAME} contains a character that is not allowed in a "
                "header, such as a space, a newline or a non-ASCII letter; put only the API key there"
            )
        return key


def excerpt(text: str) -> str:
    """Return the beginning of a server's answer, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


@cache
def _authorities() -> ssl.SSLContext:
    """Return the certificates that servers are trusted by, which take long to read."""
    return httpx2.create_ssl_context()


def _checked(url: str) -> str:
    try:
        if not httpx2.URL(url).host:
            raise httpx2.InvalidURL("it has no host")
    except httpx2.InvalidURL as error:
        raise ConfigError(
            f"{url} is not the URL of a server ({error}); expected one such as http://localhost:8000/v1"
        ) from None
    return url.rstrip("/")


def _status(status: int, text: str) -> int:
    """Return the status of an answer; for a 200 with an error in its body, the status of that error."""
    if status != 200 or '"error"' not in text:
        return status
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return status
    if not isinstance(content, dict) or not content.get("error") or content.get("choices"):
        return status
    code = content["error"].get("code") if isinstance(content["error"], dict) else None
    return code if type(code) is int and 400 <= code < 600 else 500


def _retry_after(value: str | None, pause: float) -> float:
    """Return the seconds of a `Retry-After` header, a number or a date; `pause` if there is no valid one."""
    if value is None:
        return pause
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return pause

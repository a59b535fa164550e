"""A server asked over HTTP, again where it fails for a reason that may pass, and the key it is shown."""

import asyncio
import ipaddress
import json
import os
import random
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx2

from smidgen.errors import ConfigError, WorkError
from smidgen.inference.http_faults import RequestFailed

PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""Statuses that say nothing about the request: the same one may be answered later."""
NEVER_REACHED = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol,
)  # fmt: skip
"""Faults before the server has seen anything of a request."""
LONGEST_WAIT = 120.0
"""Seconds; a server that asks for a longer wait before the next try is waited for this long."""
KEY_NAME = "OPENAI_API_KEY"


class TriedAgain(UserWarning):
    """A server gave no answer, and is asked again."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        timeout: seconds for one answer.
        retries: how often a request is sent again.
        backoff: seconds before the first time; twice as many before each next.
    """

    timeout: float = 600.0
    retries: int = 5
    backoff: float = 0.5


class Answer(NamedTuple):
    """What a server said, after so many seconds."""

    status: int
    text: str
    seconds: float


class Server:
    """What stands behind a URL.

    Attributes:
        url: without a slash at its end.
    """

    def __init__(self, url: str, *, api_key_env: str | None = None, patience: Patience = Patience()):
        """Check the address and the key; nothing is sent.

        Raises:
            ConfigError: the URL names no host, the key is not there or cannot stand in a header.
        """
        self.url = _checked(url)
        self._patience = patience
        self._is_plain = self.url.startswith("http://")
        key = self._key(api_key_env)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own, which refuses every field that it does not know."""
        return httpx2.URL(self.url).host == "api.openai.com"

    def connect(self, connections: int) -> httpx2.AsyncClient:
        """Return what holds up to so many connections to the server."""
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=self._patience.timeout,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not (self._is_plain and self._is_here),  # no proxy leads to this machine
        )

    async def ask(
        self, client: httpx2.AsyncClient, path: str, body: dict[str, Any] | None = None, *, advice: str
    ) -> Answer:
        """Ask until there is an answer that will not change; a body is posted.

        Args:
            client: as `connect` returned it.
            path: behind the URL.
            body: what is sent as JSON.
            advice: what to do if there is no answer.

        An error that comes with the status 200 counts as one with its own code.

        Raises:
            WorkError: the server cannot be reached, or asks for patience, however often it is asked.
            RequestFailed: there is no answer, however often it is asked, or it cannot be decoded.
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
                    f"the server at {self.url} answered what cannot be decoded ({error})",
                    "; check that the URL is that of an OpenAI-compatible server",
                ) from None
            else:
                text = answer.content.decode(errors="replace")  # JSON is UTF-8, whatever a header says
                status = _status(answer.status_code, text)
                if status not in PASSING:
                    return Answer(status, text, time.perf_counter() - started)
                fault, detail, is_server = f"answered {status}", f": {excerpt(text)}", status == 429
                pause = _retry_after(answer.headers.get("retry-after"), pause)
            if attempt + 1 < tries:
                # Without what differs by request, so that Python shows it once for all that are under way.
                warnings.warn(
                    f"the server at {self.url} {fault}; trying again, {attempt + 2} of {tries} times",
                    TriedAgain,
                    stacklevel=1,
                )
                await asyncio.sleep(min(pause, LONGEST_WAIT))
        failed = RequestFailed(
            WorkError, f"the server at {self.url} {fault}{detail}, {tries} times", f"; {advice}"
        )
        raise failed.error if is_server else failed

    @property
    def _is_here(self) -> bool:
        """Whether the server is on this machine's loopback."""
        host = httpx2.URL(self.url).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def _key(self, name: str | None) -> str | None:
        """The key in the variable of that name; the usual one's goes nowhere that others may read it."""
        key = os.environ.get(name or KEY_NAME)
        if not key:
            if name is not None:
                raise ConfigError(f"the environment variable {name} is not set; put the API key there")
            return None
        if name is None and self._is_plain and not self._is_here:
            warnings.warn(
                f"the key in {KEY_NAME} is not sent to {self.url}, which is not encrypted; "
                f"name its variable with --api-key-env (api_key_env) if it is meant for that server",
                stacklevel=2,
            )
            return None
        if not all("!" <= character <= "~" for character in key):
            raise ConfigError(
                f"the environment variable {name or KEY_NAME} holds what cannot stand in a header, such as a "
                "space, a line's end or a letter beyond ASCII; put the API key there and nothing else"
            )
        return key


def excerpt(text: str) -> str:
    """Return the beginning of what a server said, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _checked(url: str) -> str:
    try:
        if not httpx2.URL(url).host:
            raise httpx2.InvalidURL("it names no host")
    except httpx2.InvalidURL as error:
        raise ConfigError(
            f"{url} is no URL of a server ({error}); expected one such as http://localhost:8000/v1"
        ) from None
    return url.rstrip("/")


def _status(status: int, text: str) -> int:
    """The status of an answer; that of the error in it where one comes with the status 200."""
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
    """Seconds that a `Retry-After` header asks for, as a number or a date; `pause` if it says nothing."""
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

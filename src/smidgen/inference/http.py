"""Completions by any server that speaks OpenAI's protocol: vLLM, llama-server, Ollama, mlx_lm.server, an API.

https://platform.openai.com/docs/api-reference/chat. Messages go out as they are and the server's own chat
template renders them. Many requests are under way at once; one that fails for a reason that may pass (429,
5xx, a timeout, a broken connection) is sent again after a while that doubles each time, or after what
`Retry-After` says. However often it is sent, it is answered once.

The protocol has no place for some settings of sampling; those are refused rather than left out.
"""

import asyncio
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from smidgen.data.types import Completion, Request, Sample, Scored
from smidgen.errors import ConfigError, DataError, SmidgenError, WorkError
from smidgen.inference.engine import Stream
from smidgen.inference.http_protocol import excerpt, read_answer, request_body

PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""Statuses that say nothing about the request: the same one may be answered later."""
LONGEST_WAIT = 120.0
"""Seconds; a server that asks for a longer wait before the next try is waited for this long."""
KEY_NAME = "OPENAI_API_KEY"


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


class HttpEngine:
    """An `Engine` behind a URL."""

    def __init__(
        self,
        url: str,
        *,
        model_name: str | None = None,
        api_key_env: str | None = None,
        thinking: bool = False,
        batch_size: int = 64,
        patience: Patience = Patience(),
    ):
        """Talk to the server at `url`.

        Args:
            url: up to and with the version, as `http://localhost:8000/v1`.
            model_name: what the server calls the model; its only one, unless given.
            api_key_env: name of the environment variable that holds the key; `OPENAI_API_KEY`, if it is set,
                unless given.
            thinking: sent to the chat template, by servers that have such a switch.
            batch_size: requests that are under way at once.
            patience: how long to wait, and how often to try again.

        Raises:
            ConfigError: the key is not there, or the server has several models.
            WorkError: the server does not answer.
        """
        self.url = _checked(url)
        self._key = _key(api_key_env)
        self._thinking = thinking
        self._batch_size = batch_size
        self._patience = patience
        self.model_name = model_name or self._only_model()

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        If one fails for good, no more are sent; those under way are waited for and handed out first.

        Raises:
            ConfigError: the protocol has no place for a setting, or the server refuses a request.
            WorkError: the server does not answer, or what it answers is no completion.
        """
        answered: queue.Queue[tuple[Request, Completion] | Exception | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._ask_all(iter(requests), answered.put))

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
            except Exception as error:
                answered.put(error)
            finally:
                loop.close()
                answered.put(None)

        thread = threading.Thread(target=work, name="smidgen-http")
        thread.start()
        try:
            for found in iter(answered.get, None):
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            if thread.is_alive() and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    def stream(self, request: Request) -> Stream:
        """Complete one request, in one piece.

        Raises:
            DataError: the prompt leaves no room in the model's context.
        """

        def pieces() -> Generator[str, None, Completion]:
            ((_, completion),) = self.complete([request])
            if completion.finish_reason == "context":
                raise DataError(
                    f"the prompt does not fit the context of {self.model_name} at {self.url}; shorten it"
                )
            yield completion.text
            return completion

        return Stream(pieces())

    def score(
        self, samples: Iterable[Sample], continuations: Sequence[str], *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: the protocol has no probabilities of given texts."""
        raise ConfigError(
            "a server tells no probabilities of given continuations; use the engine mlx for that"
        )

    def peak_memory_bytes(self) -> None:
        """Return None: the memory is the server's."""
        return None

    def close(self) -> None:
        """Do nothing: every call has connections of its own."""

    async def _ask_all(
        self, requests: Iterator[Request], put: Callable[[tuple[Request, Completion]], None]
    ) -> None:
        running: dict[asyncio.Task[Completion], Request] = {}
        failure: SmidgenError | None = None

        async def wait() -> SmidgenError | None:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            failed = None
            for task in done:
                request = running.pop(task)
                try:
                    put((request, task.result()))
                except SmidgenError as error:
                    failed = error
            return failed

        limits = httpx2.Limits(max_connections=self._batch_size, max_keepalive_connections=self._batch_size)
        async with httpx2.AsyncClient(
            headers=self._headers(), timeout=self._patience.timeout, limits=limits
        ) as client:
            try:
                while failure is None and (request := next(requests, None)) is not None:
                    running[asyncio.create_task(self._ask(client, request))] = request
                    if len(running) >= self._batch_size:
                        failure = await wait()
                while running:
                    failure = await wait() or failure
            finally:
                for task in running:
                    task.cancel()
        if failure is not None:
            raise failure

    async def _ask(self, client: httpx2.AsyncClient, request: Request) -> Completion:
        """Ask for one completion until it is there or there is no hope."""
        body = request_body(request, self.model_name, thinking=self._thinking)
        if _is_openai(self.url):
            del body["chat_template_kwargs"]
        fault = ""
        for attempt in range(self._patience.retries + 1):
            pause = self._patience.backoff * 2**attempt * random.uniform(0.5, 1.0)
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._patience.timeout):
                    answer = await client.post(f"{self.url}/chat/completions", json=body)
            except (TimeoutError, httpx2.TimeoutException):
                fault = f"did not answer within {self._patience.timeout:g} seconds"
            except httpx2.TransportError as error:
                fault = f"cannot be reached ({str(error) or type(error).__name__})"
            else:
                if answer.status_code == 200:
                    seconds = time.perf_counter() - started
                    return read_answer(request, answer.text, seconds, self.url, thinking=self._thinking)
                if answer.status_code not in PASSING:
                    return self._refused(answer)
                fault = f"answered {answer.status_code}: {excerpt(answer.text)}"
                pause = _retry_after(answer.headers.get("retry-after"), pause)
            if attempt < self._patience.retries:
                await asyncio.sleep(min(pause, LONGEST_WAIT))
        tries = self._patience.retries + 1
        raise WorkError(
            f"the server at {self.url} {fault}, {tries} times; what was finished is kept, "
            "so see to the server and start again"
        )

    def _refused(self, answer: httpx2.Response) -> Completion:
        """What a request comes to that will never be answered: nothing, if it is only too long.

        Raises:
            ConfigError: always, but for that.
        """
        said = answer.text.lower()
        if answer.status_code in (400, 413) and "context" in said and ("length" in said or "size" in said):
            return Completion("", finish_reason="context")
        advice = {
            401: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            403: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            404: "check the URL, which often ends in /v1, and the name given as --model-name",
        }.get(answer.status_code, "mend the request")
        raise ConfigError(
            f"the server at {self.url} refuses a request with status {answer.status_code}: "
            f"{excerpt(answer.text)}; {advice}"
        )

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _only_model(self) -> str:
        """The name of the server's only model."""
        try:
            answer = httpx2.get(f"{self.url}/models", headers=self._headers(), timeout=self._patience.timeout)
            answer.raise_for_status()
            names = [str(entry["id"]) for entry in answer.json()["data"]]
        except (httpx2.HTTPError, ValueError, TypeError, KeyError) as error:
            raise WorkError(
                f"the server at {self.url} does not list its models ({error}); "
                "check that it runs and that the URL ends in /v1, or name the model with --model-name"
            ) from None
        if len(names) != 1:
            shown = ", ".join(names[:5]) or "none"
            raise ConfigError(
                f"the server at {self.url} has {len(names)} models ({shown}); name one with --model-name"
            )
        return names[0]


def _checked(url: str) -> str:
    try:
        if not httpx2.URL(url).host:
            raise httpx2.InvalidURL("it names no host")
    except httpx2.InvalidURL as error:
        raise ConfigError(
            f"{url} is no URL of a server ({error}); expected one such as http://localhost:8000/v1"
        ) from None
    return url.rstrip("/")


def _is_openai(url: str) -> bool:
    """Whether the server is OpenAI's own, which refuses every field that it does not know."""
    return httpx2.URL(url).host == "api.openai.com"


def _key(name: str | None) -> str | None:
    key = os.environ.get(name or KEY_NAME)
    if name is not None and not key:
        raise ConfigError(f"the environment variable {name} is not set; put the API key there")
    return key


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

"""Completions from any OpenAI-compatible server: vLLM, llama-server, Ollama, mlx_lm.server, an API.

https://platform.openai.com/docs/api-reference/chat. Messages are sent unrendered; the server applies its own
chat template. Many requests are in flight at once. One that fails with a transient error (429, 5xx, a
timeout, a broken connection) is retried with exponential backoff, or after the delay in `Retry-After`.

Sampling settings that the protocol lacks are refused rather than ignored.
"""

import asyncio
import json
import warnings
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2

from smidgen.data.types import UNANSWERED, Completion, Continuations, Request, Sample, Scored
from smidgen.errors import ConfigError, DataError, WorkError, did_you_mean
from smidgen.inference.engine import Stream
from smidgen.inference.http_faults import NotAnswered, RequestFailed, completed_despite_failures
from smidgen.inference.http_protocol import (
    OTHER_LIMIT,
    is_about_length,
    read_answer,
    request_body,
    wants_other_limit,
)
from smidgen.inference.http_server import KEY_NAME, Answer, Patience, Server, excerpt
from smidgen.inference.http_session import HttpSession
from smidgen.inference.offline import streamed

Found = TypeVar("Found")
NOT_OF_A_REQUEST = frozenset((401, 402, 403, 404, 405, 407, 429))
"""Statuses not caused by one request: the key, account, URL or model is wrong."""
LISTING = "check that it is running and that the URL ends in /v1, or name the model with --model-name"


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
        patience: Patience | None = None,
    ):
        """Connect to the server at `url`.

        Args:
            url: base URL including the version, such as `http://localhost:8000/v1`.
            model_name: the server's name of the model; default: its only model.
            api_key_env: environment variable that contains the API key; default: `OPENAI_API_KEY`, if set.
            thinking: passed to the chat template, on servers that support it.
            batch_size: maximum number of requests in flight.
            patience: timeout and retries; default: `Patience()`.

        Raises:
            ConfigError: the key is missing, or the server has several models.
            WorkError: the server does not answer.
        """
        self._server = Server(url, api_key_env=api_key_env, patience=patience or Patience())
        self.url = self._server.url
        self._thinking = thinking
        self._batch_size = batch_size
        self._limit_name = "max_tokens"
        self._has_blamed = False
        self._listed: list[str] = []
        self.model_name = model_name or _apart(self._only_model())

    def session(self) -> HttpSession:
        """Open a session for requests that arrive over time."""

        async def complete(client: httpx2.AsyncClient, request: Request) -> Completion:
            try:
                return await self._complete(client, request)
            except RequestFailed as failed:  # a single request cannot tell whether the server is at fault
                raise failed.error from None

        return HttpSession(self._server.connect(self._batch_size), complete, self._batch_size)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        A request that fails while others succeed gets the finish reason `error`; the first one is reported on
        stderr. If the server fails, no more requests are sent, and those in flight are completed first.

        Raises:
            ConfigError: the protocol lacks a setting, or the server refuses all requests.
            WorkError: the server does not answer, or none of its answers is a completion.
        """
        session = HttpSession(self._server.connect(self._batch_size), self._complete, self._batch_size)
        yield from completed_despite_failures(session, requests, self._blame)

    def stream(self, request: Request) -> Stream:
        """Complete one request, in one piece.

        Raises:
            DataError: there is no answer, for example because the prompt does not fit the model's context.
        """

        def fault_of(completion: Completion) -> DataError | None:
            if completion.finish_reason not in UNANSWERED:
                return None
            why = UNANSWERED[completion.finish_reason]
            return DataError(f"{self.model_name} at {self.url} gave no answer: {why}; change the prompt")

        return Stream(streamed(self.session(), request, fault_of))

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Refuse: the protocol has no log-probabilities of given texts."""
        raise ConfigError("a server does not support log-probability scoring; use the engine mlx")

    def peak_memory_bytes(self) -> None:
        """Return None: the model is in the server's memory."""
        return None

    def close(self) -> None:
        """Do nothing: every call opens its own connections."""

    def _blame(self, failed: RequestFailed) -> None:
        if not self._has_blamed:
            self._has_blamed = True
            warnings.warn(
                f"{failed.what}; the server answers other requests, so this one counts as wrong. Further "
                "failed requests count as wrong too and are not reported",
                NotAnswered,
                stacklevel=1,
            )

    async def _complete(self, client: httpx2.AsyncClient, request: Request) -> Completion:
        """Request one completion, adapting to the server's name of the token limit."""
        model = self.model_name
        if request.adapter is not None:
            model = await self._adapted_model(client, str(request.adapter))
        body = request_body(request, model, thinking=self._thinking, limit_name=self._limit_name)
        if self._server.is_openai:
            del body["chat_template_kwargs"]
        answer = await self._ask(client, body)
        if "max_tokens" in body and wants_other_limit(answer):
            body[OTHER_LIMIT] = body.pop("max_tokens")
            answer = await self._ask(client, body)
            if answer.status == 200:
                self._limit_name = OTHER_LIMIT
        if answer.status == 200:
            return read_answer(request, answer.text, answer.seconds, self.url, thinking=self._thinking)
        if not is_about_length(answer):
            raise self._refusal(answer)
        # Servers report in different ways, or not at all, whether the prompt alone is too long. One token
        # is the smallest possible limit: if even that is refused, the prompt does not fit.
        limit = OTHER_LIMIT if OTHER_LIMIT in body else "max_tokens"
        least = await self._ask(client, body | {limit: 1})
        if is_about_length(least):
            return Completion("", finish_reason="context")
        if least.status != 200:
            raise self._refusal(least)
        raise ConfigError(
            f"the server at {self.url} has room for the prompt but not for {request.sampling.max_tokens} "
            f"more tokens: {excerpt(answer.text)}; lower --max-tokens"
        )

    async def _ask(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> Answer:
        advice = "finished answers are kept, so fix the server and run again"
        return await self._server.ask(client, "/chat/completions", body, advice=advice)

    def _refusal(self, answer: Answer) -> ConfigError | RequestFailed:
        """Return the error for a request that the server refused."""
        advice = {
            401: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            403: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            404: "check the URL, which often ends in /v1, and the name given as --model-name",
        }.get(answer.status, "fix the request")
        what = (
            f"the server at {self.url} refuses a request with status {answer.status}: {excerpt(answer.text)}"
        )
        if answer.status < 400 or answer.status in NOT_OF_A_REQUEST:
            return ConfigError(f"{what}; {advice}")
        return RequestFailed(ConfigError, what, f"; {advice}")

    async def _adapted_model(self, client: httpx2.AsyncClient, adapter: str) -> str:
        """Return the server's model name for an adapter; vLLM lists each loaded adapter as a model."""
        if adapter not in self._listed:
            self._listed = await self._models(client)
        if adapter not in self._listed:
            shown = ", ".join(self._listed[:5]) or "none"
            raise ConfigError(
                f"the server at {self.url} lists no model '{adapter}' for the adapter of that name; it lists "
                f"{shown}.{did_you_mean(adapter, self._listed)} Load the adapter there, or leave it out"
            )
        return adapter

    async def _only_model(self) -> str:
        """Return the name of the server's only model."""
        async with self._server.connect(1) as client:
            names = await self._models(client)
        if len(names) != 1:
            shown = ", ".join(names[:5]) or "none"
            raise ConfigError(
                f"the server at {self.url} has {len(names)} models ({shown}); name one with --model-name"
            )
        return names[0]

    async def _models(self, client: httpx2.AsyncClient) -> list[str]:
        """Return the names of the server's models."""
        try:
            answer = await self._server.ask(client, "/models", advice=LISTING)
        except RequestFailed as failed:
            raise failed.error from None
        if answer.status in (401, 403):
            raise self._refusal(answer)
        try:
            names = [str(entry["id"]) for entry in json.loads(answer.text)["data"]]
            "".join(names).encode()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WorkError(
                f"the server at {self.url} does not list its models (status {answer.status}, "
                f"{type(error).__name__}: {excerpt(answer.text)}); {LISTING}"
            ) from None
        return names


def _apart(work: Coroutine[Any, Any, Found]) -> Found:
    """Run a coroutine in a thread of its own, so that it works inside a notebook's running event loop."""
    with ThreadPoolExecutor(1, thread_name_prefix="smidgen-http") as pool:
        return pool.submit(asyncio.run, work).result()

"""Completions by any server that speaks OpenAI's protocol: vLLM, llama-server, Ollama, mlx_lm.server, an API.

https://platform.openai.com/docs/api-reference/chat. Messages go out as they are and the server's own chat
template renders them. Many requests are under way at once; one that fails for a reason that may pass (429,
5xx, a timeout, a broken connection) is sent again after a while that doubles each time, or after what
`Retry-After` says. However often it is sent, it is answered once.

The protocol has no place for some settings of sampling; those are refused rather than left out.
"""

import asyncio
import json
import warnings
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2

from smidgen.data.types import UNANSWERED, Completion, Request, Sample, Scored
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
"""Statuses that say nothing about one request: key, account, URL or model are not in order."""
LISTING = "check that it runs and that the URL ends in /v1, or name the model with --model-name"


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
        """Talk to the server at `url`.

        Args:
            url: up to and with the version, as `http://localhost:8000/v1`.
            model_name: what the server calls the model; its only one, unless given.
            api_key_env: name of the environment variable that holds the key; `OPENAI_API_KEY`, if it is set,
                unless given.
            thinking: sent to the chat template, by servers that have such a switch.
            batch_size: requests that are under way at once.
            patience: how long to wait, and how often to try again; `Patience()` if None.

        Raises:
            ConfigError: the key is not there, or the server has several models.
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
        """Open a session, for requests that arrive over time."""

        async def complete(client: httpx2.AsyncClient, request: Request) -> Completion:
            try:
                return await self._complete(client, request)
            except RequestFailed as failed:  # whose fault it is only many requests can tell
                raise failed.error from None

        return HttpSession(self._server.connect(self._batch_size), complete, self._batch_size)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in finishing order; see `Engine.complete`.

        A request that has no answer while others have one ends with `error`, reported on stderr once. If the
        server fails, no more are sent; those under way are waited for and handed out first.

        Raises:
            ConfigError: the protocol has no place for a setting, or the server refuses all requests.
            WorkError: the server does not answer, or nothing it answers is a completion.
        """
        session = HttpSession(self._server.connect(self._batch_size), self._complete, self._batch_size)
        yield from completed_despite_failures(session, requests, self._blame)

    def stream(self, request: Request) -> Stream:
        """Complete one request, in one piece.

        Raises:
            DataError: there is no answer, as when the prompt does not fit the model's context.
        """

        def fault_of(completion: Completion) -> DataError | None:
            if completion.finish_reason not in UNANSWERED:
                return None
            why = UNANSWERED[completion.finish_reason]
            return DataError(f"{self.model_name} at {self.url} gave no answer: {why}; change the prompt")

        return Stream(streamed(self.session(), request, fault_of))

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

    def _blame(self, failed: RequestFailed) -> None:
        if not self._has_blamed:
            self._has_blamed = True
            warnings.warn(
                f"{failed.what}; the server answers others, so this request is at fault and counts as wrong. "
                "Any other like it does, too, without being reported",
                NotAnswered,
                stacklevel=1,
            )

    async def _complete(self, client: httpx2.AsyncClient, request: Request) -> Completion:
        """Ask for one completion until it is there or there is no hope."""
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
        # Servers tell in many ways, and some not at all, whether the prompt alone is too long. One token is
        # the least that can be asked for: what leaves no room for it does not fit.
        limit = OTHER_LIMIT if OTHER_LIMIT in body else "max_tokens"
        least = await self._ask(client, body | {limit: 1})
        if is_about_length(least):
            return Completion("", finish_reason="context")
        if least.status != 200:
            raise self._refusal(least)
        raise ConfigError(
            f"the server at {self.url} has room for a prompt but not for {request.sampling.max_tokens} more "
            f"tokens: {excerpt(answer.text)}; lower --max-tokens"
        )

    async def _ask(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> Answer:
        advice = "what was finished is kept, so see to the server and start again"
        return await self._server.ask(client, "/chat/completions", body, advice=advice)

    def _refusal(self, answer: Answer) -> ConfigError | RequestFailed:
        """What is to be said of a request that will never be answered."""
        advice = {
            401: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            403: f"set the key in {KEY_NAME}, or name its variable with --api-key-env",
            404: "check the URL, which often ends in /v1, and the name given as --model-name",
        }.get(answer.status, "mend the request")
        what = (
            f"the server at {self.url} refuses a request with status {answer.status}: {excerpt(answer.text)}"
        )
        if answer.status < 400 or answer.status in NOT_OF_A_REQUEST:
            return ConfigError(f"{what}; {advice}")
        return RequestFailed(ConfigError, what, f"; {advice}")

    async def _adapted_model(self, client: httpx2.AsyncClient, adapter: str) -> str:
        """What the server calls the model with an adapter, as vLLM does with those that it has loaded."""
        if adapter not in self._listed:
            self._listed = await self._models(client)
        if adapter not in self._listed:
            shown = ", ".join(self._listed[:5]) or "none"
            raise ConfigError(
                f"the server at {self.url} lists no model '{adapter}' for the adapter of that name; it has "
                f"{shown}.{did_you_mean(adapter, self._listed)} Load the adapter there, or leave it out"
            )
        return adapter

    async def _only_model(self) -> str:
        """The name of the server's only model."""
        async with self._server.connect(1) as client:
            names = await self._models(client)
        if len(names) != 1:
            shown = ", ".join(names[:5]) or "none"
            raise ConfigError(
                f"the server at {self.url} has {len(names)} models ({shown}); name one with --model-name"
            )
        return names[0]

    async def _models(self, client: httpx2.AsyncClient) -> list[str]:
        """The names of the server's models."""
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
    """Wait for something asynchronous, also where a notebook's own loop is running."""
    with ThreadPoolExecutor(1, thread_name_prefix="smidgen-http") as pool:
        return pool.submit(asyncio.run, work).result()

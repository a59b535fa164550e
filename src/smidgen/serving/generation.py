"""`/v1/chat/completions` and `/v1/completions`: from a body to requests of the engine, and back."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.inference import Event
from smidgen.serving.answers import Head, reason_of, usage_of
from smidgen.serving.bodies import (
    ChatBody,
    CommonBody,
    CompletionBody,
    ObjectFormat,
    SchemaFormat,
    read_body,
)
from smidgen.serving.dialects import ChatDialect, Dialect, TextDialect
from smidgen.serving.faults import ApiError
from smidgen.serving.jobs import Answers
from smidgen.serving.request_facts import RequestFacts, facts_of
from smidgen.serving.service import Service

_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})
Found = TypeVar("Found")
PING = 15
"""Seconds between the comments that keep a silent stream open."""
SLOWEST_READER = 60
"""Seconds that a client may take to read a chunk before it is given up."""


@dataclass(frozen=True)
class Exchange:
    """A request of a client and how its answer is written.

    Attributes:
        dialect: the endpoint's way of writing.
        head: what the answer and every chunk begin with.
        requests: requests to the engine, the choices of a prompt in a row.
        num_prompts: number of prompts.
        logprobs: whether the answer has log-probabilities.
        has_usage: whether a stream ends with the numbers of tokens.
    """

    dialect: Dialect
    head: Head
    requests: list[Request]
    num_prompts: int
    logprobs: bool
    has_usage: bool

    def logprobs_of(self, completion: Completion, service: Service) -> Any:
        """Return the log-probabilities of a completion if they are wanted."""
        return self.dialect.logprobs(completion, service.tokenizer) if self.logprobs else None


class ChunkStream(EventSourceResponse):
    """Chunks as server-sent events; whatever ends the response frees the places of unfinished answers."""

    def __init__(self, chunks: AsyncIterator[bytes], answers: Answers):
        super().__init__(chunks, ping=PING, sep="\n", send_timeout=SLOWEST_READER)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with self._answers:
            await super().__call__(scope, receive, send)


async def chat(service: Service, request: HttpRequest) -> Response:
    """Answer `/v1/chat/completions`."""
    body = await read_body(request, ChatBody)
    _check_thinking(service, body)
    messages = tuple(
        Message("system" if turn.role == "developer" else turn.role, turn.text) for turn in body.messages
    )
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(
            400,
            "max_tokens and max_completion_tokens are both given; leave max_tokens out",
            param="max_tokens",
        )
    max_tokens = body.max_completion_tokens or body.max_tokens
    exchange = _exchange(
        service, body, ChatDialect(), [messages], max_tokens=max_tokens, constraint=_constraint_of(body)
    )
    return await _respond(service, request, body, exchange, body.user or body.safety_identifier)


async def complete(service: Service, request: HttpRequest) -> Response:
    """Answer `/v1/completions`."""
    body = await read_body(request, CompletionBody)
    prompts = [(Message("text", prompt),) for prompt in body.prompts]
    exchange = _exchange(service, body, TextDialect(), prompts, max_tokens=body.max_tokens)
    return await _respond(service, request, body, exchange, body.user)


def _exchange(
    service: Service,
    body: ChatBody | CompletionBody,
    dialect: Dialect,
    prompts: list[tuple[Message, ...]],
    *,
    max_tokens: int | None,
    constraint: Constraint | None = None,
) -> Exchange:
    """Return the requests to the engine.

    The numbers of choices are the ids of their samples, so that each has random numbers of its own and the
    same ones with the same seed.
    """
    adapter = service.names.adapter_of(body.model)
    if body.stream_options is not None and not body.stream:
        raise ApiError(
            400, "stream_options is only for streams; set stream, or leave it out", param="stream_options"
        )
    wants = body.logprobs is not None and body.logprobs is not False
    top = body.top_logprobs if isinstance(body, ChatBody) else body.logprobs
    if top and not wants:
        raise ApiError(
            400, "top_logprobs needs logprobs; set logprobs to true, or leave it out", param="top_logprobs"
        )
    if max_tokens is not None:
        name = "max_tokens" if body.max_tokens == max_tokens else "max_completion_tokens"
        service.settings.check_length(max_tokens, name)
    sampling = _sampling(body, max_tokens or service.settings.max_tokens)
    choices = [messages for messages in prompts for _ in range(body.n or 1)]
    requests = [
        Request(
            Sample(str(i), messages),
            sampling,
            constraint,
            logprobs=wants,
            adapter=adapter,
            top_logprobs=top or 0,
        )
        for i, messages in enumerate(choices)
    ]
    head: Head = {
        "id": f"{dialect.prefix}{secrets.token_hex(12)}",
        "object": dialect.chunk_name if body.stream else dialect.name,
        "created": int(time.time()),
        "model": body.model or service.names.base,
        "system_fingerprint": service.fingerprint,
    }
    has_usage = body.stream_options is not None and body.stream_options.include_usage
    return Exchange(dialect, head, requests, len(prompts), wants, has_usage)


def _sampling(body: CommonBody, max_tokens: int) -> Sampling:
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty")
        if (value := getattr(body, name)) is not None
    }
    seed = secrets.randbits(32) if body.seed is None else body.seed
    return Sampling(max_tokens=max_tokens, stop=body.stops, seed=seed, **given)


def _constraint_of(body: ChatBody) -> Constraint | None:
    """Return the constraint of a response format."""
    form = body.response_format
    if isinstance(form, SchemaFormat):
        constraint = Constraint("json_schema", json.dumps(form.json_schema.schema_))
    elif isinstance(form, ObjectFormat):
        constraint = Constraint("json_schema", '{"type": "object"}')
    else:
        return None
    if body.stops:
        raise ApiError(
            400, "stop would cut off the JSON of response_format; leave one of them out", param="stop"
        )
    return constraint


def _check_thinking(service: Service, body: ChatBody) -> None:
    options = body.chat_template_kwargs
    if options is None or options.enable_thinking in (None, service.settings.thinking):
        return
    how = "with" if service.settings.thinking else "without"
    raise ApiError(
        400,
        f"enable_thinking is {str(options.enable_thinking).lower()}, but this server was started {how} "
        "--thinking; leave it out",
        param="chat_template_kwargs.enable_thinking",
    )


async def _respond(
    service: Service, request: HttpRequest, body: CommonBody, exchange: Exchange, user: str | None
) -> Response:
    """Let the engine answer, until the client leaves."""
    facts = facts_of(request.scope)
    facts.model = exchange.head["model"]
    answers = service.scheduler.enter(
        exchange.requests,
        client_of(request, user),
        stream=bool(body.stream),
        deadline_s=service.settings.deadline_s,
    )
    if body.stream:
        first = await first_event(request, answers)
        return ChunkStream(_chunks(service, exchange, answers, first, facts), answers)
    async with answers:
        completions = await until_gone(request, answers.completions())
    choices = [
        exchange.dialect.choice(i, each, exchange.logprobs_of(each, service))
        for i, each in enumerate(completions)
    ]
    usage = usage_of(completions, exchange.num_prompts)
    facts.end_answer(usage, answers.queue_seconds)
    return JSONResponse({**exchange.head, "choices": choices, "usage": usage})


async def _chunks(
    service: Service, exchange: Exchange, answers: Answers, first: tuple[int, Event], facts: RequestFacts
) -> AsyncIterator[bytes]:
    """Write events as chunks; a fault ends the stream with its error."""
    dialect, completions = exchange.dialect, dict[int, Completion]()
    for index in range(len(exchange.requests)):
        if (opening := dialect.opening(index)) is not None:
            yield _chunk(exchange, [opening])
    each: tuple[int, Event] | None = first
    try:
        while each is not None:
            index, event = each
            if event.piece:
                yield _chunk(exchange, [dialect.piece(index, event.piece)])
            if event.completion is not None:
                completions[index] = event.completion
                logprobs = exchange.logprobs_of(event.completion, service)
                yield _chunk(exchange, [dialect.closing(index, reason_of(event.completion), logprobs)])
            each = await answers.next()
    except ApiError as error:
        facts.note_failure(error, in_stream=True)
        yield data_line(error.to_json())
        return
    usage = usage_of([completions[index] for index in sorted(completions)], exchange.num_prompts)
    facts.end_answer(usage, answers.queue_seconds)
    if exchange.has_usage:
        yield _chunk(exchange, [], usage=usage)
    yield b"data: [DONE]\n\n"


def _chunk(exchange: Exchange, choices: list[Any], **further: Any) -> bytes:
    usage = {"usage": None} if exchange.has_usage else {}
    return data_line({**exchange.head, "choices": choices, **usage, **further})


def data_line(value: Mapping[str, Any]) -> bytes:
    """Write a chunk of a stream, on one line also for clients that know more ends of lines than it does."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return f"data: {text}\n\n".encode()


def client_of(request: HttpRequest, user: str | None = None) -> str:
    """Return who asks, for turns: the holder of a key, else the user that the body names, else an address."""
    known = facts_of(request.scope).client
    if known.startswith("key-"):
        return known
    address = request.client.host if request.client else ""
    return f"user {user}" if user else address


async def first_event(request: HttpRequest, answers: Answers) -> tuple[int, Event]:
    """Wait for the first event of a stream before its response begins, for a failure has a status of its own.

    Raises:
        ApiError: the requests cannot be served; see `Answers.next`.
        ClientDisconnect: the client left.
    """
    try:
        first = await until_gone(request, answers.next())
    except BaseException:
        answers.cancel()
        raise
    assert first is not None
    facts_of(request.scope).begin_answer(answers.queue_seconds)
    return first


async def until_gone(request: HttpRequest, work: Coroutine[Any, Any, Found]) -> Found:
    """Return what work returns; it is cancelled if the client leaves.

    Raises:
        ClientDisconnect: the client left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

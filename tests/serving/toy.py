"""A server whose endpoints need no model: what stands before them is what is tested."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from smidgen.serving.access_log import AccessLog
from smidgen.serving.guard import Guards, observed
from smidgen.serving.metrics import Metrics
from smidgen.serving.request_facts import facts_of
from smidgen.serving.strict_json import read_json_body

MAX_BODY_BYTES = 100_000


class ListedLog(AccessLog):
    """An access log in memory."""

    def __init__(self, *, prompts: bool = False):
        super().__init__(prompts=prompts)
        self.rows: list[dict[str, Any]] = []

    def write(self, **facts: Any) -> None:
        self.rows.append(json.loads(json.dumps(facts)))

    def row(self, is_meant: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The row that is meant, which comes after the last byte of an answer."""
        end = time.monotonic() + 10
        while not (found := [row for row in self.rows if is_meant(row)]):
            assert time.monotonic() < end, self.rows
            time.sleep(0.005)
        return found[-1]

    def row_of(self, response: httpx2.Response) -> dict[str, Any]:
        """The row of a request that was answered."""
        return self.row(lambda row: row.get("id") == response.headers["x-request-id"])


async def echo(request: Request) -> JSONResponse:
    facts, value = facts_of(request.scope), await read_json_body(request)
    facts.texts, facts.prompt_tokens, facts.model = value, 7, "toy"
    return JSONResponse(value)


async def fail(request: Request) -> JSONResponse:
    raise ValueError("the secret text of a prompt")


async def fail_midway(request: Request) -> StreamingResponse:
    async def parts():
        yield "half "
        raise ValueError("the secret text of a prompt")

    return StreamingResponse(parts())


async def health(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def flood(request: Request) -> StreamingResponse:
    return StreamingResponse(iter([b"x" * 2**20] * 64))


def toy(
    guards: Guards | None = None, *, log: AccessLog | None = None, metrics: Metrics | None = None
) -> Starlette:
    """The app: everything that a server has but its endpoints."""
    metrics = metrics or Metrics()
    return Starlette(
        routes=[
            Route("/v1/echo", echo, methods=["POST"]),
            Route("/v1/fail", fail, methods=["POST"]),
            Route("/v1/fail-midway", fail_midway, methods=["POST"]),
            Route("/v1/flood", flood),
            Route("/health", health),
            metrics.route,
        ],
        middleware=observed(guards or Guards(max_body_bytes=MAX_BODY_BYTES), log or ListedLog(), metrics),
    )

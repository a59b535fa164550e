"""The application: the endpoints of OpenAI's protocol, their description, and room for further ones."""

from collections.abc import Sequence
from functools import cache, partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from typing_extensions import TypedDict

from smidgen.serving.answers import ChatAnswer, TextAnswer
from smidgen.serving.bodies import ChatBody, CompletionBody
from smidgen.serving.faults import CLIENT_LEFT, FAILED, INVALID, NOT_FOUND, OVERLOADED, ApiError
from smidgen.serving.generation import chat, complete
from smidgen.serving.names import ModelEntry, ModelList
from smidgen.serving.openapi import Operation, describe, page
from smidgen.serving.request_facts import facts_of
from smidgen.serving.service import Service

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The page of the description has its style in it and needs nothing else."""


class Health(TypedDict):
    """Answer of `/health`."""

    status: str
    model: str
    waiting: int
    running: int


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answers a conversation.",
        ChatBody,
        ChatAnswer,
        '{"messages": [{"role": "user", "content": "Which is better?"}]}',
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continues a text; no chat template is applied.",
        CompletionBody,
        TextAnswer,
        '{"prompt": "The better answer is", "max_tokens": 16}',
    ),
    Operation("get", "/v1/models", "Lists the base model and its adapters.", answer=ModelList),
    Operation("get", "/v1/models/{model}", "Describes one of them.", answer=ModelEntry),
    Operation(
        "get", "/health", "Says whether requests are taken; 503 while the server stops.", answer=Health
    ),
)


def build_app(
    service: Service,
    *,
    routes: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
    operations: Sequence[Operation] = (),
) -> Starlette:
    """Return the application.

    Args:
        service: what is served.
        routes: further endpoints. An `ApiError` that one raises becomes the response.
        middleware: what requests pass through first, the outermost first.
        operations: descriptions of the further endpoints.
    """
    described = [*OPERATIONS, *operations]
    document = cache(lambda: describe(described))  # takes a moment, which no server waits for at its start

    async def models(request: Request) -> Response:
        return JSONResponse(service.names.listing())

    async def model(request: Request) -> Response:
        return JSONResponse(service.names.entry(request.path_params["model"]))

    async def health(request: Request) -> Response:
        scheduler = service.scheduler
        facts: Health = {
            "status": "stopping" if scheduler.is_draining else "ok",
            "model": service.names.base,
            "waiting": scheduler.waiting,
            "running": scheduler.running,
        }
        return JSONResponse(facts, 503 if scheduler.is_draining else 200)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    async def docs(request: Request) -> Response:
        return HTMLResponse(page(document(), described), headers={"content-security-policy": PAGE_POLICY})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", partial(chat, service), methods=["POST"]),
            Route("/v1/completions", partial(complete, service), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/health", health),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
            *routes,
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _left,
            Exception: _failed,
        },
    )


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    facts_of(request.scope).note_failure(error)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    if error.status_code == 404:
        fault = ApiError(404, f"there is nothing at {path}; see /docs for what there is", NOT_FOUND)
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        fault = ApiError(405, f"{path} does not take {request.method}; use {allowed}")
    else:
        kind = OVERLOADED if error.status_code == 503 else INVALID
        fault = ApiError(error.status_code, error.detail, kind)
    fault.headers = error.headers or {}
    return fault.response()


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _failed(request: Request, error: Exception) -> Response:
    return ApiError(500, "the server failed on this request; its log says why", FAILED).response()

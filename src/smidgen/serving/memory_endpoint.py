"""`/v1/memory`: what the server's memory store holds: list, search, and undo.

The store is named when the server is started, never by a request.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from smidgen.errors import UserError, WorkError
from smidgen.files import jsonable
from smidgen.memory import Kind, Memory, Store
from smidgen.serving.bodies import LARGEST_SEED, Part, parse_body, read_body
from smidgen.serving.faults import FAILED, NOT_FOUND, ApiError
from smidgen.serving.openapi import Operation

MOST = 1000
"""Memories, entries or inputs of one answer."""
MOST_QUERY = 10_000
"""Characters of a query; the store looks for its first words only."""


class ListQuery(Part):
    """Query of `GET /v1/memory`."""

    what: Kind = "memories"
    """Memories, entries of the journal, or inputs that are not decided."""
    limit: Annotated[int, Field(ge=1, le=MOST, strict=False)] = 100
    """How many."""
    offset: Annotated[int, Field(ge=0, lt=LARGEST_SEED, strict=False)] = 0
    """How many before them."""


class SearchBody(Part):
    """Body of `/v1/memory/search`."""

    query: Annotated[str, Field(min_length=1, max_length=MOST_QUERY)]
    """Words, a name or a whole sentence, in any language."""
    limit: Annotated[int, Field(ge=1, le=MOST)] = 20
    """How many memories."""


class UndoBody(Part):
    """Body of `/v1/memory/undo`."""

    entry: Annotated[int, Field(ge=1, lt=LARGEST_SEED)]
    """Number of the entry of the journal, whose changes are reversed."""


class Listing(TypedDict):
    """Answer of `GET /v1/memory`."""

    what: str
    total: int
    found: list[dict[str, Any]]


class Found(TypedDict):
    """Answer of `/v1/memory/search`."""

    memories: list[Memory]


class Undone(TypedDict):
    """Answer of `/v1/memory/undo`."""

    undone: int
    entry: int
    memory: str | None


OPERATIONS = (
    Operation(
        "get",
        "/v1/memory",
        "Lists the memories of the store, its journal, or its pending inputs.",
        answer=Listing,
        query=ListQuery,
    ),
    Operation(
        "post",
        "/v1/memory/search",
        "Finds the memories that are most like a text, best first.",
        SearchBody,
        Found,
        '{"query": "Graz"}',
    ),
    Operation(
        "post",
        "/v1/memory/undo",
        "Restores the memories that an entry of the journal changed; the undo can be undone too.",
        UndoBody,
        Undone,
        '{"entry": 3}',
    ),
)


@dataclass(frozen=True)
class Memories:
    """The store of a server, or None if it was started without one."""

    store: Store | None = None

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route("/v1/memory", partial(_list, self), methods=["GET"]),
            Route("/v1/memory/search", partial(_search, self), methods=["POST"]),
            Route("/v1/memory/undo", partial(_undo, self), methods=["POST"]),
        ]

    async def use(self, work: Any, *arguments: Any) -> Any:
        """Call a method of the store in a thread.

        Raises:
            ApiError: 404, there is no store; 409, what is asked for cannot be; 503, the store is unavailable.
        """
        if self.store is None:
            raise ApiError(
                404,
                "the server has no memory store; start it with --store memory.db",
                NOT_FOUND,
                code="no_store",
            )
        try:
            return await anyio.to_thread.run_sync(work, self.store, *arguments)
        except UserError as error:
            raise ApiError(409, _without_folder(error, self.store)) from None
        except WorkError as error:
            raise unavailable(error, self.store) from None


def unavailable(error: WorkError, store: Store) -> ApiError:
    """Return the error for clients of a store that cannot be read or written."""
    return ApiError(503, _without_folder(error, store), FAILED, code="store_unavailable")


def _without_folder(error: Exception, store: Store) -> str:
    """Return what an error says, but not where the store is, which is no business of clients."""
    return str(error).replace(str(store.path), store.path.name)


async def _list(memories: Memories, request: HttpRequest) -> Response:
    """Answer `GET /v1/memory`."""
    given = dict(request.query_params)
    if len(given) < len(request.query_params.multi_items()):
        raise ApiError(400, "a field of the query is given twice; give it once")
    query = parse_body(given, ListQuery)
    page = await memories.use(partial(Store.page, what=query.what, limit=query.limit, offset=query.offset))
    found = [jsonable(asdict(each)) for each in page.found]
    return JSONResponse({"what": query.what, "total": page.total, "found": found})


async def _search(memories: Memories, request: HttpRequest) -> Response:
    """Answer `/v1/memory/search`."""
    body = await read_body(request, SearchBody)
    found = await memories.use(Store.search, body.query, body.limit)
    return JSONResponse({"memories": [asdict(each) for each in found]})


async def _undo(memories: Memories, request: HttpRequest) -> Response:
    """Answer `/v1/memory/undo`."""
    body = await read_body(request, UndoBody)
    undone = await memories.use(Store.undo, body.entry)
    return JSONResponse({"undone": body.entry, "entry": undone.entry, "memory": undone.memory})

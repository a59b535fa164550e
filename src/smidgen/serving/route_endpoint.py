"""`/v1/route`: decisions of a memory router on a text or a fact; with a store, they are applied to it.

Bodies are the lines of `smidgen route`, and so are the answers. The `id` of a text makes it safe to send it
again after an answer that was lost: with a store, an input is journaled first and decided once.
"""

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NotRequired
from uuid import uuid4

import anyio.to_thread
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

from smidgen.data.memories import IntentOffer
from smidgen.errors import UserError, WorkError
from smidgen.memory import Store
from smidgen.memory.store import MAX_INPUT_ID
from smidgen.options import EngineOptions
from smidgen.router import Router
from smidgen.router.lines import Line, question_of
from smidgen.router.questions import MemorizeQuestion
from smidgen.router.router import BUDGET
from smidgen.router.stream import Routed
from smidgen.serving.bodies import Part, read_body
from smidgen.serving.faults import FAILED, ApiError
from smidgen.serving.jobs import overloaded
from smidgen.serving.memory_endpoint import unavailable
from smidgen.serving.openapi import Operation
from smidgen.serving.request_facts import facts_of
from smidgen.serving.scheduled import ScheduledSessions
from smidgen.serving.scheduler import STOPPING
from smidgen.serving.service import Service
from smidgen.serving.stored_routes import StoredRoutes

CLIENT = "router"
"""Who the router is among the clients of the scheduler."""
MOST_UNSETTLED = 256
"""Questions without a final outcome; the router drops none, so that further ones are refused."""
MOST_CANDIDATES, MOST_INTENTS = 64, 512
STATUS = {"deferred": 202}
"""HTTP statuses of outcomes; that of all others is 200."""


class CandidateBody(Part):
    """A stored memory to compare a fact with."""

    id: str
    text: str


class IntentBody(Part):
    """An intent to choose."""

    name: str
    description: str = ""


class RouteBody(Part):
    """Body of `/v1/route`: a text to remember or not, a text with intents, or a fact with candidates."""

    task: Literal["memorize", "classify", "arbitrate"] | None = None
    """Which question is meant; told by the other fields if left out."""
    id: Annotated[str, Field(min_length=1, max_length=MAX_INPUT_ID)] | None = None
    """The client's own id of this input; the same text under the same id is decided once."""
    text: str | None = None
    """What was said."""
    intents: Annotated[list[str | IntentBody], Field(max_length=MOST_INTENTS)] | None = None
    """What `classify` chooses from; those of the server if left out."""
    fact: str | None = None
    """What is known now."""
    candidates: Annotated[list[CandidateBody], Field(max_length=MOST_CANDIDATES)] | None = None
    """Stored memories that the fact could be about."""


class RouteAnswer(TypedDict):
    """Answer of `/v1/route`, a line of `smidgen route --json`."""

    id: str
    status: Literal["decided", "deferred", "failed", "known"]
    decisions: list[dict[str, str]]
    task: NotRequired[str]
    seconds: NotRequired[float]
    attempts: NotRequired[int]
    reason: NotRequired[str]
    note: NotRequired[str]
    stored: NotRequired[dict[str, Any]]


OPERATIONS = (
    Operation(
        "post",
        "/v1/route",
        "Decides whether a text is worth remembering, what it means, or what a fact changes. With a store, "
        "texts are journaled, decided once and applied; status 202 says that the decision comes later.",
        RouteBody,
        RouteAnswer,
        '{"text": "My sister moved to Graz in May.", "id": "message-81"}',
    ),
)


@dataclass(frozen=True)
class RouterSettings:
    """The router of a server.

    Attributes:
        model: the served model that decides; the base model if None.
        budget: seconds after which a question is deferred.
        intents: what `classify` chooses from where a request does not say.
    """

    model: str | None = None
    budget: float = BUDGET
    intents: Sequence[IntentOffer] = ()


class Routes:
    """The router of a server and its store; `open` it in the event loop.

    Attributes:
        name: the served model that decides.
        intents: what `classify` chooses from where a request does not say.
    """

    def __init__(self, service: Service, store: Store | None = None, settings: RouterSettings | None = None):
        """Prepare a router on the server's engine."""
        self._service, self._store = service, store
        self._settings = settings or RouterSettings()
        self.name = self._settings.model or service.names.base
        self.intents = tuple(self._settings.intents)
        self._router: Router | None = None
        self._stored: StoredRoutes | None = None
        self._opening = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [Route("/v1/route", partial(_route, self), methods=["POST"])]

    async def open(self) -> Router:
        """Warm the router up once, and go on with what is pending in the store; return it.

        Raises:
            ModelError: the model does not decide.
        """
        async with self._opening:
            if self._router is None:
                loop = asyncio.get_running_loop()
                sessions = ScheduledSessions(self._service.scheduler, CLIENT, loop)
                adapter = self._service.names.adapter_of(self.name)
                self._router = await anyio.to_thread.run_sync(
                    lambda: Router(
                        EngineOptions(self.name, adapter=adapter),
                        budget=self._settings.budget,
                        intents=self._settings.intents,
                        sessions=sessions,
                    )
                )
                if self._store is not None:
                    self._stored = StoredRoutes(self._router, self._store)
        return self._router

    def close(self) -> None:
        """End the router; what it has not decided stays pending in the store."""
        if self._stored is not None:
            self._stored.close()
        if self._router is not None:
            self._router.close()

    async def answer(self, line: Line) -> Routed:
        """Ask the router, through the store if there is one and the line is a text.

        Raises:
            ApiError: 409, the id is that of another text; 429, too many questions have no outcome; 500, the
                model does not decide; 503, the store cannot be written, or the server stops; 504, there is
                no decision within the budget, and no store to keep it.
        """
        if self._service.scheduler.is_draining:  # before anything is journaled that could not be decided
            raise overloaded(503, STOPPING)
        try:
            router = await self.open()
        except UserError as error:
            raise ApiError(500, str(error), FAILED) from None
        if router.num_unsettled >= MOST_UNSETTLED:
            raise overloaded(429, "the router has too many open questions; ask again in a moment")
        assert line.question is not None
        if self._stored is not None and isinstance(line.question, MemorizeQuestion):
            return await self._stored_answer(self._stored.submit(line.id, line.question.text))
        outcome = await asyncio.wrap_future(router.submit(line.question))
        if outcome.status == "deferred":
            raise ApiError(
                504, f"{outcome.reason.partition(';')[0]}; ask again later", FAILED, code="deferred"
            )
        return Routed(line, outcome, () if outcome.decision is None else (outcome.decision,))

    async def _stored_answer(self, future: "Future[Routed]") -> Routed:
        try:
            routed = await asyncio.wrap_future(future)
        except WorkError as error:
            assert self._store is not None
            raise unavailable(error, self._store) from None
        if routed.line.fault:
            fault = re.sub(r"^line \d+: ", "", routed.line.fault)
            raise ApiError(409, fault, param="id", code="input_conflict")
        return routed

    async def decided_before(self, input_id: str) -> dict[str, Any]:
        """Return what was decided on an input that was known."""
        assert self._store is not None
        entry = await anyio.to_thread.run_sync(self._store.decided, input_id)
        if entry is None:
            return {}
        decisions = [{k: v for k, v in each.items() if v is not None} for each in entry.body["decisions"]]
        return {"decisions": decisions, "stored": {"state": "already", "entry": entry.number}}


async def _route(routes: Routes, request: HttpRequest) -> Response:
    """Answer `/v1/route`."""
    body = await read_body(request, RouteBody)
    _check_fields(body)
    facts_of(request.scope).model = routes.name
    row = body.model_dump(exclude_none=True)
    try:
        question = question_of(row, routes.intents)
    except UserError as error:
        raise ApiError(400, f"the body: {error}") from None
    line = Line(1, body.id or uuid4().hex, question)
    routed = await routes.answer(line)
    answer = routed.to_json() | {"id": line.id}
    del answer["line"]
    if routed.status == "known":
        answer |= await routes.decided_before(line.id)
    return JSONResponse(answer, STATUS.get(routed.status, 200))


def _check_fields(body: RouteBody) -> None:
    """Refuse fields that the question would not use."""
    if (body.text is None) == (body.fact is None):
        raise ApiError(400, "the body needs a text or a fact, and only one of them", param="text")
    if body.fact is None and body.candidates is not None:
        raise ApiError(400, "candidates go with a fact, not with a text; leave them out", param="candidates")
    is_classified = body.task == "classify" or (body.task is None and body.fact is None)
    if body.intents is not None and not is_classified:
        raise ApiError(400, "intents go with a text to classify; leave them out", param="intents")
    if body.task is not None and (body.fact is None) == (body.task == "arbitrate"):
        raise ApiError(400, "the task arbitrate goes with a fact, the others with a text", param="task")

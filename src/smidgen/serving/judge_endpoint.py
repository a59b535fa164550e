"""`/v1/judge`: compares a pair of answers in both orders, grades an answer, or ranks several.

The answers are what `smidgen judge --json` and `smidgen.Judge` give. A template is chosen by name only: no
path that a request names is opened.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smidgen.data.types import Completion, Request
from smidgen.errors import UserError
from smidgen.files import jsonable
from smidgen.inference import Event
from smidgen.judge import Compared, Graded, Judge, Ranked
from smidgen.judge.judging import Answers, Judging, finished, piece_of
from smidgen.options import JudgeOptions, SamplingOptions
from smidgen.serving import jobs
from smidgen.serving.answers import usage_of
from smidgen.serving.bodies import LARGEST_SEED, Part, read_body
from smidgen.serving.faults import ApiError
from smidgen.serving.generation import ChunkStream, client_of, data_line, first_event, until_gone
from smidgen.serving.openapi import Operation
from smidgen.serving.request_facts import RequestFacts, facts_of
from smidgen.serving.service import Service

MOST_SAMPLES, MOST_ANSWERS = 16, 10
MOST_JUDGEMENTS = 128
"""Judgements of one request; of ten answers, 45 pairs in both orders are 90."""


class JudgingBody(Part):
    """What all requests for judgements share."""

    model: str | None = None
    """A name of `/v1/models`; the server's judge if left out."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    """Judgements of each order, or of each answer; more than one need a temperature above 0."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of a judgement in tokens; the default of `smidgen judge` if left out."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] = 0
    """The same seed gives the same judgements."""
    reference: str | None = None
    """A right answer that the judge is shown."""
    user: str | None = None
    """Who asks, if the server takes no keys: those who wait are served in turn."""


class CompareBody(JudgingBody):
    """Body of `/v1/judge`."""

    prompt: str
    """The question."""
    a: str
    """One answer."""
    b: str
    """The other one."""
    template: Literal["rubric", "scores", "verdict"] | None = None
    """How the judge is asked; as the server was started if left out."""
    stream: bool = False
    """Whether the judgements come as they are generated, as the lines of `smidgen judge --stream` do."""


class RankBody(JudgingBody):
    """Body of `/v1/judge/rank`."""

    prompt: str
    """The question."""
    answers: Annotated[list[str], Field(min_length=2, max_length=MOST_ANSWERS)]
    """The answers; every pair of them is compared in both orders."""
    template: Literal["rubric", "scores", "verdict"] | None = None
    """How the judge is asked; as the server was started if left out."""


class GradeBody(JudgingBody):
    """Body of `/v1/judge/grade`."""

    prompt: str
    """The question."""
    answer: str
    """The answer."""
    rubric: str | None = None
    """A question and the meaning of each grade from 1 to 5; a general one if left out."""


OPERATIONS = (
    Operation(
        "post",
        "/v1/judge",
        "Compares two answers in both orders.",
        CompareBody,
        Compared,
        '{"prompt": "What is 23 + 48?", "a": "71", "b": "72"}',
    ),
    Operation(
        "post",
        "/v1/judge/grade",
        "Grades one answer from 1 to 5.",
        GradeBody,
        Graded,
        '{"prompt": "What is 23 + 48?", "answer": "71"}',
    ),
    Operation(
        "post",
        "/v1/judge/rank",
        "Ranks several answers by comparing all pairs of them.",
        RankBody,
        Ranked,
        '{"prompt": "What is 23 + 48?", "answers": ["71", "72", "70"]}',
    ),
)


@dataclass(frozen=True)
class Judges:
    """The judges of a server.

    Attributes:
        service: what runs them.
        model: the served model that judges unless a request names another; the base model if None.
        template: the template unless a request names another: a name, or a TOML file of the server's owner.
    """

    service: Service
    model: str | None = None
    template: str | None = None

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [
            Route("/v1/judge", partial(_compare, self), methods=["POST"]),
            Route("/v1/judge/grade", partial(_grade, self), methods=["POST"]),
            Route("/v1/judge/rank", partial(_rank, self), methods=["POST"]),
        ]


async def _compare(judges: Judges, request: HttpRequest) -> Response:
    """Answer `/v1/judge`."""
    body = await read_body(request, CompareBody)

    def begin(judge: Judge) -> Judging[Compared]:
        return judge.comparing(body.prompt, body.a, body.b, reference=body.reference)

    if body.stream and body.samples > 1:
        raise ApiError(
            400,
            f"stream shows one judgement of each order, but samples is {body.samples}; leave one of them out",
            param="stream",
        )
    options = JudgeOptions(body.template or judges.template, samples=body.samples)
    return await _judged(judges, request, body, options, begin, stream=body.stream)


async def _grade(judges: Judges, request: HttpRequest) -> Response:
    """Answer `/v1/judge/grade`."""
    body = await read_body(request, GradeBody)

    def begin(judge: Judge) -> Judging[Graded]:
        return judge.grading(body.prompt, body.answer, reference=body.reference)

    options = JudgeOptions("grade", rubric=body.rubric, samples=body.samples)
    return await _judged(judges, request, body, options, begin)


async def _rank(judges: Judges, request: HttpRequest) -> Response:
    """Answer `/v1/judge/rank`."""
    body = await read_body(request, RankBody)

    def begin(judge: Judge) -> Judging[Ranked]:
        return judge.ranking(body.prompt, body.answers, reference=body.reference)

    options = JudgeOptions(body.template or judges.template, samples=body.samples)
    return await _judged(judges, request, body, options, begin)


async def _judged(
    judges: Judges,
    request: HttpRequest,
    body: JudgingBody,
    options: JudgeOptions,
    begin: Callable[[Judge], Judging[Any]],
    *,
    stream: bool = False,
) -> Response:
    """Let the engine make the judgements of a request, until the client leaves."""
    service, facts = judges.service, facts_of(request.scope)
    model = body.model or judges.model or service.names.base
    adapter = service.names.adapter_of(model)
    facts.model = model  # known now, so that no stranger names what is logged
    max_tokens = body.max_tokens or min(SamplingOptions.max_tokens, service.settings.most_tokens)
    service.settings.check_length(max_tokens, "max_tokens")
    try:
        sampling = SamplingOptions(max_tokens, body.temperature, body.seed)
        work = begin(Judge(judging=options, sampling=sampling))
        requests = [replace(each, adapter=adapter) for each in next(work)]
    except UserError as error:
        raise ApiError(400, str(error)) from None
    if len(requests) > MOST_JUDGEMENTS:
        raise ApiError(
            400,
            f"the request needs {len(requests)} judgements; expected {MOST_JUDGEMENTS} at most, so ask for "
            "fewer samples or answers",
            param="samples",
        )
    started = time.perf_counter()
    answers = service.scheduler.enter(
        requests, client_of(request, body.user), stream=stream, deadline_s=service.settings.deadline_s
    )

    def end(completions: list[Completion]) -> dict[str, Any]:
        facts.end_answer(usage_of(completions, len(completions)), answers.queue_seconds)
        try:
            found = finished(work, Answers(completions, time.perf_counter() - started))
        except UserError as error:
            raise ApiError(400, str(error)) from None
        return jsonable(asdict(found))

    if stream:
        first = await first_event(request, answers)
        return ChunkStream(_pieces(requests, answers, first, facts, end), answers)
    async with answers:
        completions = await until_gone(request, answers.completions())
    return JSONResponse(end(completions))


async def _pieces(
    requests: list[Request],
    answers: jobs.Answers,
    first: tuple[int, Event],
    facts: RequestFacts,
    end: Callable[[list[Completion]], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """Write the judgements of a pair as they are generated, and then what they add up to."""
    completions: dict[int, Completion] = {}
    each: tuple[int, Event] | None = first
    try:
        while each is not None:
            index, event = each
            if event.piece:
                yield data_line(asdict(piece_of(requests[index], event.piece)))
            if event.completion is not None:
                completions[index] = event.completion
            each = await answers.next()
        yield data_line(end([completions[index] for index in sorted(completions)]))
    except ApiError as error:
        facts.note_failure(error, in_stream=True)
        yield data_line(error.to_json())
        return
    yield b"data: [DONE]\n\n"

"""The studio's routes: files, recipes, jobs, runs and comparisons, as JSON and as streams of events."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from smidgen.errors import ConfigError, DataError, SmidgenError, UserError
from smidgen.files import atomic_file
from smidgen.studio import recipes, run_folders
from smidgen.studio.commands import Command, command, question, recipe_command
from smidgen.studio.comparison import compared_rows
from smidgen.studio.jobs import Job, Jobs
from smidgen.studio.loaded import LoadedModels
from smidgen.studio.security import REPORT_POLICY, Guard
from smidgen.studio.workspace import ROW_ENDINGS, STORE_ENDINGS, Workspace

STATIC = Path(__file__).parent / "static"
MOST_UPLOADED = 4 * 2**30
MOST_POSTED = 2**20
"""Bytes of a dropped file and of any other request."""
ASKED = frozenset({"check", "show", "split", "compare", "memory", "plan"})
"""Commands that are short: their result is the answer to the request. The others are followed as jobs."""


class Studio:
    """The routes of one workspace."""

    def __init__(self, workspace: Workspace, jobs: Jobs) -> None:
        self.workspace, self.jobs, self.models = workspace, jobs, LoadedModels(jobs)
        self._starting = asyncio.Lock()  # or two pages start the same run at once

    def routes(self) -> list[Route | Mount]:
        """Return every route."""
        return [
            Route("/", self.page),
            Route("/api/workspace", self.overview),
            Route("/api/files/{name:path}", self.upload, methods=["PUT"]),
            Route("/api/schema", self.schema),
            Route("/api/recipe", self.recipe, methods=["GET", "POST"]),
            Route("/api/recipe/run", self.run_recipe, methods=["POST"]),
            Route("/api/recipe/{kind:str}", self.about_recipe, methods=["POST"]),
            Route("/api/commands/{kind:str}", self.start, methods=["POST"]),
            Route("/api/questions/{kind:str}", self.ask, methods=["POST"]),
            Route("/api/jobs", self.list_jobs),
            Route("/api/jobs/{id:str}/events", self.follow_job),
            Route("/api/jobs/{id:str}/stop", self.stop_job, methods=["POST"]),
            Route("/api/runs", self.list_runs),
            Route("/api/runs/{name:str}", self.run),
            Route("/api/runs/{name:str}/events", self.follow_run),
            Route("/api/runs/{name:str}/resume", self.resume, methods=["POST"]),
            Route("/api/runs/{name:str}/stop", self.stop, methods=["POST"]),
            Route("/api/runs/{name:str}/report.json", self.report),
            Route("/api/runs/{name:str}/report.html", self.report_page),
            Route("/api/compare", self.compare),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(STATIC / "index.html")

    async def overview(self, request: Request) -> Response:
        """What there is in the workspace."""
        return JSONResponse(await run_in_threadpool(self._overview))

    def _overview(self) -> dict[str, Any]:
        space = self.workspace
        tables = [file for file in space.files((".toml",)) if recipes.is_recipe(space.root / file.path)]
        return {
            "name": space.root.name,
            "rows": [file._asdict() for file in space.files(ROW_ENDINGS)],
            "recipes": [file._asdict() for file in tables],
            "stores": [file._asdict() for file in space.files(STORE_ENDINGS)],
            "runs": self._runs(),
        }

    async def upload(self, request: Request) -> Response:
        """Write a dropped file into the workspace, under a free name."""
        place = self.workspace.free_name(request.path_params["name"])
        if not place.name.lower().endswith(ROW_ENDINGS):
            raise DataError(f"{place.name} is not a file of rows; expected {', '.join(ROW_ENDINGS)}")
        size = 0
        with atomic_file(place) as partial, partial.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_UPLOADED:
                    raise DataError(f"{place.name} is larger than {MOST_UPLOADED:,} bytes; copy it by hand")
                file.write(chunk)
            if not size:
                raise DataError(f"{place.name} is empty; expected rows")
        return JSONResponse({"path": self.workspace.relative(place), "bytes": size}, 201)

    async def schema(self, request: Request) -> Response:
        """The schema of recipes by method, and recipes to start from."""
        return JSONResponse({"methods": recipes.schemas(), "starters": recipes.STARTERS})

    async def recipe(self, request: Request) -> Response:
        """A recipe as values and as TOML: of a file, of values, or of a text."""
        if request.method == "GET":
            file = self.workspace.file(request.query_params.get("file", ""))
            return JSONResponse(recipes.read_text(file.read_text(encoding="utf-8-sig")))
        given = await _posted(request)
        if "values" in given:
            return JSONResponse(recipes.described(dict(given["values"])))
        return JSONResponse(recipes.read_text(str(given.get("toml", ""))))

    async def about_recipe(self, request: Request) -> Response:
        """What the recipe that is being written takes (`plan`), or what is in its rows (`check`, `show`)."""
        kind, given = request.path_params["kind"], await _posted(request)
        if kind not in ("plan", "check", "show"):
            raise DataError(f"nothing is known about a recipe's '{kind[:40]}'; expected plan, check or show")
        with self.workspace.draft(str(given.get("toml", ""))) as file:
            name = self.workspace.relative(file)
            answer = await self._asked(request, recipe_command(kind, "recipe", name))
        return JSONResponse(
            answer | {"error": answer["error"] and answer["error"].replace(name, "the recipe")}
        )

    async def run_recipe(self, request: Request) -> Response:
        """Save a recipe in the workspace and start its run."""
        given = await _posted(request)
        text = str(given.get("toml", ""))
        about = recipes.read_text(text)
        if about["error"]:
            raise ConfigError(about["error"])
        file = self.workspace.path(str(given.get("file") or f"{about['name']}.toml"))
        if file.suffix != ".toml":
            raise DataError(f"'{file.name}' is not the name of a recipe; expected one that ends in .toml")
        name, path = about["name"], self.workspace.relative(file)
        async with self._starting:
            self._refuse_running(name)
            recipes.save(file, text, replace=bool(given.get("replace")))
            await self.models.unload()
            job = await self.jobs.start(*recipe_command("run", name, path))
        return JSONResponse({"name": name, "file": path, "job": job.summary()}, 201)

    async def resume(self, request: Request) -> Response:
        """Start a run again with the recipe that it was started with; it goes on where it was stopped."""
        name = request.path_params["name"]
        folder = run_folders.run_folder(self.workspace, name)
        if not (folder / "config.toml").is_file():
            raise DataError(f"the run '{name}' has no config.toml to go on with; start its recipe again")
        path = self.workspace.relative(folder / "config.toml")
        async with self._starting:
            self._refuse_running(name)
            await self.models.unload()
            job = await self.jobs.start(*recipe_command("run", name, path))
        return JSONResponse({"name": name, "job": job.summary()}, 201)

    async def stop(self, request: Request) -> Response:
        """Interrupt a run, wherever it was started, as Ctrl-C does in a terminal."""
        name = request.path_params["name"]
        if (job := self.jobs.running("run", name)) is not None:
            self.jobs.stop(job)
        elif not run_folders.interrupt(run_folders.run_folder(self.workspace, name)):
            raise DataError(f"the run '{name}' is not going on; there is nothing to stop")
        return JSONResponse({"name": name}, 202)

    async def start(self, request: Request) -> Response:
        """Start a command; the answer is its result if it is short, else its job."""
        found = command(self.workspace, request.path_params["kind"], await _posted(request))
        if found.kind in ASKED:
            return JSONResponse(await self._asked(request, found))
        await self.models.unload()  # the command loads a model of its own
        return JSONResponse((await self.jobs.start(*found)).summary(), 201)

    async def ask(self, request: Request) -> Response:
        """Ask a model that stays loaded; the answer comes as it is generated, and ends with the request."""
        asked = question(self.workspace, request.path_params["kind"], await _posted(request))
        return _stream(self.models.ask(asked))

    async def list_jobs(self, request: Request) -> Response:
        """Every job, the newest first."""
        return JSONResponse([job.summary() for job in self.jobs.all()])

    async def follow_job(self, request: Request) -> Response:
        """What a job prints, as it comes."""
        return _stream(self.jobs.find(request.path_params["id"]).follow())

    async def stop_job(self, request: Request) -> Response:
        """Interrupt a command; it is stopped when its state says so."""
        job = self.jobs.find(request.path_params["id"])
        self.jobs.stop(job)
        return JSONResponse(job.summary(), 202)

    async def list_runs(self, request: Request) -> Response:
        """Every run folder."""
        return JSONResponse(await run_in_threadpool(self._runs))

    async def run(self, request: Request) -> Response:
        """One run, or what is known of one that has no folder yet."""
        name = request.path_params["name"]
        job = self._first_job(name)
        if job is not None and not (self.workspace.runs / name).is_dir():
            return JSONResponse(
                {"name": name, "state": job.state, "job": job.summary()} | run_folders.NOTHING
            )
        return JSONResponse(run_folders.summary(self.workspace, self.jobs, name))

    async def follow_run(self, request: Request) -> Response:
        """What a run writes, as it comes, and its state whenever that changes."""
        name = request.path_params["name"]
        folder = self.workspace.path(f"runs/{name}")
        return _stream(run_folders.follow(folder, run_folders.Going(folder, self.jobs, name)))

    async def report(self, request: Request) -> Response:
        """The report of a run as data."""
        return JSONResponse(run_folders.report_of(self.workspace, request.path_params["name"]))

    async def report_page(self, request: Request) -> Response:
        """The report of a run as a page, for a frame that may do nothing."""
        folder = run_folders.run_folder(self.workspace, request.path_params["name"])
        file = self.workspace.file(self.workspace.relative(folder / "report.html"))
        return FileResponse(file, headers={"content-security-policy": REPORT_POLICY})

    async def compare(self, request: Request) -> Response:
        """Two evaluations row by row."""
        given = request.query_params
        places = [
            run_folders.evaluation_folder(self.workspace, given.get(key, "")) for key in ("first", "second")
        ]
        skip = given.get("skip", "0")
        if not skip.isdecimal():
            raise DataError(f"'skip' is {skip[:20]!r}; expected a number of rows")
        found = await run_in_threadpool(
            compared_rows, *places, change=given.get("change", "worse"), skip=int(skip)
        )
        return JSONResponse(found)

    async def _asked(self, request: Request, asked: Command) -> dict[str, Any]:
        """Return what a short command printed; one that found faults prints and fails, too.

        A page that is left, or asks anew, closes its request, and the command ends with it.
        """
        work = asyncio.create_task(self.jobs.ask(*asked))
        left = asyncio.create_task(_left(request))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return {"result": None, "error": "nobody waits for the answer any more", "notes": []}
            job = work.result()
            return {"result": job.result, "error": job.error, "notes": [*job.lines]}
        finally:
            for task in (work, left):
                task.cancel()
            await asyncio.gather(work, left, return_exceptions=True)

    def _runs(self) -> list[dict[str, Any]]:
        found = []
        for name in run_folders.run_names(self.workspace):
            with contextlib.suppress(DataError):  # removed since the folder was read
                found.append(run_folders.summary(self.workspace, self.jobs, name))
        return found

    def _first_job(self, name: str) -> Job | None:
        return next((job for job in self.jobs.all() if job.kind == "run" and job.subject == name), None)

    def _refuse_running(self, name: str) -> None:
        folder = self.workspace.path(f"runs/{name}")
        if run_folders.Going(folder, self.jobs, name)():
            raise ConfigError(f"the run '{name}' is going on; stop it first, or give the recipe another name")


def make_app(workspace: Workspace, token: str, jobs: Jobs) -> Guard:
    """Return the application of a workspace; every request needs the token.

    Args:
        workspace: the folder to work in.
        token: what the address of the page ends with; see `security.Guard`.
        jobs: how commands are started; those that still run are stopped at the end.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await jobs.close()

    studio = Studio(workspace, jobs)
    faults = {SmidgenError: _fault, OSError: _fault}
    return Guard(Starlette(routes=studio.routes(), lifespan=lifespan, exception_handlers=faults), token)


async def _fault(request: Request, error: Exception) -> Response:
    """Answer with the sentence of an error."""
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        return JSONResponse({"error": f"{os.path.basename(error.filename or 'a file')}: {reason}"}, 500)
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, UserError) else 500)


async def _left(request: Request) -> None:
    """Wait until the browser has closed a request, whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _posted(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        DataError: it is too large, or not a JSON object.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_POSTED:
            raise DataError(f"the request is larger than {MOST_POSTED:,} bytes; shorten the texts")
    try:
        given = json.loads(body or b"{}")
    except ValueError:
        given = None
    if not isinstance(given, Mapping):
        raise DataError("the request is not a JSON object; use the studio's own page")
    return dict(given)


def _stream(events: AsyncGenerator[Mapping[str, Any], None]) -> Response:
    """Send events as they come; the last one tells the browser not to connect again."""

    async def sent() -> AsyncIterator[dict[str, str]]:
        async with contextlib.aclosing(events):
            async for event in events:
                yield {"data": json.dumps(event)}
        yield {"event": "end", "data": "{}"}

    return EventSourceResponse(sent(), ping=15)

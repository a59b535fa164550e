"""Models that stay loaded between the questions of a page, each in a `smidgen serve` of its own.

The studio runs no model. It starts that server as a child process on a free port of this machine, with a key
that nobody else has, asks it over HTTP, and passes on what it answers. A server ends with the studio; and by
itself once nobody has asked for a while, even if the studio was killed.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from smidgen.errors import SmidgenError, WorkError
from smidgen.studio.commands import IDLE_SECONDS, Question
from smidgen.studio.jobs import Job, Jobs

MOST_LOADED = 2
"""Models that stay loaded at a time; a run that trained a whole model is compared with its base."""
SECONDS_TO_END = 5.0
"""How long a server whose connection broke has to end, and so to say why."""


@dataclass(eq=False)
class Loaded:
    """A model that is loaded, or is being loaded.

    Attributes:
        job: its server.
        key: what the server wants to see with every request.
        changed: when its weights changed last; if they did since, it is another model.
        users: questions that it is answering, or that wait until it is loaded.
        used: when the last of them ended, from `time.monotonic`.
    """

    job: Job
    key: str
    changed: int
    users: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def is_ready(self) -> bool:
        """Whether its server takes questions."""
        return self.job.state == "running" and "\n" in self.job.output

    def can_answer(self, question: Question) -> bool:
        """Whether a question need not load its model anew."""
        is_ending = self.job.state != "running" or self.job.is_stopping
        is_old = not self.users and time.monotonic() - self.used > IDLE_SECONDS
        return not (is_ending or is_old) and self.changed == question.changed

    async def address(self) -> str:
        """Wait until it is loaded, and return the address of its server.

        Raises:
            WorkError: it cannot be loaded, or is not to be any more.
        """
        async with self.job.news:
            await self.job.news.wait_for(lambda: self.is_ready or self.job.state != "running")
        if not self.is_ready:
            raise WorkError(self.job.error or "the model was unloaded before it could answer; ask again")
        return json.loads(self.job.output.partition("\n")[0])["url"]

    async def fault(self) -> WorkError:
        """Return why its server broke off."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.job.finished(), SECONDS_TO_END)
        return WorkError(self.job.error or "the model was unloaded before its answer was complete; ask again")


class LoadedModels:
    """The models of a workspace that stay loaded."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._loaded: dict[tuple[str, ...], Loaded] = {}
        self._choosing = asyncio.Lock()

    async def ask(self, question: Question) -> AsyncGenerator[dict[str, Any], None]:
        """Ask a model; who does not want its answer any more closes this, and the model stops.

        Yields:
            its `state`: `loading`, then `answering`, in the end `done`, or `failed` with an `error`; in
            between every event of the server as an `answer`.
        """
        yield {"state": "loading"}
        try:
            async with self._using(question) as (loaded, address):
                yield {"state": "answering"}
                async with contextlib.aclosing(_events(loaded, address, question)) as events:
                    async for event in events:
                        yield {"answer": event}
            yield {"state": "done"}
        except SmidgenError as error:
            yield {"state": "failed", "error": str(error)}

    async def unload(self) -> None:
        """End the models that nobody is asking, whose memory something else needs."""
        async with self._choosing:
            for arguments, loaded in list(self._loaded.items()):
                if not loaded.users:
                    await self._end(arguments)

    @contextlib.asynccontextmanager
    async def _using(self, question: Question) -> AsyncIterator[tuple[Loaded, str]]:
        """Use the model of a question, loaded, at the address of its server."""
        async with self._choosing:
            loaded = await self._chosen(question)
            loaded.users += 1
        try:
            yield loaded, await loaded.address()
        finally:
            loaded.users -= 1
            loaded.used = time.monotonic()
            is_kept = loaded.is_ready and loaded in self._loaded.values()
            if not (loaded.users or is_kept):  # nobody waits for it any more, or it was replaced
                self._jobs.stop(loaded.job)
            elif len(self._loaded) > MOST_LOADED:  # several were asked at once
                async with self._choosing:
                    await self._make_room(MOST_LOADED)

    async def _chosen(self, question: Question) -> Loaded:
        arguments = question.model.arguments
        found = self._loaded.get(arguments)
        if found is not None and found.can_answer(question):
            return found
        for each in [each for each, loaded in self._loaded.items() if loaded.job.state != "running"]:
            del self._loaded[each]
        if arguments in self._loaded and not self._loaded[arguments].users:
            await self._end(arguments)
        await self._make_room(MOST_LOADED - 1)
        key = secrets.token_urlsafe(32)
        job = await self._jobs.start(*question.model, environment={"SMIDGEN_API_KEYS": key})
        self._loaded[arguments] = Loaded(job, key, question.changed)
        return self._loaded[arguments]

    async def _make_room(self, most: int) -> None:
        """End models that nobody is asking, first the one unused longest, until at most `most` are left."""
        unused = [each for each, loaded in self._loaded.items() if not loaded.users]
        for each in sorted(unused, key=lambda each: self._loaded[each].used):
            if len(self._loaded) > most:
                await self._end(each)

    async def _end(self, arguments: tuple[str, ...]) -> None:
        job = self._loaded.pop(arguments).job
        self._jobs.stop(job)
        await job.finished()


async def _events(loaded: Loaded, address: str, question: Question) -> AsyncGenerator[Any, None]:
    """Ask a server, and yield the events of its answer.

    Raises:
        WorkError: it refuses the question, fails on it, or ends.
    """
    headers = {"authorization": f"Bearer {loaded.key}"}
    wait = httpx2.Timeout(None, connect=10)
    try:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=wait, trust_env=False) as client,
            client.stream("POST", f"{address}{question.path}", json=question.body) as answer,
        ):
            if answer.status_code != 200:
                raise WorkError(json.loads(await answer.aread())["error"]["message"])
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise WorkError(event["error"]["message"])
                    yield event
    except httpx2.TransportError:
        pass
    except ValueError:
        raise WorkError("the model's server sent what cannot be read; ask again") from None
    raise await loaded.fault()

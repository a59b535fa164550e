"""The judge, the router and the memory store of a server: their endpoints, opened and closed together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from starlette.routing import Route

from smidgen.errors import ConfigError, did_you_mean
from smidgen.memory import Store
from smidgen.router.lines import read_intents
from smidgen.serving import judge_endpoint, memory_endpoint, route_endpoint
from smidgen.serving.judge_endpoint import Judges
from smidgen.serving.memory_endpoint import Memories
from smidgen.serving.names import ModelNames
from smidgen.serving.openapi import Operation
from smidgen.serving.route_endpoint import RouterSettings, Routes
from smidgen.serving.service import Service
from smidgen.tasks.templates import find_form

OPERATIONS: Sequence[Operation] = (
    *judge_endpoint.OPERATIONS,
    *route_endpoint.OPERATIONS,
    *memory_endpoint.OPERATIONS,
)
"""Descriptions of the endpoints."""


@dataclass(frozen=True)
class SpecialistSettings:
    """What judges, decides and remembers.

    Attributes:
        judge: the served model that judges unless a request names another.
        judge_template: the judge's template unless a request names another.
        router: the served model that decides on memories and intents.
        budget: seconds after which a decision is deferred.
        intents: JSON file of intents for texts to classify that come without.
        store: the memory store, made if there is none.
    """

    judge: str | None = None
    judge_template: str | None = None
    router: str | None = None
    budget: float = RouterSettings.budget
    intents: Path | None = None
    store: Path | None = None


class Specialists:
    """The specialists of a server; `open` them in its event loop, and close them before the scheduler."""

    def __init__(self, service: Service, settings: SpecialistSettings):
        """Prepare them.

        Raises:
            ConfigError: a model is not served, or there is no such template, or it compares nothing.
            DataError: the intents or the store cannot be read.
        """
        for name in (settings.judge, settings.router):
            _check_name(service.names, name)
        if settings.judge_template is not None and find_form(settings.judge_template).singly:
            raise ConfigError(
                f"--judge-template is {settings.judge_template}, which grades single answers, as "
                "/v1/judge/grade does without it; expected one that compares: rubric, scores or verdict"
            )
        intents = () if settings.intents is None else read_intents(settings.intents)
        self._store = None if settings.store is None else Store.open(settings.store)
        self._judges = Judges(service, settings.judge, settings.judge_template)
        self._routes = Routes(service, self._store, RouterSettings(settings.router, settings.budget, intents))
        self._memories = Memories(self._store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def routes(self) -> list[Route]:
        """Their endpoints."""
        return [*self._judges.routes(), *self._routes.routes(), *self._memories.routes()]

    async def open(self) -> None:
        """Go on with what is pending in the store; without one, the first question opens the router.

        Raises:
            ModelError: the model does not decide.
        """
        if self._store is not None:
            await self._routes.open()

    def close(self) -> None:
        """End the router and close the store."""
        self._routes.close()
        if self._store is not None:
            self._store.close()


def _check_name(names: ModelNames, name: str | None) -> None:
    known = [names.base, *names.adapters]
    if name is not None and name not in known:
        raise ConfigError(
            f"there is no served model '{name}'.{did_you_mean(name, known)} Served: {', '.join(known)}"
        )

"""A whole server in this process: every endpoint, everything that stands before them, and a log in memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from tests.serving.toy import ListedLog

from smidgen.serving.app import build_app
from smidgen.serving.guard import Guards, observed
from smidgen.serving.metrics import Metrics
from smidgen.serving.names import ModelNames
from smidgen.serving.scheduler import Scheduler
from smidgen.serving.server import BACKLOG, DrainingServer, bind, url_of
from smidgen.serving.service import Service
from smidgen.serving.specialists import OPERATIONS, Specialists, SpecialistSettings


@dataclass
class Whole:
    """A server that runs, a client of it and its log."""

    app: Starlette
    port: int
    client: httpx2.Client
    log: ListedLog
    service: Service
    specialists: Specialists

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def fault(self, path: str, status: int, **body: Any) -> str:
        """The sentence with which a body is refused."""
        found = self.post(path, **body)
        assert found.status_code == status, found.text
        return found.json()["error"]["message"]


@contextmanager
def whole_server(
    engine: Any,
    settings: SpecialistSettings | None = None,
    *,
    guards: Guards | None = None,
    adapters: dict[str, Path] | None = None,
    places: int = 4,
) -> Iterator[Whole]:
    """Serve an engine as the model `base`."""
    listening, log = bind("127.0.0.1", 0), ListedLog()
    listening.listen(BACKLOG)
    scheduler = Scheduler(engine.session(), places=places)
    service = Service(ModelNames("base", adapters or {}), scheduler, getattr(engine, "tokenizer", None))  # type: ignore[arg-type]
    metrics = Metrics(scheduler)
    specialists = Specialists(service, settings or SpecialistSettings(budget=20))
    app = build_app(
        service,
        routes=[*specialists.routes, metrics.route],
        operations=OPERATIONS,
        middleware=observed(guards or Guards(), log, metrics),
    )
    server = DrainingServer(app, scheduler, grace_s=5, before=specialists.open)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.002)
    url = url_of(listening).removesuffix("/v1")
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:
            yield Whole(app, listening.getsockname()[1], client, log, service, specialists)
    finally:
        server.should_exit = True
        specialists.close()
        scheduler.close()
        thread.join()

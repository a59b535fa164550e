"""Completions from many engines at once: Ray Data shares requests among workers, each with an engine.

https://docs.ray.io/en/latest/data/data.html. Ray places the workers, restarts those that are lost, asks their
requests again and holds back what nobody takes yet; there is no scheduler here. Workers write nothing. What
they finish comes back here, in the order in which blocks of requests are finished, each request once, and
whoever asked writes it down, as with an engine in this process. So a journal has one writer, and the same
command goes on with what it lacks, in one process or on other workers.

A request is answered by the same engine from the same text wherever it runs, so that records differ from
those of one process in times only. Before it answers, a worker makes sure that it has the weights that are
known here.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
from smidgen.errors import ConfigError, WorkError
from smidgen.inference import engine_identity, open_engine
from smidgen.inference.engine import Session, Stream
from smidgen.inference.http import HttpEngine
from smidgen.inference.ray_cluster import block_of, objects_of, ray, start_ray
from smidgen.inference.ray_worker import Answered, Ask, Desk, Worker, complete, score
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions

FULL_BATCHES = 4
"""Most batches of an engine in a block. More keep it fuller; fewer lose less when a process is killed."""
BLOCKS = 4
"""Least blocks of each worker, as far as there are requests: fast workers take more than slow ones."""


class RayEngine:
    """An `Engine` of many engines with the same options, in workers of Ray."""

    def __init__(self, options: EngineOptions, *, scores: bool = False):
        """Check what can be known before any worker is started; Ray is started by the first request.

        Args:
            options: options of each engine, of which `engine` is not `auto`, and its `workers`.
            scores: whether `score` will be called.

        Raises:
            ConfigError: Ray is not installed, or the servers have different models.
            UserError: the model or the recording cannot be used.
            WorkError: a server does not answer.
        """
        if ray is None:
            raise ConfigError(
                "workers of Ray are asked for, but the package ray is not installed; install it with "
                "`pip install 'smidgen[ray]'`, or leave --ray out"
            )
        assert options.workers is not None
        self._workers, own = options.workers, replace(options, workers=None)
        self._options: tuple[EngineOptions, ...] = (own,)
        self._scores, self._has_started, self._peak = scores, False, None
        self._identity: str | None = None
        self.recording: ReplayEngine | None = None
        if own.engine == "http":
            self._options = _servers(own, self._workers.endpoints)
            return
        self._identity = engine_identity(own, scores=scores)
        if own.engine == "replay":
            opened = open_engine(own)
            assert isinstance(opened, ReplayEngine)
            self.recording = opened

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Complete requests in the order in which blocks of them are finished; see `Engine.complete`.

        Raises:
            UserError: a request cannot be served; those that were finished until then come first.
            WorkError: a server does not answer, or workers were lost too often.
        """
        requests = list(requests)
        if self.recording is not None:
            self.recording.check(requests)
        waiting = {request.sample.id: request for request in requests}
        for name, completion in self._spread(waiting, complete):
            yield waiting[name], completion

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Score continuations; see `Engine.score`."""
        waiting = {sample.id: sample for sample in samples}
        ask = partial(score, continuations=continuations, least_share=least_share)
        for name, scored in self._spread(waiting, ask):
            yield waiting[name], scored

    def session(self) -> Session:
        """Refuse: workers answer blocks of requests.

        Raises:
            ConfigError: always.
        """
        raise _many_rows_only()

    def stream(self, request: Request) -> Stream:
        """Refuse as `session` does.

        Raises:
            ConfigError: always.
        """
        raise _many_rows_only()

    def peak_memory_bytes(self) -> int | None:
        """Return the highest peak of a worker so far, or None if it is unknown."""
        return self._peak

    def close(self) -> None:
        """Stop Ray, or leave the cluster, if this engine started or joined it."""
        if self._has_started:
            ray.shutdown()
            self._has_started = False

    def _spread(self, questions: Mapping[str, Any], ask: Ask) -> Iterator[tuple[str, Any]]:
        """Yield the answers to questions, by the ids of their samples."""
        if not questions:
            return
        number = self._workers.number or max(2, len(self._options))
        self._start(number)
        desk = ray.remote(num_cpus=0)(Desk).remote()
        parts = _parts(list(questions.values()), self._options[0].batch_size, number)
        shared = ray.data.from_arrow(
            [block_of(part, number=block) for block, part in enumerate(parts)]
        ).map_batches(
            Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=number, max_tasks_in_flight_per_actor=2),
            fn_constructor_args=(self._options, desk, self._identity, self._scores, ask),
            num_cpus=self._workers.cpus,
            num_gpus=self._workers.gpus or None,
        )
        warned: set[type[Warning]] = set()
        for answered in _arrivals(shared):
            self._peak = max(self._peak or 0, answered.peak_memory_bytes or 0) or None
            for warning in answered.warnings:
                if type(warning) not in warned:  # each worker tells of its own first failure
                    warned.add(type(warning))
                    warnings.warn(warning, stacklevel=1)
            yield from answered.found
            if answered.error is not None:
                raise answered.error

    def _start(self, number: int) -> None:
        """Start Ray on this machine, or join a cluster, unless this process has done so already."""
        if not ray.is_initialized():
            start_ray(self._workers, number)
            self._has_started = True
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)


def _many_rows_only() -> ConfigError:
    return ConfigError(
        "workers of Ray answer many rows at once, not requests that arrive over time; leave --ray out"
    )


def _servers(options: EngineOptions, endpoints: Sequence[str]) -> tuple[EngineOptions, ...]:
    """Return the options of each server, all with the same name of the model.

    Raises:
        ConfigError: the servers have different models.
        WorkError: one does not answer.
    """
    servers = [replace(options, model=url) for url in (options.model, *endpoints)]
    names = {}
    for server in servers:
        opened = open_engine(server)
        assert isinstance(opened, HttpEngine)
        names[server.model] = opened.model_name
    if len(set(names.values())) > 1:
        shown = ", ".join(f"{name} at {url}" for url, name in names.items())
        raise ConfigError(
            f"the servers have different models ({shown}); name the one to ask with --model-name, or leave "
            "servers out"
        )
    return tuple(replace(server, model_name=names[server.model]) for server in servers)


def _parts(questions: list[Any], batch_size: int, workers: int) -> Iterator[list[Any]]:
    """Cut questions, in their order, into the blocks that a worker answers at once."""
    size = max(1, min(FULL_BATCHES * batch_size, math.ceil(len(questions) / (BLOCKS * workers))))
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def _arrivals(shared: Any) -> Iterator[Answered]:
    """Yield what workers answered, each block once and as soon as it is there.

    Raises:
        WorkError: Ray failed.
    """
    try:
        # No block is held back until the next one has come.
        for table in shared.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from objects_of(table)
    except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
        first = (str(error).strip() or "no reason given").splitlines()[0]
        raise WorkError(
            f"Ray failed ({type(error).__name__}: {first}); finished answers are kept, so run the same "
            "command again"
        ) from error

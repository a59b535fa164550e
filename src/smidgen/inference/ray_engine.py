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

import contextlib
import logging
import math
import os
import pickle
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
from smidgen.errors import ConfigError, WorkError
from smidgen.inference import engine_identity, open_engine
from smidgen.inference.engine import Engine, Session, Stream
from smidgen.inference.http import HttpEngine
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions, Workers

try:
    import pyarrow
    import ray
    import ray.data
    import ray.exceptions
    from ray.data.exceptions import SystemException
except ImportError:
    ray: Any = None

FULL_BATCHES = 4
"""Most batches of an engine in a block. More keep it fuller, fewer lose less when a process is killed."""
BLOCKS = 4
"""Least blocks of each worker, as far as there are requests, so that fast workers take more than slow ones."""
ATTEMPTS = 4
"""Times that a block is asked whose workers are lost; Ray alone would go on for ever."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its processes write to the terminal what their logs have too
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # which Ray warns of otherwise
}
"""Settings of Ray, where the environment has no others."""

Ask = Callable[[Engine, list[Any]], Iterable[tuple[str, Any]]]
"""Yields the id of a sample and its answer for each of some questions."""


class RayEngine:
    """An `Engine` of many engines with the same options, in workers of Ray."""

    def __init__(self, options: EngineOptions, kind: str, *, scores: bool = False):
        """Check what can be known before any worker is started; Ray is started by the first request.

        Args:
            options: options of each engine, and its `workers`.
            kind: the engine that these options stand for.
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
        if kind == "http":
            self._options = _servers(own, self._workers.endpoints)
            return
        self._identity = engine_identity(own, scores=scores)
        if kind == "replay":
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
        for name, completion in self._spread(waiting, _complete):
            yield waiting[name], completion

    def score(
        self, samples: Iterable[Sample], continuations: Continuations, *, least_share: float = 0.0
    ) -> Iterator[tuple[Sample, Scored]]:
        """Score continuations; see `Engine.score`."""
        waiting = {sample.id: sample for sample in samples}
        ask = partial(_score, continuations=continuations, least_share=least_share)
        for name, scored in self._spread(waiting, ask):
            yield waiting[name], scored

    def session(self) -> Session:
        """Refuse: workers answer blocks of requests.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "workers of Ray answer many rows at once, not requests that arrive over time; leave --ray out"
        )

    def stream(self, request: Request) -> Stream:
        """Refuse as `session` does."""
        return self.session() and Stream(iter(()))  # type: ignore[arg-type]

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
        shared = ray.data.from_arrow(
            [_block(part) for part in _parts(list(questions.values()), self._options[0].batch_size, number)]
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
            _start_ray(self._workers, number)
            self._has_started = True
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Answered:
    """What a worker has to say of a block: answers by sample, and why the others have none."""

    found: list[tuple[str, Any]]
    error: Exception | None
    warnings: list[Warning]
    peak_memory_bytes: int | None


class Worker:
    """An actor of Ray Data: an engine, opened for its first block."""

    def __init__(
        self,
        options: Sequence[EngineOptions],
        desk: Any,
        identity: str | None,
        scores: bool,
        ask: Ask,
    ):
        """Keep what the engine is opened with.

        Args:
            options: of the engine; of several, one for each server, that of this worker's seat.
            desk: the actor `Desk`.
            identity: the engine's identity where the work was started; None if it need not be the same.
            scores: whether it will score.
            ask: asks the engine a block of questions.
        """
        self._options, self._desk, self._identity = options, desk, identity
        self._scores, self._ask = scores, ask
        self._engine: Engine | None = None

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        """Answer a block of questions, as far as the engine does."""
        found: list[tuple[str, Any]] = []
        error: Exception | None = None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            try:
                self._begin(block["question"][0].as_py())
                questions = [pickle.loads(one) for one in block["question"].to_pylist()]
                found.extend(self._ask(self._opened(), questions))
            except Exception as raised:  # it is raised where the work was started, as if it was done there
                error = raised
        peak = None if self._engine is None else self._engine.peak_memory_bytes()
        told = [one.message for one in warned if _is_for_user(one.message)]
        return pyarrow.table({"answered": [pickle.dumps(Answered(found, error, told, peak))]})

    def _begin(self, block: bytes) -> None:
        """Count that a block is begun.

        Raises:
            WorkError: too many workers were lost with it.
        """
        if self._desk is not None and ray.get(self._desk.begin.remote(block)) > ATTEMPTS:
            raise WorkError(
                f"{ATTEMPTS} workers of Ray were lost while they answered the same rows, maybe for want of "
                "memory; finished answers are kept, so give fewer --workers and run the same command again"
            )

    def _seat(self) -> int:
        if self._desk is None:
            return 0
        return ray.get(self._desk.seat.remote(ray.get_runtime_context().get_actor_id()))

    def _opened(self) -> Engine:
        """Return the engine.

        Raises:
            ConfigError: the model is not the one that is known where the work was started.
        """
        if self._engine is None:
            options = self._options[self._seat() % len(self._options)]
            if self._identity is not None:
                _check_identity(options, self._identity, scores=self._scores)
            self._engine = open_engine(options, scores=self._scores)
        return self._engine


class Desk:
    """An actor that numbers the workers, and counts how often a block was begun."""

    def __init__(self):
        self._seats: dict[str, int] = {}
        self._begun: Counter[bytes] = Counter()

    def seat(self, worker: str) -> int:
        """Return the number of a worker, which keeps it when it is restarted: they take turns with servers."""
        return self._seats.setdefault(worker, len(self._seats))

    def begin(self, block: bytes) -> int:
        """Count that a block is begun, by its first question, and return how often it was."""
        self._begun[block] += 1
        return self._begun[block]


def _complete(engine: Engine, requests: list[Request]) -> Iterator[tuple[str, Completion]]:
    for request, completion in engine.complete(requests):
        yield request.sample.id, completion


def _score(
    engine: Engine, samples: list[Sample], *, continuations: Continuations, least_share: float
) -> Iterator[tuple[str, Scored]]:
    for sample, scored in engine.score(samples, continuations, least_share=least_share):
        yield sample.id, scored


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


def _check_identity(options: EngineOptions, identity: str, *, scores: bool) -> None:
    """Refuse a model that differs from the one where the work was started.

    Raises:
        ConfigError: its weights, its adapter or its engine are others.
    """
    if engine_identity(options, scores=scores) != identity:
        raise ConfigError(
            f"{options.model} has other weights on the worker {os.uname().nodename} than where the work was "
            "started, or is run by another engine there; copy the model there and name the engine with "
            "--engine"
        )


def _parts(questions: list[Any], batch_size: int, workers: int) -> Iterator[list[Any]]:
    """Cut questions, in their order, into the blocks that a worker answers at once."""
    size = max(1, min(FULL_BATCHES * batch_size, math.ceil(len(questions) / (BLOCKS * workers))))
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def _block(questions: list[Any]) -> "pyarrow.Table":
    return pyarrow.table({"question": [pickle.dumps(question) for question in questions]})


def _arrivals(shared: "ray.data.Dataset") -> Iterator[Answered]:
    """Yield what workers answered, each block once and as soon as it is there.

    Raises:
        WorkError: Ray failed.
    """
    try:
        # No block is held back until the next one has come.
        for table in shared.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for answered in table["answered"].to_pylist():
                yield pickle.loads(answered)
    except (ray.exceptions.RayError, SystemException) as error:
        first = (str(error).strip() or "no reason given").splitlines()[0]
        raise WorkError(
            f"Ray failed ({type(error).__name__}: {first}); finished answers are kept, so run the same command "
            "again"
        ) from error


def _start_ray(workers: Workers, number: int) -> None:
    """Start or join Ray, without dashboard, statistics of usage and logs in the terminal.

    Raises:
        WorkError: there is no such cluster.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _reach(workers.address)
        with _silent():
            if workers.address is None:
                cores = max(os.cpu_count() or 1, math.ceil(number * workers.cpus))
                ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            else:
                ray.init(workers.address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = "on this machine" if workers.address is None else f"at {workers.address}"
        raise WorkError(
            f"Ray could not be started or joined {place} ({first}); a cluster is started with `ray start "
            "--head`, and --ray-address names it"
        ) from None


def _reach(address: str | None) -> None:
    """Connect to a cluster's address; Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
        ValueError: it has no port that is a number.
    """
    if address is None or ":" not in address:  # here, or `auto`
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Ray's native code from writing to the terminal that its log level was set, and the like."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_for_user(warning: Warning | str) -> bool:
    return isinstance(warning, Warning) and not isinstance(
        warning, DeprecationWarning | PendingDeprecationWarning | ResourceWarning
    )

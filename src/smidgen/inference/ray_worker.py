"""A worker of Ray Data: an engine that answers blocks of questions, and a desk that counts them."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.data.types import Completion, Continuations, Request, Sample, Scored
from smidgen.errors import ConfigError, WorkError
from smidgen.inference import engine_identity, open_engine
from smidgen.inference.engine import Engine
from smidgen.inference.ray_cluster import block_of, objects_of, ray
from smidgen.options import EngineOptions

ATTEMPTS = 4
"""Times that a block is asked whose workers are lost; Ray alone would go on for ever."""

Ask = Callable[[Engine, list[Any]], Iterable[tuple[str, Any]]]
"""Yields the id of a sample and its answer for each of some questions."""


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

    def __call__(self, block: Any) -> Any:
        """Answer a block of questions, a table of Arrow, as far as the engine does."""
        found: list[tuple[str, Any]] = []
        error: Exception | None = None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            try:
                self._begin(block["number"][0].as_py())
                found.extend(self._ask(self._opened(), objects_of(block)))
            except Exception as raised:  # it is raised where the work was started, as if it was done there
                error = raised
        peak = None if self._engine is None else self._engine.peak_memory_bytes()
        told = [one.message for one in warned if isinstance(one.message, Warning)]
        return block_of([Answered(found, error, [one for one in told if _is_for_user(one)], peak)])

    def _begin(self, block: int) -> None:
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
        self._begun: Counter[int] = Counter()

    def seat(self, worker: str) -> int:
        """Return the number of a worker, the same after a restart: they take turns with servers."""
        return self._seats.setdefault(worker, len(self._seats))

    def begin(self, block: int) -> int:
        """Count that a block is begun, and return how often it was."""
        self._begun[block] += 1
        return self._begun[block]


def complete(engine: Engine, requests: list[Request]) -> Iterator[tuple[str, Completion]]:
    """Ask an engine for completions."""
    for request, completion in engine.complete(requests):
        yield request.sample.id, completion


def score(
    engine: Engine, samples: list[Sample], *, continuations: Continuations, least_share: float
) -> Iterator[tuple[str, Scored]]:
    """Ask an engine for log-probabilities."""
    for sample, scored in engine.score(samples, continuations, least_share=least_share):
        yield sample.id, scored


def _check_identity(options: EngineOptions, identity: str, *, scores: bool) -> None:
    """Refuse a model that differs from the one where the work was started.

    Raises:
        ConfigError: its weights or its adapter are others.
    """
    if engine_identity(options, scores=scores) != identity:
        raise ConfigError(
            f"{options.model} has other weights on the worker {os.uname().nodename} than where the work was "
            "started; copy the model, and its adapter, to every node"
        )


def _is_for_user(warning: Warning) -> bool:
    return not isinstance(warning, DeprecationWarning | PendingDeprecationWarning | ResourceWarning)

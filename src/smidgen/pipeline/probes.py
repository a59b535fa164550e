"""Measurements for a plan: a few answers, a few training steps and one model load on these rows.

Time and memory are measured, then scaled to the whole run; the results themselves are discarded.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smidgen.backend import peak_memory_bytes
from smidgen.config import DpoConfig, FinetuneConfig, SftConfig
from smidgen.data.types import Sampling, StepResult
from smidgen.evaluation.collect import request_of
from smidgen.files import is_url
from smidgen.inference import open_engine
from smidgen.models.load import load
from smidgen.models.weights import weight_files
from smidgen.options import EngineOptions
from smidgen.pipeline.asking import PLAIN, Asking, Skipped, asked_samples
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.task_metric import metric_samples
from smidgen.pipeline.training_job import TrainingJob
from smidgen.training.loop import train
from smidgen.training.training_plan import TrainingPlan

PROBED_ANSWERS = 16
FORWARD_SHARE = 1 / 3
"""Share of a training step spent in its forward pass, which is all that a validation needs."""


@dataclass(frozen=True)
class TrainingEstimate:
    """Expected size and duration of a training.

    Attributes:
        plan: exact figures of all steps, where the rows are known beforehand.
        steps: optimiser steps.
        tokens: unpadded tokens that go through the model in all steps.
        cut_rows: rows that lost context to fit; None for a document stream.
        minutes: training time, validations included.
    """

    plan: TrainingPlan | None
    steps: int
    tokens: int
    cut_rows: int | None
    minutes: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures that are known, as `smidgen run --dry-run --json` prints them."""
        planned = asdict(self.plan) if self.plan else {"steps": self.steps}
        cut = {} if self.cut_rows is None else {"cut_rows": self.cut_rows}
        return planned | {"tokens": self.tokens, **cut, "minutes": self.minutes}


@dataclass
class Probes:
    """Measurements of one run, each made on first use and then cached."""

    context: RunContext
    _answers: dict[tuple[str, str, Asking, EngineOptions], float] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Peak memory of the measurements so far."""
        return peak_memory_bytes()

    @cached_property
    def load_seconds(self) -> float:
        """Seconds to load the base model."""
        started = time.perf_counter()
        load(self.context.specialist.model.base)
        return time.perf_counter() - started

    @cached_property
    def base_bytes(self) -> int:
        """Bytes of the base model's weights."""
        files = weight_files(load(self.context.specialist.model.base).path)
        return sum(file.stat().st_size for file in files)

    @cached_property
    def row_seconds(self) -> float:
        """Seconds to read the rows and build their samples."""
        started = time.perf_counter()
        for task in self.context.tasks:
            task.check()
        return time.perf_counter() - started

    def answer_seconds(
        self, task: TaskContext, method: str, asking: Asking = PLAIN, *, engine: EngineOptions | None = None
    ) -> float:
        """Seconds per answer of a model, by default the base, when a small batch is decoded.

        0 if it cannot be asked so, and for a server or a recording: a plan asks no one, and costs nothing.
        """
        options = engine or self.context.base_engine
        key = task.name, method, asking, options
        if key not in self._answers:
            is_elsewhere = is_url(options.model) or options.model.endswith(".jsonl")
            self._answers[key] = 0.0 if is_elsewhere else self._measure_answers(*key[1:], task)
        return self._answers[key]

    def _measure_answers(
        self, method: str, asking: Asking, options: EngineOptions, task: TaskContext
    ) -> float:
        asked = asked_samples(self.context, task, asking, limit=PROBED_ANSWERS)
        if isinstance(asked, Skipped):
            return 0.0
        engine = open_engine(options, scores=method != "generate")
        samples = asked.samples
        sampling = Sampling(max_tokens=asking.max_tokens or self.context.specialist.evaluate.max_tokens)
        constraints = [task.task.constraint_of(s) if asking.constrained else None for s in samples]
        requests = [
            request_of(task.task, sample, sampling, constraint)
            for sample, constraint in zip(samples, constraints, strict=True)
        ]
        started = time.perf_counter()
        for _ in task.task.answer_with(engine, method).complete(requests):
            pass
        seconds = time.perf_counter() - started
        engine.close()
        return seconds / len(samples)

    @cached_property
    def training(self) -> TrainingEstimate:
        """Estimate of the whole training from its first steps."""
        job = prepare_training(self.context)
        start = job.batches.state()
        # The first step also warms up caches, so only the second is timed.
        *_, last = islice(self._steps(job), 2)
        every = self.context.recipe.train.validate_every
        validations = 1 + (job.batches.num_steps // every if every else 0)
        read = validations * sum(batch.tokens for batch in job.validation) * FORWARD_SHARE
        tokens = job.plan.tokens if job.plan else last.tokens * job.batches.num_steps
        rest = tokens * self._share_after_first_epoch(job)
        cached = self._cached_seconds(job, start) if rest else 0.0
        seconds = (tokens - rest + read) * last.seconds / last.tokens + rest * cached
        seconds += self._measuring_seconds(job.batches.num_steps)
        return TrainingEstimate(job.plan, job.batches.num_steps, tokens, job.cut_rows, seconds / 60)

    def _measuring_seconds(self, num_steps: int) -> float:
        """Return the seconds of all measurements of the task's metric."""
        settings = self.context.recipe.train
        if not isinstance(settings, FinetuneConfig) or not settings.metric_every:
            return 0.0
        once = sum(
            len(metric_samples(task, settings.metric_rows)) * self.answer_seconds(task, task.blank.methods[0])
            for task in self.context.tasks
        )
        return once * math.ceil(num_steps / settings.metric_every)

    def _share_after_first_epoch(self, job: TrainingJob) -> float:
        """Return the share of the tokens of which something is read from a cache."""
        settings = self.context.recipe.train
        if not job.caches or not isinstance(settings, SftConfig | DpoConfig):
            return 0.0
        return max(0.0, 1 - 1 / settings.epochs)

    def _cached_seconds(self, job: TrainingJob, start: dict[str, Any]) -> float:
        """Return the seconds per token of a step whose caches are full: the first, taken again."""
        with TemporaryDirectory(prefix="smidgen-plan-") as folder:
            for cache in job.caches:
                cache.open(Path(folder) / cache.name)
            _, last = (self._step_at(job, start) for _ in range(2))  # the first fills the caches
        return last.seconds / last.tokens

    def _step_at(self, job: TrainingJob, position: dict[str, Any]) -> StepResult:
        job.batches.restore(position)
        return next(self._steps(job))

    def _steps(self, job: TrainingJob) -> Iterator[StepResult]:
        settings = self.context.recipe.train.model_copy(update={"checkpoint_every": 0})
        return train(job.model, job.objective, job.batches, settings)

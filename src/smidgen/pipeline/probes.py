"""What a plan measures: a few answers, two steps and one load, on this machine and these rows, thrown away.

Minutes and memory are not modelled but measured, and then multiplied by how much there is to do.
"""

import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from smidgen.backend import peak_memory_bytes
from smidgen.data.types import Request, Sampling
from smidgen.inference import open_engine
from smidgen.models.load import load
from smidgen.models.weights import weight_files
from smidgen.pipeline.context import RunContext, TaskContext
from smidgen.pipeline.jobs import prepare_training
from smidgen.training.loop import train

PROBED_ANSWERS = 16
FORWARD_SHARE = 1 / 3
"""Share of a training step that is its forward pass, all that a validation needs."""


@dataclass
class Probes:
    """Measurements that are made when they are first asked for, and kept."""

    context: RunContext
    _answers: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Most memory that was used by what has been measured so far."""
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
        """Seconds to read the rows and make samples of them."""
        started = time.perf_counter()
        for task in self.context.tasks:
            task.check()
        return time.perf_counter() - started

    def answer_seconds(self, task: TaskContext, method: str) -> float:
        """Seconds of one answer of the base model when a few are decoded together."""
        key = task.name, method
        if key not in self._answers:
            self._answers[key] = self._measure_answers(task, method)
        return self._answers[key]

    def _measure_answers(self, task: TaskContext, method: str) -> float:
        engine = open_engine(self.context.base_engine, scores=method != "generate")
        asked = task.test_samples[:PROBED_ANSWERS]
        sampling = Sampling(max_tokens=self.context.specialist.evaluate.max_tokens)
        requests = [Request(sample, sampling, logprobs=False) for sample in asked]
        started = time.perf_counter()
        for _ in task.task.answer_with(engine, method).complete(requests):
            pass
        seconds = time.perf_counter() - started
        engine.close()
        return seconds / len(asked)

    @cached_property
    def training(self) -> dict[str, Any]:
        """The figures of the training, with its `minutes`, from two steps of it."""
        job = prepare_training(self.context)
        settings = self.context.recipe.train.model_copy(update={"checkpoint_every": 0})
        *_, last = islice(
            train(job.model, job.objective, job.batches, settings), 2
        )  # the first step also warms caches up
        every = settings.validate_every
        validations = 1 + (job.batches.num_steps // every if every else 0)
        read = validations * sum(batch.tokens for batch in job.validation) * FORWARD_SHARE
        planned = asdict(job.planned) if job.planned else {"steps": job.batches.num_steps}
        tokens = planned.get("tokens", last.tokens * job.batches.num_steps)
        minutes = (tokens + read) * last.seconds / last.tokens / 60
        return planned | {"tokens": tokens, **job.facts, "minutes": minutes}

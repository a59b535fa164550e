"""Run an evaluation: collect an engine's answers to a task's samples, and compute the metrics.

`collect_log` is a generator driven by the caller: it yields each record once it is on disk, beginning with
those of an earlier, interrupted run. `summarise` computes every metric from the records, so that a resumed
evaluation and an uninterrupted one give the same numbers. Unparsed answers are never retried.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.data.types import (
    UNANSWERED,
    Completion,
    Constraint,
    Record,
    Request,
    Sample,
    Sampling,
    Score,
    Timing,
)
from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.evaluation.metrics import Measured, measure
from smidgen.evaluation.records import LoggedRecord, fingerprint, resume_log, wall_clock
from smidgen.evaluation.speed import Speed, measure_speed
from smidgen.files import append_jsonl, exclusive
from smidgen.tasks.measures import Measure, Metric, Statistic
from smidgen.tasks.task import Completer, Task


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on a task.

    Attributes:
        task: name of the task.
        version: version of the task.
        variant: whatever else determines prompt and parser, such as a template.
        model: the model, as the user named it.
        data: the rows, as the user named them.
        n: number of samples; a judge has two per pair.
        metrics: by name, the most important first.
        baselines: metrics of trivial strategies on the same samples.
        subsets: the metrics of each subset, if the rows have more than one.
        details: counts that explain the metrics.
        speed: throughput, latency and memory.
    """

    task: str
    version: int
    variant: str
    model: str
    data: str
    n: int
    metrics: Mapping[str, Measured]
    baselines: Mapping[str, Measured]
    subsets: Mapping[str, Mapping[str, Measured]]
    details: Mapping[str, Any]
    speed: Speed

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return {
            "task": self.task,
            "version": self.version,
            "variant": self.variant,
            "model": self.model,
            "data": self.data,
            "n": self.n,
            "metrics": _json(self.metrics),
            "baselines": _json(self.baselines),
            "subsets": {name: _json(metrics) for name, metrics in self.subsets.items()},
            "details": dict(self.details),
            "speed": self.speed.to_json(),
        }


def evaluate(
    task: Task,
    samples: Sequence[Sample],
    engine: Completer,
    sampling: Sampling,
    records_path: Path,
    *,
    model: str,
    data: str = "",
    seed: int = 0,
    constrained: bool = False,
) -> Evaluation:
    """Evaluate an engine on all samples; see `collect_log` and `summarise`."""
    log = collect_log(task, samples, engine, sampling, records_path, model=model, constrained=constrained)
    return summarise(task, samples, list(log), model=model, data=data, seed=seed)


def collect_records(
    task: Task,
    samples: Sequence[Sample],
    engine: Completer,
    sampling: Sampling,
    records_path: Path,
    *,
    model: str,
    constrained: bool = False,
) -> Iterator[Record]:
    """Collect records as `collect_log`, without the metadata logged for each."""
    log = collect_log(task, samples, engine, sampling, records_path, model=model, constrained=constrained)
    yield from (logged.record for logged in log)


def collect_log(
    task: Task,
    samples: Sequence[Sample],
    engine: Completer,
    sampling: Sampling,
    records_path: Path,
    *,
    model: str,
    constrained: bool = False,
) -> Iterator[LoggedRecord]:
    """Request the answers missing from the records file, and append each as it is finished.

    Args:
        task: scores the completions.
        samples: samples with distinct ids.
        engine: completes the requests, in any order.
        sampling: sampling parameters; the task's stop strings are added, unless the answers are constrained.
        records_path: the records file, new or to be resumed.
        model: identifies the model including its weights, so that no file mixes the answers of two models.
        constrained: whether to enforce the task's output constraint.

    Yields:
        The records in the file, then each new one, as told by `is_new`.

    Raises:
        ConfigError: `constrained` is set and the task has no constraint.
        DataError: the file contains the records of another evaluation.
        WorkError: the engine left requests unanswered, the disk is full, or another process is writing to
            the file; finished records are kept.
    """
    sampling = sampling_of(task, sampling, constrained=constrained)
    constraints = {s.id: constraint_of(task, s) if constrained else None for s in samples}
    version = " ".join(filter(None, (task.name, str(task.version), task.variant)))
    expected = {
        sample.id: fingerprint(
            sample, task=version, model=model, sampling=sampling, constraint=constraints[sample.id]
        )
        for sample in samples
    }
    assert len(expected) == len(samples), "two samples share an id"
    requests = [request_of(task, sample, sampling, constraints[sample.id]) for sample in samples]
    with exclusive(records_path):
        yield from _collect(task, requests, engine, records_path, expected)


def answers(task: Task, samples: Sequence[Sample], engine: Completer, sampling: Sampling) -> list[Record]:
    """Return an engine's scored answers, in the order of the samples, without a records file."""
    sampling = sampling_of(task, sampling, constrained=False)
    requests = [request_of(task, sample, sampling) for sample in samples]
    records = {
        request.sample.id: Record(request.sample, completion, score_of(task, request.sample, completion))
        for request, completion in engine.complete(requests)
    }
    return [records[sample.id] for sample in samples]


def sampling_of(task: Task, sampling: Sampling, *, constrained: bool) -> Sampling:
    """Add the task's stop strings, unless there is a constraint, which says itself where an answer ends."""
    if constrained:
        return sampling
    return replace(
        sampling,
        stop=(*sampling.stop, *task.stop),
        stop_after=(*sampling.stop_after, *task.stop_after),
    )


def request_of(
    task: Task, sample: Sample, sampling: Sampling, constraint: Constraint | None = None
) -> Request:
    """Return a request; records do not store log-probabilities, so only the task's score may need them."""
    return Request(sample, sampling, constraint, logprobs=task.needs_confidence, forced_logprobs=False)


def _collect(
    task: Task,
    requests: Sequence[Request],
    engine: Completer,
    records_path: Path,
    expected: Mapping[str, str],
) -> Iterator[LoggedRecord]:
    """Yield the records in the file, then the missing ones; requires the lock on the file."""
    found = resume_log(records_path, expected)
    yield from found
    waiting = expected.keys() - {logged.record.sample.id for logged in found}
    if not waiting:
        return
    session = 1 + max((logged.session for logged in found), default=-1)
    started = time.perf_counter()
    for request, completion in engine.complete(
        [request for request in requests if request.sample.id in waiting]
    ):
        sample = request.sample
        record = Record(sample, completion, score_of(task, sample, completion))
        elapsed = round(time.perf_counter() - started, 6)
        logged = LoggedRecord(record, expected[sample.id], session, elapsed, is_new=True)
        append_jsonl(records_path, logged.to_json())
        waiting.remove(sample.id)
        yield logged
    if waiting:
        raise WorkError(
            f"the engine left {len(waiting)} of {len(requests)} samples unanswered, "
            f"including '{min(waiting)}'; its answers are kept, run the evaluation again to finish it"
        )


def constraint_of(task: Task, sample: Sample) -> Constraint:
    """Return the output constraint of a sample of a task.

    Raises:
        ConfigError: there is none.
    """
    if (constraint := task.constraint_of(sample)) is None:
        name = f"{task.name} in the template {task.variant}" if task.variant else task.name
        raise ConfigError(
            f"the task {name} cannot be constrained: {task.why_unconstrained}; turn constrained off, or "
            "use a task with labels, a schema or a regex"
        )
    return constraint


def summarise(
    task: Task,
    samples: Sequence[Sample],
    log: Sequence[LoggedRecord],
    *,
    model: str,
    data: str = "",
    seed: int = 0,
    peak_memory_bytes: int | None = None,
) -> Evaluation:
    """Compute the result of an evaluation from its records.

    Args:
        task: computes the metrics.
        samples: all samples; each must have a record.
        log: records from `collect_log` or `read_log`, in any order.
        model: name of the model in the result.
        data: name of the rows in the result.
        seed: seed of the bootstrap.
        peak_memory_bytes: as measured by the backend.

    Raises:
        DataError: a sample has no record.
    """
    by_id = {logged.record.sample.id: logged for logged in log}
    missing = [sample.id for sample in samples if sample.id not in by_id]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no record, beginning with '{missing[0]}'; "
            "run the evaluation again to finish it"
        )
    kept = [by_id[sample.id] for sample in samples]
    records = [logged.record for logged in kept]
    # Failed requests have no timing, and a missing timing would leave the throughput unknown.
    timings = [r.completion.timing for r in records if r.completion.finish_reason not in ("context", "error")]
    return Evaluation(
        task=task.name,
        version=task.version,
        variant=task.variant,
        model=model,
        data=data,
        n=len(records),
        metrics=_measure_all(task.measures(records), seed),
        baselines=_measure_all(task.baselines(samples), seed),
        subsets=_subsets(task, records, seed),
        details=task.details(records),
        speed=measure_speed(
            timings, wall_clock(kept), first=_first_timing(kept), peak_memory_bytes=peak_memory_bytes
        ),
    )


def _first_timing(log: Sequence[LoggedRecord]) -> Timing | None:
    """Return the timing of the answer that was finished first; None if there is none."""
    order = sorted(log, key=lambda logged: (logged.session, logged.elapsed))
    return order[0].record.completion.timing if order else None


def score_of(task: Task, sample: Sample, completion: Completion) -> Score:
    """Return the task's score; unanswered samples count as wrong, like unparsed ones."""
    if why := UNANSWERED.get(completion.finish_reason):
        return Score(0.0, None, parsed=False, explanation=why)
    return task.score(sample, completion)


def _measure_all(metrics: Mapping[str, Metric], seed: int) -> dict[str, Measured]:
    return {name: measure(metric, seed=seed) for name, metric in metrics.items()}


def _subsets(task: Task, records: Sequence[Record], seed: int) -> dict[str, dict[str, Measured]]:
    """Return the metrics of every subset; empty if there are fewer than two."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if (subset := record.sample.metadata.get("subset")) is not None:
            groups.setdefault(subset, []).append(record)
    if len(groups) < 2:
        return {}
    return {name: _measure_all(task.measures(group), seed) for name, group in sorted(groups.items())}


def measured(value: Any, *, seed: int = 0) -> Any:
    """Return a nested value with every metric in it replaced by its value and interval."""
    if isinstance(value, Measure | Statistic):
        return measure(value, seed=seed).to_json()
    if isinstance(value, Mapping):
        return {key: measured(item, seed=seed) for key, item in value.items()}
    return [measured(item, seed=seed) for item in value] if isinstance(value, list) else value


def _json(metrics: Mapping[str, Measured]) -> dict[str, dict[str, float | int | None]]:
    return {name: measured.to_json() for name, measured in metrics.items()}

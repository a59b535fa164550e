"""An engine answers a task's samples, and the answers become evidence.

`collect_log` is a generator that the caller drives: it yields each record once it is on disk, first those
that an earlier, killed run left. `summarise` computes every metric from them, so a resumed evaluation and an
uninterrupted one give the same numbers. No answer is ever asked for twice because it did
not parse.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.data.types import UNANSWERED, Completion, Constraint, Record, Request, Sample, Sampling, Score
from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.evaluation.metrics import Measured, measure
from smidgen.evaluation.records import LoggedRecord, fingerprint, resume_log, wall_clock
from smidgen.evaluation.speed import Speed, measure_speed
from smidgen.files import append_jsonl, exclusive
from smidgen.tasks.task import Completer, Measure, Metric, Statistic, Task


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a task.

    Attributes:
        task: name of the task.
        version: version of the task.
        variant: what else decides prompt and parser, such as a template.
        model: the model, as the user named it.
        data: the rows, as the user named them.
        n: how many samples were answered; a judge answers two for each pair.
        metrics: by name, the most important first.
        baselines: what strategies without judgement score on the same samples.
        subsets: the metrics of each subset, where the rows name more than one.
        details: counts that explain the metrics.
        speed: what it took.
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
        """The evaluation as a JSON object."""
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
    """Answer every sample and sum up; see `collect_records` and `summarise`."""
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
    """As `collect_log`, without what is logged beside each record."""
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
    """Ask for what the file does not hold yet, and write each record as it is finished.

    Args:
        task: scores the completions.
        samples: what to ask; their ids are distinct.
        engine: answers, in any order.
        sampling: how; the task's stop strings are added.
        records_path: the records file, made or resumed.
        model: identifies whatever answers, weights and all, so that no file mixes the answers of two.
        constrained: whether answers are held to the task's constraint.

    Yields:
        The records that were there already, then each new one. `is_new` tells them apart.

    Raises:
        ConfigError: answers are to be held to a constraint, and the task has none.
        DataError: the file holds the records of another evaluation.
        WorkError: the engine left requests unanswered, the disk is full, or another process writes to the
            file; what was finished is kept.
    """
    sampling = replace(
        sampling,
        stop=(*sampling.stop, *task.stop),
        stop_after=(*sampling.stop_after, *task.stop_after),
    )
    constraint = constraint_of(task) if constrained else None
    version = " ".join(filter(None, (task.name, str(task.version), task.variant)))
    expected = {
        sample.id: fingerprint(sample, task=version, model=model, sampling=sampling, constraint=constraint)
        for sample in samples
    }
    assert len(expected) == len(samples), "two samples share an id"
    requests = [Request(sample, sampling, constraint, logprobs=False) for sample in samples]
    with exclusive(records_path):
        yield from _collected(task, requests, engine, records_path, expected)


def _collected(
    task: Task,
    requests: Sequence[Request],
    engine: Completer,
    records_path: Path,
    expected: Mapping[str, str],
) -> Iterator[LoggedRecord]:
    """What the file holds, then what it lacks; the file is this process's alone."""
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
        record = Record(sample, completion, _score(task, sample, completion))
        elapsed = round(time.perf_counter() - started, 6)
        logged = LoggedRecord(record, expected[sample.id], session, elapsed, is_new=True)
        append_jsonl(records_path, logged.to_json())
        waiting.remove(sample.id)
        yield logged
    if waiting:
        raise WorkError(
            f"the engine left {len(waiting)} of {len(requests)} samples unanswered, "
            f"'{min(waiting)}' among them; what it answered is kept, run the evaluation again to finish it"
        )


def constraint_of(task: Task) -> Constraint:
    """What the whole of every answer has to be.

    Raises:
        ConfigError: the task cannot say.
    """
    if task.constraint is None:
        name = f"{task.name} in the template {task.variant}" if task.variant else task.name
        raise ConfigError(
            f"the task {name} has no constraint to hold answers to; "
            "leave constrained out, or use intent or a judge's template of your own"
        )
    return task.constraint


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
    """Compute everything an evaluation reports from its records.

    Args:
        task: knows the metrics.
        samples: those that were asked; each must have a record.
        log: as `collect_log` yields or `read_log` reads it, in any order.
        model: named in the result.
        data: named in the result.
        seed: of the bootstrap.
        peak_memory_bytes: as the backend counted it.

    Raises:
        DataError: a sample has no record.
    """
    by_id = {logged.record.sample.id: logged for logged in log}
    missing = [sample.id for sample in samples if sample.id not in by_id]
    if missing:
        raise DataError(
            f"there is no record of {len(missing)} of {len(samples)} samples, "
            f"'{missing[0]}' first; run the evaluation again to finish it"
        )
    kept = [by_id[sample.id] for sample in samples]
    records = [logged.record for logged in kept]
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
        speed=measure_speed(timings, wall_clock(kept), peak_memory_bytes=peak_memory_bytes),
    )


def _score(task: Task, sample: Sample, completion: Completion) -> Score:
    """The task's score; what was not answered is wrong, as what does not parse is."""
    if why := UNANSWERED.get(completion.finish_reason):
        return Score(0.0, None, parsed=False, explanation=why)
    return task.score(sample, completion)


def _measure_all(metrics: Mapping[str, Metric], seed: int) -> dict[str, Measured]:
    return {name: measure(metric, seed=seed) for name, metric in metrics.items()}


def _subsets(task: Task, records: Sequence[Record], seed: int) -> dict[str, dict[str, Measured]]:
    """The metrics of every subset that the rows name; nothing if it is only one."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if (subset := record.sample.metadata.get("subset")) is not None:
            groups.setdefault(subset, []).append(record)
    if len(groups) < 2:
        return {}
    return {name: _measure_all(task.measures(group), seed) for name, group in sorted(groups.items())}


def measured(value: Any, *, seed: int = 0) -> Any:
    """A value of JSON types, every metric in it replaced by its value and interval."""
    if isinstance(value, Measure | Statistic):
        return measure(value, seed=seed).to_json()
    if isinstance(value, Mapping):
        return {key: measured(item, seed=seed) for key, item in value.items()}
    return [measured(item, seed=seed) for item in value] if isinstance(value, list) else value


def _json(metrics: Mapping[str, Measured]) -> dict[str, dict[str, float | int | None]]:
    return {name: measured.to_json() for name, measured in metrics.items()}

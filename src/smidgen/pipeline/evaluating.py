"""Evaluation of a model on a task, by itself and as a stage of a run."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from smidgen.backend import reset_peak_memory
from smidgen.data.types import Record, Sampling
from smidgen.errors import ConfigError, first_few
from smidgen.evaluation import (
    collect_log,
    compare,
    measure_speed,
    measured,
    read_log,
    read_records,
    summarise,
)
from smidgen.evaluation.records import LoggedRecord, wall_clock
from smidgen.files import read_json, write_json
from smidgen.inference import engine_identity, open_engine
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions
from smidgen.pipeline.asking import PLAIN, Asked, Asking, Skipped, asked_samples, attacked_samples
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import MessageEvent, MetricEvent, StepEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.sources import EvaluationRows
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.tasks import Task
from smidgen.tasks.attacking import Attacks

RECORDS, ATTACKED, RESULT = "records.jsonl", "attacked.jsonl", "evaluation.json"
BASE = "before"
"""Name of the evaluation of the base model."""
SKIPPED = "skipped"
"""Key of the reason in `RESULT`, if the task could not be asked so."""
TABLES = ("model", "evaluate")


class Evaluated(NamedTuple):
    """Result of an evaluation.

    Attributes:
        result: the content of `evaluation.json`.
        records: in the order in which they finished.
        files: further JSON files to write next to the records, by name.
    """

    result: dict[str, Any]
    records: list[Record]
    files: Mapping[str, Any]


def run_evaluation(
    rows: EvaluationRows,
    sampling: Sampling,
    folder: Path,
    engine: EngineOptions,
    *,
    stage: str = "evaluate",
    method: str | None = None,
    constrained: bool = False,
) -> Work[Evaluated]:
    """Evaluate a model, resuming from the records in `folder`.

    Args:
        rows: the rows, their samples and their task.
        sampling: sampling settings; the seed is also used for the bootstrap.
        folder: folder of `records.jsonl`.
        engine: engine options of the model.
        stage: name of the stage in the events.
        method: evaluation method of the task; default: its first.
        constrained: whether decoding is constrained by the task's constraint.

    Raises:
        ConfigError: the task cannot be evaluated by that method.
    """
    task, samples = rows.task, rows.samples
    method = method or task.methods[0]
    if method not in task.methods:
        raise ConfigError(
            f"the task {task.name} cannot be evaluated with --method {method}; leave it out, or use "
            f"{', '.join(task.methods)}"
        )
    for name in (RECORDS, ATTACKED):
        if (folder / name).exists():
            read_log(folder / name)  # a damaged file is refused before a model is loaded
    reset_peak_memory()
    opened = open_engine(engine, scores=method != "generate")
    try:
        identity = engine_identity(engine, scores=method != "generate")
        every = [*samples, *rows.attacked]
        recording = opened if isinstance(opened, ReplayEngine) else getattr(opened, "recording", None)
        unused = None if recording is None else recording.unused(every)
        logs = [
            collect_log(
                task,
                asked,
                task.answer_with(opened, method),
                sampling,
                folder / file,
                model=identity if method == "generate" else f"{identity} by {method}",
                constrained=constrained,
            )
            for asked, file in ((samples, RECORDS), (rows.attacked, ATTACKED))
            if asked
        ]
        log = yield from collected(stage, task, chain(*logs), len(every))
        log, attacked = log[: len(samples)], log[len(samples) :]
        peak = opened.peak_memory_bytes()
    finally:
        opened.close()
    if unused:
        shown = first_few(unused, ", ")
        yield MessageEvent(stage, f"{len(unused):,} rows of {engine.model} match no sample: {shown}")
    name = f"{engine.model} + {engine.adapter}" if engine.adapter else engine.model
    summary = summarise(
        task, samples, log, model=name, data=rows.source, seed=sampling.seed, peak_memory_bytes=peak
    )
    records = [logged.record for logged in log]
    analyses = task.analyses(records, rows.rows, model=engine.model)
    result = summary.to_json() | {
        "settings": task.settings.model_dump(mode="json", exclude_none=True),
        "method": method,
        "has_right_answers": task.has_right_answers,
        **measured(analyses.facts, seed=sampling.seed),
    }
    if task.attacks is not None and attacked:
        result["attacks"] = _attack_facts(task.attacks, records, attacked, seed=sampling.seed)
    if unused is not None:
        result["unused_replay_rows"] = len(unused)
    yield MetricEvent(stage, {name: metric.value for name, metric in summary.metrics.items()})
    return Evaluated(result, records, analyses.files)


def _attack_facts(
    attacks: Attacks, records: Sequence[Record], log: Sequence[LoggedRecord], *, seed: int
) -> dict[str, Any]:
    """Return what a task's attacks did, and what asking them took."""
    attacked = [logged.record for logged in log]
    speed = measure_speed([record.completion.timing for record in attacked], wall_clock(log))
    facts = measured(attacks.facts(records, attacked), seed=seed)
    return {**facts, "n": len(attacked), "speed": speed.to_json()}


def collected(stage: str, task: Task, log: Iterable[LoggedRecord], total: int) -> Work[list[LoggedRecord]]:
    """Collect the records as they are written, reporting the shares of right and of parsed answers."""
    records: list[LoggedRecord] = []
    right = parsed = 0.0
    for number, logged in enumerate(log, start=1):
        records.append(logged)
        score, timing = logged.record.score, logged.record.completion.timing
        right, parsed = right + score.value, parsed + score.parsed
        values = {"parsed": parsed / number}
        if task.has_right_answers:
            values = {"right": right / number, **values}
        tokens = timing.completion_tokens if timing and logged.is_new else 0
        yield StepEvent(stage, number, total, is_new=logged.is_new, tokens=tokens, values=values)
    return records


def evaluation_stage(
    name: str,
    task: TaskContext,
    engine: Callable[[RunContext], EngineOptions],
    *,
    needs: tuple[str, ...],
    method: str | None = None,
    asking: Asking = PLAIN,
    compared_with: Sequence[str] = (),
    entry: Callable[[RunContext], Mapping[str, Any]] | None = None,
) -> Stage:
    """Return a stage that evaluates a model on one task of the recipe.

    Args:
        name: name of the evaluation, such as `after`; the stage's name is that plus the task's name, if any.
        task: the task.
        engine: returns the engine options of the model.
        needs: stages whose outputs it reads.
        method: evaluation method of the task; default: its first.
        asking: how the samples are asked; where a task cannot be asked so, the report says why.
        compared_with: evaluations; the report compares it with the best of them, pairing the samples.
        entry: report entry; default: the evaluation under its name, and the comparison.
    """
    place, method = f"evaluations/{task.named(name)}", method or task.blank.methods[0]
    scores = method != "generate"

    def work(context: RunContext) -> Work[None]:
        asked = asked_samples(context, task, asking)
        if isinstance(asked, Skipped):
            write_json(context.run.path(place) / RESULT, {SKIPPED: asked.reason})
            yield MessageEvent(task.named(name), f"not evaluated: {asked.reason}")
            return
        most = asking.max_tokens or context.sampling.max_tokens
        evaluated = yield from run_evaluation(
            _rows(task, asked),
            replace(context.sampling, max_tokens=most),
            context.run.path(place),
            engine(context),
            stage=task.named(name),
            method=method,
            constrained=asking.constrained,
        )
        for file, content in evaluated.files.items():
            write_json(context.run.path(place) / file, content)
        write_json(context.run.path(place) / RESULT, {**evaluated.result, **asked.facts})

    def inputs(context: RunContext) -> Mapping[str, Any]:
        given = {name: value for name, value in asdict(asking).items() if value is not None}
        asked = {} if asking == PLAIN else {"asking": given}
        return {"task": [task.blank.name, task.blank.version, task.blank.variant], "method": method, **asked}

    def minutes(context: RunContext, probes: Probes) -> float:
        number = len(task.test_samples) + len(attacked_samples(context, task, asking))
        return probes.answer_seconds(task, method, asking) * number / 60

    def own_entry(context: RunContext) -> Mapping[str, Any]:
        found = evaluation_of(context, task, name)
        if SKIPPED in found:
            return of_task(task, {"skipped": {name: found[SKIPPED]}})
        content: dict[str, Any] = {name: found}
        if BASE in compared_with:
            content[name] = {**found, **_against_base(context, task, name)}
        if compared_with:
            other = best_of(context, task, compared_with)
            compared = comparison(context, task, name, other)
            content["comparisons"] = {f"{name}_vs_{other}": compared}
        return of_task(task, content)

    return Stage(
        task.named(name),
        work,
        minutes,
        lambda budgets: budgets.evaluation(task, engine(budgets.context), asking, scores=scores),
        lambda times: times.evaluation(task, engine(times.budgets.context), asking, scores=scores),
        needs=needs,
        tables=TABLES,
        inputs=inputs,
        outputs=(place,),
        entry=entry or own_entry,
    )


def _rows(task: TaskContext, asked: Asked) -> EvaluationRows:
    """Return the test rows of a task with their samples as they are asked."""
    source, rows = task.config.data.test, task.test_rows
    return EvaluationRows(task.task, source, rows, asked.samples, attacked=asked.attacked)


def _against_base(context: RunContext, task: TaskContext, name: str) -> Mapping[str, Any]:
    """Return what a task says of a trained model beside its base."""
    base = {record.sample.id: record for record in records_of(context, task, BASE)}
    records = records_of(context, task, name)
    facts = task.task.against_base(records, [base[record.sample.id] for record in records])
    return measured(facts, seed=context.specialist.evaluate.seed)


def of_task(task: TaskContext, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nest the report content of one task under its name, if the recipe has several tasks."""
    return {"tasks": {task.name: content}} if task.name else content


def evaluation_of(context: RunContext, task: TaskContext, name: str) -> dict[str, Any]:
    """Read the result of a finished evaluation."""
    return read_json(context.run.path(f"evaluations/{task.named(name)}") / RESULT)


def best_of(context: RunContext, task: TaskContext, names: Sequence[str]) -> str:
    """Return the evaluation with the largest headline metric, the first of equal ones."""
    found = {name: evaluation_of(context, task, name) for name in names}
    values = {
        name: next(iter(result["metrics"].values()))["value"]
        for name, result in found.items()
        if SKIPPED not in result
    }
    return max(values, key=lambda name: -math.inf if values[name] is None else values[name])


def comparison(context: RunContext, task: TaskContext, first: str, second: str) -> dict[str, Any]:
    """Return the paired difference of two evaluations in the first metric, and in every one as `metrics`."""
    differences = compare(
        task.task,
        records_of(context, task, first),
        records_of(context, task, second),
        same_prompts="examples" not in evaluation_of(context, task, second),
        seed=context.specialist.evaluate.seed,
    )
    metrics = {name: compared.to_json() for name, compared in differences.items()}
    headline = next(iter(metrics))
    return {"metric": headline, **metrics[headline], "metrics": metrics}


def records_of(context: RunContext, task: TaskContext, name: str) -> list[Record]:
    """Read the records of a finished evaluation."""
    return read_records(context.run.path(f"evaluations/{task.named(name)}") / RECORDS)

"""A model under evaluation: from an engine's options and a task to an evaluation with its records."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from smidgen.backend import reset_peak_memory
from smidgen.data.types import Record, Sampling
from smidgen.errors import ConfigError, first_few
from smidgen.evaluation import collect_log, compare, measured, read_log, read_records, summarise
from smidgen.evaluation.records import LoggedRecord
from smidgen.files import read_json, write_json
from smidgen.inference import engine_identity, open_engine
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions
from smidgen.pipeline.context import RunContext, TaskContext
from smidgen.pipeline.events import MessageEvent, MetricEvent, StepEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.sources import EvaluationRows
from smidgen.pipeline.stage import Estimate, Stage
from smidgen.tasks import Task

RECORDS, RESULT = "records.jsonl", "evaluation.json"
TABLES = ("model", "evaluate")


class Evaluated(NamedTuple):
    """What an evaluation came to.

    Attributes:
        result: as JSON.
        records: in the order in which they were finished.
        files: further JSON files to write beside the records, by name.
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
    """Evaluate a model, resuming the records that are in `folder`.

    Args:
        rows: what is asked, and the task that knows the metrics.
        sampling: how answers are drawn; its seed is also that of the bootstrap.
        folder: where `records.jsonl` goes.
        engine: what answers.
        stage: names the events.
        method: one of the task's; its first if None.
        constrained: whether answers are held to the task's constraint.

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
    if (folder / RECORDS).exists():
        read_log(folder / RECORDS)  # a damaged file is refused before a model is loaded
    reset_peak_memory()
    opened = open_engine(engine, scores=method != "generate")
    try:
        identity = engine_identity(engine, scores=method != "generate")
        unused = opened.unused(samples) if isinstance(opened, ReplayEngine) else None
        log = yield from _collect(
            stage,
            task,
            collect_log(
                task,
                samples,
                task.answer_with(opened, method),
                sampling,
                folder / RECORDS,
                model=identity if method == "generate" else f"{identity} by {method}",
                constrained=constrained,
            ),
            len(samples),
        )
        peak = opened.peak_memory_bytes()
    finally:
        opened.close()
    if unused:
        shown = first_few(unused, ", ")
        yield MessageEvent(
            stage, f"{len(unused):,} rows of {engine.model} answer nothing that is asked: {shown}"
        )
    name = f"{engine.model} + {engine.adapter}" if engine.adapter else engine.model
    found = summarise(
        task, samples, log, model=name, data=rows.source, seed=sampling.seed, peak_memory_bytes=peak
    )
    records = [logged.record for logged in log]
    analyses = task.analyses(records, rows.rows, model=engine.model)
    result = found.to_json() | {
        "settings": task.settings.model_dump(mode="json", exclude_none=True),
        "method": method,
        "graded_alone": not task.has_right_answers,
        **measured(analyses.facts, seed=sampling.seed),
    }
    if unused is not None:
        result["unused_replay_rows"] = len(unused)
    yield MetricEvent(stage, {name: metric.value for name, metric in found.metrics.items()})
    return Evaluated(result, records, analyses.files)


def _collect(stage: str, task: Task, log: Iterable[LoggedRecord], total: int) -> Work[list[LoggedRecord]]:
    """Gather the records as they are written, and tell how many are right and could be read."""
    found: list[LoggedRecord] = []
    right = parsed = 0.0
    for number, logged in enumerate(log, start=1):
        found.append(logged)
        score, timing = logged.record.score, logged.record.completion.timing
        right, parsed = right + score.value, parsed + score.parsed
        values = {"parsed": parsed / number}
        if task.has_right_answers:
            values = {"right": right / number, **values}
        tokens = timing.completion_tokens if timing and logged.is_new else 0
        yield StepEvent(stage, number, total, is_new=logged.is_new, tokens=tokens, values=values)
    return found


def evaluation_stage(
    name: str,
    task: TaskContext,
    engine: Callable[[RunContext], EngineOptions],
    *,
    needs: tuple[str, ...],
    method: str = "generate",
    compared_with: str | None = None,
    entry: Callable[[RunContext], Mapping[str, Any]] | None = None,
) -> Stage:
    """A stage that evaluates a model on one task of the recipe.

    Args:
        name: of the evaluation, as `after`; the stage's has the task's name behind it, if it has one.
        task: of the recipe.
        engine: how the model is opened.
        needs: stages whose outputs it reads.
        method: one of the task's.
        compared_with: the evaluation that the report compares it with, row by row.
        entry: what it adds to the report, if not the evaluation under its name and that comparison.
    """
    place = f"evaluations/{task.named(name)}"

    def work(context: RunContext) -> Work[None]:
        evaluated = yield from run_evaluation(
            EvaluationRows(task.task, task.config.data.test, task.test_rows, task.test_samples),
            context.sampling,
            context.run.path(place),
            engine(context),
            stage=task.named(name),
            method=method,
        )
        for file, content in evaluated.files.items():
            write_json(context.run.path(place) / file, content)
        write_json(context.run.path(place) / RESULT, evaluated.result)

    def inputs(context: RunContext) -> Mapping[str, Any]:
        return {"task": [task.blank.name, task.blank.version, task.blank.variant], "method": method}

    def estimate(context: RunContext, probes: Probes) -> Estimate:
        seconds = probes.answer_seconds(task, method) * len(task.test_samples)
        return Estimate(seconds / 60, probes.memory_bytes)

    def own_entry(context: RunContext) -> Mapping[str, Any]:
        found: dict[str, Any] = {name: evaluation_of(context, task, name)}
        if compared_with is not None:
            compared = comparison(context, task, name, compared_with)
            found["comparisons"] = {f"{name}_vs_{compared_with}": compared}
        return of_task(task, found)

    return Stage(
        task.named(name),
        work,
        estimate,
        needs=needs,
        tables=TABLES,
        inputs=inputs,
        outputs=(place,),
        entry=entry or own_entry,
    )


def of_task(task: TaskContext, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Report content of one task: by its name where the recipe has several, else as it is."""
    return {"tasks": {task.name: content}} if task.name else content


def evaluation_of(context: RunContext, task: TaskContext, name: str) -> dict[str, Any]:
    """What a finished evaluation found."""
    return read_json(context.run.path(f"evaluations/{task.named(name)}") / RESULT)


def comparison(context: RunContext, task: TaskContext, first: str, second: str) -> dict[str, Any]:
    """The paired difference of two evaluations in the first metric, with every other metric's beside it."""
    found = compare(
        task.task,
        records_of(context, task, first),
        records_of(context, task, second),
        seed=context.specialist.evaluate.seed,
    )
    metrics = {name: compared.to_json() for name, compared in found.items()}
    headline = next(iter(metrics))
    return {"metric": headline, **metrics[headline], "metrics": metrics}


def records_of(context: RunContext, task: TaskContext, name: str) -> list[Record]:
    """The records of a finished evaluation."""
    return read_records(context.run.path(f"evaluations/{task.named(name)}") / RECORDS)

"""The teacher of a distillation: its answers to the training rows, and its own score on the held-out ones.

A teacher is any engine: a folder, a GGUF file, a server, or a recording. It is asked for several candidates
per training sample. Each is written as soon as it is finished, so that a run that was killed, or whose
teacher died, goes on with the missing ones. The finished file is in the order of the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smidgen.config import AnyRecipe, AskedTeacherConfig
from smidgen.data.templates import is_raw
from smidgen.data.types import Sample, Sampling
from smidgen.errors import ConfigError
from smidgen.evaluation import collect_log
from smidgen.evaluation.candidates import (
    Candidate,
    candidates_of,
    contradictory,
    refuse_clashing_ids,
    repeated,
)
from smidgen.evaluation.collect import constraint_of
from smidgen.evaluation.records import LoggedRecord, wall_clock
from smidgen.files import read_jsonl, write_json, write_jsonl
from smidgen.inference import engine_identity, model_hash, open_engine
from smidgen.inference.replay import ReplayEngine
from smidgen.inference.sampling import check_sampling
from smidgen.options import EngineOptions
from smidgen.pipeline.asking import Asking, with_system
from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.evaluating import (
    RECORDS,
    RESULT,
    SKIPPED,
    collected,
    comparison,
    evaluation_of,
    evaluation_stage,
    of_task,
)
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import Times

TEACH, TEACHER = "teach", "teacher"
CANDIDATES, SPENT = "candidates.jsonl", "spent.json"
PLACE = "teaching"


def teaching_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return, for each task of a distillation, the stages that evaluate and ask the teacher."""
    if recipe.teacher is None:
        return []
    asking = asking_of(recipe.teacher)
    return [stage for task in tasks for stage in (_evaluation(task, asking), _teach(task))]


def asking_of(teacher: AskedTeacherConfig) -> Asking:
    """Return how the teacher is asked."""
    return Asking(constrained=teacher.constrained, system=teacher.system, max_tokens=teacher.max_tokens)


def sampling_of(teacher: AskedTeacherConfig) -> Sampling:
    """Return the sampling settings of the candidates."""
    return Sampling(
        max_tokens=teacher.max_tokens,
        temperature=teacher.temperature,
        top_p=teacher.top_p,
        seed=teacher.seed,
    )


def questions_of(context: RunContext, task: TaskContext) -> tuple[list[Sample], list[Sample]]:
    """Return the training samples that the teacher is asked, and those left out for contradictory labels.

    A label that contradicts another cannot confirm an answer; a judge does not go by labels.
    """
    samples = task.training_samples
    left_out = contradictory(task.task, samples) if context.teacher.keep == "gold" else []
    ids = {sample.id for sample in left_out}
    return [sample for sample in samples if sample.id not in ids], left_out


def requests_of(context: RunContext, task: TaskContext) -> list[Sample]:
    """Return every candidate to ask for: the samples as the teacher sees them, several times."""
    teacher, (samples, _) = context.teacher, questions_of(context, task)
    asked = [with_system(sample, teacher.system) for sample in samples]
    return repeated(asked, teacher.candidates)


def read_candidates(context: RunContext, task: TaskContext) -> list[Candidate]:
    """Read the answers of the teacher, in the order of the rows."""
    samples = {sample.id: sample for sample in task.training_samples}
    rows = read_jsonl(context.run.path(task.named(PLACE)) / CANDIDATES)
    return [Candidate.from_json(row, samples[row["sample"]]) for row in rows]


def check_teaching(context: RunContext) -> None:
    """Refuse a distillation that a later stage could not finish; no server is asked.

    Raises:
        UserError: says what is wrong.
    """
    if context.recipe.teacher is None:
        return
    teacher, options = context.teacher, context.teacher_engine
    check_sampling(sampling_of(teacher))
    model_hash(options)
    for task in context.tasks:
        if task.blank.methods[0] != "generate" or not task.blank.has_right_answers:
            raise ConfigError(
                f"the task {task.blank.name} has no written answers that are right or wrong, so there is "
                "nothing to distil; choose another task"
            )
        samples, _ = questions_of(context, task)
        if teacher.constrained:
            for sample in samples:
                constraint_of(task.task, sample)
        if teacher.system is not None and any(is_raw(sample.messages) for sample in samples):
            raise ConfigError(
                f"the prompts of the task {task.blank.name} are raw text without turns; leave out "
                "teacher.system"
            )
        refuse_clashing_ids(samples, teacher.candidates, task.config.data.trained_on)
        if missing := _unrecorded(options, requests_of(context, task)):
            raise ConfigError(
                f"the recording {teacher.model} lacks {len(missing):,} of the answers that are asked for, "
                f"such as '{missing[0]}'; expected {teacher.candidates} per training sample, with the id of "
                "the sample, then that id with #2, #3 and so on; lower teacher.candidates or complete it"
            )


def _unrecorded(options: EngineOptions, samples: Sequence[Sample]) -> list[str]:
    """Return the ids that a recording has no answer for; none for any other teacher."""
    if not _is_recording(options):
        return []
    known = ReplayEngine(Path(options.model)).ids
    return [sample.id for sample in samples if sample.id not in known]


def _is_recording(options: EngineOptions) -> bool:
    return options.engine == "replay" or (options.engine == "auto" and options.model.endswith(".jsonl"))


def _teach(task: TaskContext) -> Stage:
    """Return the stage that asks the teacher for its candidates."""
    place, name = task.named(PLACE), task.named(TEACH)

    def work(context: RunContext) -> Work[None]:
        samples, left_out = questions_of(context, task)
        if left_out:
            shown = f"{len(left_out):,} training samples, such as '{left_out[0].id}'"
            yield MessageEvent(
                name, f"{shown}, are not asked: another row has the same prompt and another label"
            )
        log = yield from _ask(context, task, context.run.path(place) / RECORDS)
        records = [logged.record for logged in log]
        found = candidates_of(samples, records, context.teacher.candidates)
        write_jsonl(context.run.path(place) / CANDIDATES, (each.to_json() for each in found))
        write_json(context.run.path(place) / SPENT, spent(log))

    def minutes(context: RunContext, probes: Probes) -> float:
        engine, asking = context.teacher_engine, asking_of(context.teacher)
        each = probes.answer_seconds(task, "generate", asking, engine=engine)
        return each * len(requests_of(context, task)) / 60

    return Stage(
        name,
        work,
        minutes,
        lambda budgets: teacher_budget(budgets, task),
        lambda times: teacher_seconds(times, task, lambda: len(requests_of(times.budgets.context, task))),
        needs=("data",),
        inputs=lambda context: _inputs(context, task),
        outputs=(place,),
    )


def _ask(context: RunContext, task: TaskContext, path: Path) -> Work[list[LoggedRecord]]:
    """Ask for the candidates that are missing; what is finished stays in the file at `path`."""
    requests, options = requests_of(context, task), context.teacher_engine
    opened = open_engine(options)
    try:
        log = collect_log(
            task.task,
            requests,
            opened,
            sampling_of(context.teacher),
            path,
            model=engine_identity(options),
            constrained=context.teacher.constrained,
        )
        return (yield from collected(task.named(TEACH), task.task, log, len(requests)))
    finally:
        opened.close()


def spent(log: Sequence[LoggedRecord]) -> dict[str, Any]:
    """Return the requests, tokens and seconds of all sessions; tokens are None if some are unknown."""
    timings = [logged.record.completion.timing for logged in log]
    known = [timing for timing in timings if timing is not None]
    counted = len(known) == len(timings)
    return {
        "requests": len(log),
        "prompt_tokens": sum(timing.prompt_tokens for timing in known) if counted else None,
        "completion_tokens": sum(timing.completion_tokens for timing in known) if counted else None,
        "seconds": wall_clock(log),
    }


def _inputs(context: RunContext, task: TaskContext) -> Mapping[str, Any]:
    """Return what determines the answers; how many are asked for at once or how long is waited does not."""
    return {
        "task": [task.blank.name, task.blank.version, task.blank.variant],
        "teacher": model_hash(context.teacher_engine),
        "asking": context.teacher.model_dump(
            mode="json",
            include={"engine", "system", "constrained", "candidates", "keep"},
        ),
        "sampling": vars(sampling_of(context.teacher)),
    }


def _evaluation(task: TaskContext, asking: Asking) -> Stage:
    """Return the stage that evaluates the teacher on the held-out rows, as every other model is."""

    def entry(context: RunContext) -> Mapping[str, Any]:
        found = evaluation_of(context, task, TEACHER)
        if SKIPPED in found:
            return of_task(task, {"skipped": {TEACHER: found[SKIPPED]}})
        compared = comparison(context, task, "after", TEACHER)
        return of_task(task, {TEACHER: found, "comparisons": {"after_vs_teacher": compared}})

    stage = evaluation_stage(
        TEACHER, task, lambda context: context.teacher_engine, needs=("data",), asking=asking, entry=entry
    )

    def work(context: RunContext) -> Work[None]:
        if _unrecorded(context.teacher_engine, task.test_samples):
            reason = "the recording has no answers to these rows"
            write_json(context.run.path(stage.outputs[0]) / RESULT, {SKIPPED: reason})
            yield MessageEvent(stage.name, f"not evaluated: {reason}")
            return
        yield from stage.work(context)

    def minutes(context: RunContext, probes: Probes) -> float:
        each = probes.answer_seconds(task, "generate", asking, engine=context.teacher_engine)
        return each * len(task.test_samples) / 60

    return replace(
        stage,
        work=work,
        minutes=minutes,
        budget=lambda budgets: teacher_budget(budgets, task),
        seconds=lambda times: teacher_seconds(times, task, lambda: len(task.test_samples)),
        tables=("evaluate",),
        inputs=lambda context: {
            **stage.inputs(context),
            "teacher": model_hash(context.teacher_engine),
            "engine": context.teacher.engine,
        },
    )


def teacher_budget(budgets: Budgets, task: TaskContext) -> StageBudget:
    """Return the memory of running the teacher here; that of reading rows if it runs elsewhere."""
    return budgets.asked(task, budgets.context.teacher_engine, budgets.context.teacher.max_tokens)


def teacher_seconds(times: Times, task: TaskContext, requests: Callable[[], int]) -> float | None:
    """Return the time of some answers of the teacher, if it runs here."""
    context = times.budgets.context
    return times.asked(task, context.teacher_engine, context.teacher.max_tokens, requests)

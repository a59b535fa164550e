"""Which answers of a teacher a student is trained on: grading by a judge, filtering, and the split.

teaching/candidates.jsonl    every answer, in the order of the rows
grading/records.jsonl        the judge's grades, for keep = "judge"
distilled/kept.jsonl         the samples to train on and, by their `split`, to validate on
distilled/rejected.jsonl     every other answer with its reason
distilled/facts.json         the counts of both
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from smidgen.config import AnswerJudgeConfig, AnyRecipe, AskedModelConfig, SftConfig
from smidgen.data.fields import conversation
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Sample, Sampling
from smidgen.errors import DataError, WorkError
from smidgen.evaluation import collect_log, measured, read_records
from smidgen.evaluation.candidates import (
    Candidate,
    Fault,
    Reason,
    Rejected,
    by_gold,
    filter_facts,
    keep_best,
    keep_whole,
    taught,
    unusable,
)
from smidgen.evaluation.distillation_section import priced
from smidgen.files import is_url, read_json, write_json, write_jsonl
from smidgen.inference import engine_identity, model_hash, open_engine
from smidgen.models.load import resolve
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import KEPT, RunContext, asked_engine
from smidgen.pipeline.evaluating import RECORDS, collected, of_task
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.teaching import PLACE, SPENT, TEACH, questions_of, read_candidates, spent
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.forms import Case
from smidgen.tasks.judge.grade import Grade
from smidgen.tasks.splitting import held_out
from smidgen.tasks.templates import find_form
from smidgen.training.sft import sft_rows

GRADE, KEEP = "grade", "keep"
GRADING = "grading"
REJECTED, FACTS = "rejected.jsonl", "facts.json"
KEEPING_SECONDS = 2e-4
"""Time to filter, render and write one answer; filtering 6,000 of CLINC150 took 8e-5 each on one core."""


def keeping_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return, for each task of a distillation, the stages that grade and filter the teacher's answers."""
    if recipe.teacher is None:
        return []
    judge = recipe.teacher.judge
    return [
        stage
        for task in tasks
        for stage in (*([] if judge is None else [_grade(task, judge)]), _keep(task, judge is not None))
    ]


def keeping_names(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[str]:
    """Return the names of the stages whose samples are trained on; none if the rows' own targets are."""
    return [task.named(KEEP) for task in tasks] if recipe.teacher is not None else []


def check_keeping(context: RunContext) -> None:
    """Refuse a judge that cannot be used.

    Raises:
        UserError: says what is wrong.
    """
    if context.recipe.teacher is not None and (judge := context.teacher.judge) is not None:
        find_form(Grade.name, rubric=judge.rubric)
        model_hash(asked_engine(judge))


def _grade(task: TaskContext, judge: AnswerJudgeConfig) -> Stage:
    """Return the stage in which a judge grades every different answer once."""
    place, name = task.named(GRADING), task.named(GRADE)

    def work(context: RunContext) -> Work[None]:
        samples = _judged_samples(read_candidates(context, task), judge)
        options = asked_engine(judge)
        if not samples:
            write_jsonl(context.run.path(place) / RECORDS, [])
            write_json(context.run.path(place) / SPENT, spent([]))
            return
        opened = open_engine(options)
        try:
            log = collect_log(
                JudgeTask(find_form(Grade.name, rubric=judge.rubric), reference=judge.reference),
                samples,
                opened,
                Sampling(max_tokens=judge.max_tokens),
                context.run.path(place) / RECORDS,
                model=engine_identity(options),
            )
            found = yield from collected(name, JudgeTask(Grade()), log, len(samples))
        finally:
            opened.close()
        write_json(context.run.path(place) / SPENT, spent(found))

    def inputs(context: RunContext) -> Mapping[str, Any]:
        asking = judge.model_dump(mode="json", include={"engine", "rubric", "reference", "max_tokens"})
        return {"judge": model_hash(asked_engine(judge)), "asking": asking}

    def minutes(context: RunContext, probes: Probes) -> float:
        each = probes.answer_seconds(task, "generate", engine=asked_engine(judge))
        return each * len(task.training_samples) * context.teacher.candidates / 60

    return Stage(
        name,
        work,
        minutes,
        lambda budgets: budgets.asked(task, asked_engine(judge), judge.max_tokens),
        lambda times: times.asked(
            task,
            asked_engine(judge),
            judge.max_tokens,
            lambda: len(task.training_samples) * times.budgets.context.teacher.candidates,
        ),
        needs=(task.named(TEACH),),
        inputs=inputs,
        outputs=(place,),
    )


def _judged_samples(candidates: Sequence[Candidate], judge: AnswerJudgeConfig) -> list[Sample]:
    """Return the prompts for a judge, one for each different answer to a sample that is an answer at all."""
    form, seen, found = find_form(Grade.name, rubric=judge.rubric), set[tuple[str, str]](), []
    for candidate in candidates:
        key = candidate.sample.id, candidate.text
        if key in seen or unusable(candidate) is not None:
            continue
        seen.add(key)
        turns = [(message.role, message.content) for message in candidate.sample.messages]
        reference = candidate.sample.target if judge.reference else None
        case = Case(conversation(turns, "messages"), candidate.text, None, reference)
        found.append(Sample(candidate.id, form.messages(case)))
    return found


def _keep(task: TaskContext, is_judged: bool) -> Stage:
    """Return the stage that filters the answers, and splits what is kept."""
    place, name = task.named(KEPT.parent.name), task.named(KEEP)

    def work(context: RunContext) -> Work[None]:
        teacher, candidates = context.teacher, read_candidates(context, task)
        accept = _by_judge(context, task) if is_judged else by_gold
        kept, rejected = keep_best(
            candidates, accept, fits=_fits(context), at_most=teacher.at_most, prefer=teacher.prefer
        )
        asked, left_out = questions_of(context, task)
        if teacher.whole_groups:
            kept, rejected = keep_whole(kept, rejected, task.task.reward_groups(asked))
        write_jsonl(context.run.path(place) / REJECTED, _rejected_rows(rejected, left_out))
        facts = filter_facts(candidates, kept, rejected) | {"contradictory": len(left_out)}
        write_json(context.run.path(place) / FACTS, measured(facts, seed=teacher.seed))
        yield MessageEvent(name, _summary(facts))
        rows = _split(context, task, kept)
        write_jsonl(context.run.path(place) / KEPT.name, rows)

    def inputs(context: RunContext) -> Mapping[str, Any]:
        teacher, train = context.teacher, context.recipe.train
        settings = teacher.model_dump(mode="json", include={"keep", "at_most", "prefer", "whole_groups"})
        threshold = teacher.judge.threshold if teacher.judge else None
        return {"filter": settings, "threshold": threshold, "max_length": train.max_length}

    return Stage(
        name,
        work,
        lambda context, probes: (
            KEEPING_SECONDS * len(task.training_samples) * context.teacher.candidates / 60
        ),
        Budgets.reading,
        needs=("data", task.named(TEACH), *([task.named(GRADE)] if is_judged else [])),
        tables=("model",),
        inputs=inputs,
        outputs=(place,),
        entry=lambda context: of_task(task, {"distillation": distillation_facts(context, task)}),
    )


def distillation_facts(context: RunContext, task: TaskContext) -> dict[str, Any]:
    """Return what the teacher reached on the training rows, what was kept, and what it cost."""
    teacher, run = context.teacher, context.run
    facts = read_json(run.path(task.named(KEPT.parent.name)) / FACTS)

    def cost(asked: AskedModelConfig, place: str) -> dict[str, Any]:
        counted = read_json(run.path(task.named(place)) / SPENT)
        name = asked.model_name or ""
        return priced(counted, context.prices, name=name, is_server=is_url(asked.model))

    judged = (
        {"judge": teacher.judge.name, "judge_cost": cost(teacher.judge, GRADING)} if teacher.judge else {}
    )
    asked = {"teacher": teacher.name, "candidates": teacher.candidates, "keep": teacher.keep}
    return {**asked, **facts, "cost": cost(teacher, PLACE), **judged}


def _by_judge(context: RunContext, task: TaskContext) -> Callable[[Candidate], Fault | None]:
    """Return a filter that accepts what the judge graded well."""
    judge = context.teacher.judge
    assert judge is not None
    records = read_records(context.run.path(task.named(GRADING)) / RECORDS)
    scores = {record.sample.id: record.score for record in records}
    graded: dict[tuple[str, str], str] = {}

    def accept(candidate: Candidate) -> Fault | None:
        first = graded.setdefault((candidate.sample.id, candidate.text), candidate.id)
        score = scores[first]
        if not score.parsed or score.answer is None:
            return Fault(Reason.UNGRADED, score.explanation)
        return None if float(score.answer) >= judge.threshold else Fault(Reason.LOW_GRADE, score.answer)

    return accept


def _fits(context: RunContext) -> Callable[[Sample], str]:
    """Return a function that says why a sample cannot be trained on, empty if it can."""
    recipe, settings = context.specialist, context.recipe.train
    assert isinstance(settings, SftConfig)
    tokenizer = load_tokenizer(resolve(recipe.model.base))

    def fits(sample: Sample) -> str:
        try:
            sft_rows([sample], tokenizer, settings, thinking=recipe.model.thinking)
        except DataError as error:
            return str(error).partition(": ")[2]
        return ""

    return fits


def _rejected_rows(rejected: Sequence[Rejected], left_out: Sequence[Sample]) -> list[dict[str, Any]]:
    unasked = {"reason": Reason.CONTRADICTORY, "detail": "another row has the same prompt and another label"}
    return [
        *({"id": sample.id, "sample": sample.id, "text": None, **unasked} for sample in left_out),
        *(one.to_json() for one in rejected),
    ]


def _split(context: RunContext, task: TaskContext, kept: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Return the rows of the kept samples with their split, drawn from each label in proportion.

    Answers to one row or one prompt, and both orders of a pair, are on the same side.

    Raises:
        WorkError: too few samples were kept to hold any out.
    """
    data, teacher = task.config.data, context.teacher
    first: dict[Any, str] = {}
    groups: dict[str, list[Candidate]] = {}
    for candidate in kept:
        sample = candidate.sample
        row = str(sample.metadata.get("pair", sample.id))
        groups.setdefault(first.setdefault(sample.messages, row), []).append(candidate)
    if len(groups) < 2:
        reasons = context.run.path(task.named(KEPT.parent.name)) / REJECTED
        raise WorkError(
            f"{len(groups)} rows have an answer of {teacher.name} that was kept, and at least 2 are needed; "
            f"the reasons are in {reasons}. Give a better teacher or teacher.system, more candidates, or "
            "another filter"
        )
    count = min(data.validation_limit, max(1, round(len(groups) * data.validation_fraction)))
    labels = [group[0].sample.target or "" for group in groups.values()]
    out = held_out(labels, min(count, len(groups) - 1), random.Random(f"distilled/{data.seed}"))
    sides = {
        candidate.id: "validation" if index in out else "train"
        for index, group in enumerate(groups.values())
        for candidate in group
    }
    return [
        {**asdict(taught(candidate)), "split": sides[candidate.id], "gold": candidate.sample.target}
        for candidate in kept
    ]


def _summary(facts: Mapping[str, Any]) -> str:
    """Say in one sentence what was kept."""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in facts["rejected"].items())
    return (
        f"kept {facts['kept']:,} of {facts['answers']:,} answers, to {facts['kept_samples']:,} of "
        f"{facts['samples']:,} samples" + (f"; dropped: {dropped}" if dropped else "")
    )

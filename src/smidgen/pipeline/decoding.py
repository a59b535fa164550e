"""What a training on trajectories was for: one token a pass against several, on every held-out prompt."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from smidgen.config import AnyRecipe, JacobiConfig
from smidgen.data.types import Completion, Request, Sample, Sampling
from smidgen.evaluation.decoding_section import Answered, decoding_facts
from smidgen.files import read_json, write_json
from smidgen.inference.acceptance import MOST_DRAFT
from smidgen.inference.cpu_forward import LARGEST
from smidgen.inference.drafting import Drafting
from smidgen.inference.mlx import MlxEngine
from smidgen.models.budget import decoding_budget
from smidgen.models.load import LoadedModel, load
from smidgen.options import EngineOptions
from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.evaluating import of_task
from smidgen.pipeline.events import MessageEvent, StepEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import Times

STAGE = "decoding"
WAYS: Mapping[str, Drafting | None] = {
    "ar": None, "lookup": Drafting("lookup"), "jacobi": Drafting("jacobi"),
}  # fmt: skip
BATCHES = (1, 8)


def decoding_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the stage that compares ways of decoding for each task that is answered in writing."""
    if not isinstance(recipe.train, JacobiConfig):
        return []
    return [_decoding(task) for task in tasks if task.blank.methods[0] == "generate"]


def _decoding(task: TaskContext) -> Stage:
    place = f"{task.named(STAGE)}.json"

    def work(context: RunContext) -> Work[None]:
        model, adapter = context.trained
        loaded, found = load(model, adapter=adapter), {}
        for number, batch in enumerate(BATCHES):
            answered = yield from _compared(loaded, context, task, number, batch)
            found[str(batch)] = {
                way: decoding_facts(one, answered["ar"]) | _right(task, one.completions)
                for way, one in answered.items()
            }
        write_json(context.run.path(place), {"batches": found})
        yield MessageEvent(task.named(STAGE), _summary(found))

    def minutes(context: RunContext, probes: Probes) -> float:
        each = probes.answer_seconds(task, "generate")
        return each * len(BATCHES) * len(WAYS) * len(task.test_samples) / 60

    return Stage(
        task.named(STAGE),
        work,
        minutes,
        lambda budgets: _budget(budgets, task),
        lambda times: _seconds(times, task),
        needs=("data", "train"),
        tables=("model", "evaluate"),
        outputs=(place,),
        entry=lambda context: of_task(task, {"decoding": read_json(context.run.path(place))}),
    )


def _budget(budgets: Budgets, task: TaskContext) -> StageBudget:
    """Return the memory of the engines of all ways, on a CPU each with a copy of the weights."""
    rows = max(BATCHES)
    decoding = budgets.decoding(task, _options(budgets, rows))
    copies = len(WAYS) if decoding.cpu and budgets.shape.parameters <= LARGEST else 0
    return StageBudget(
        decoding_budget(
            decoding._replace(
                weights=decoding.weights * (1 + copies),
                logits=max(decoding.logits, decoding.rows * (1 + MOST_DRAFT)),
            )
        )
    )


def _seconds(times: Times, task: TaskContext) -> float | None:
    """Return the time of all ways; drafts are taken to save none."""
    each = [times.evaluation(task, _options(times.budgets, rows)) for rows in BATCHES]
    return None if None in each else len(WAYS) * sum(filter(None, each))


def _options(budgets: Budgets, rows: int) -> EngineOptions:
    return replace(budgets.context.trained_engine, engine="mlx", batch_size=rows)


def _compared(
    loaded: LoadedModel, context: RunContext, task: TaskContext, number: int, batch: int
) -> Work[dict[str, Answered]]:
    """Answer all held-out prompts in every way, `batch` of them together, and return the answers by way.

    The ways take turns on each batch of prompts, and the order of the turns rotates. The first prompt is
    answered before, which measures the times of passes and is not counted. `number` comparisons are done.
    """
    settings, samples = context.specialist, task.test_samples
    thinking, sampling = settings.model.thinking, Sampling(max_tokens=settings.evaluate.max_tokens)
    engines = {
        way: MlxEngine(loaded, thinking=thinking, batch_size=batch, drafting=drafting)
        for way, drafting in WAYS.items()
    }
    answered, names = {way: Answered() for way in engines}, list(engines)
    for engine in engines.values():
        _answers(engine, samples[:1], sampling)
    for turn, begin in enumerate(range(0, len(samples), batch)):
        part = samples[begin : begin + batch]
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            answered[way].completions += _answers(engines[way], part, sampling)
            answered[way].seconds.append(time.perf_counter() - started)
        done, total = number * len(samples) + begin + len(part), len(BATCHES) * len(samples)
        yield StepEvent(task.named(STAGE), done, total)
    return answered


def _answers(engine: MlxEngine, samples: Sequence[Sample], sampling: Sampling) -> list[Completion]:
    """Answer prompts greedily; return the answers in their order."""
    requests = [Request(sample, sampling, logprobs=False) for sample in samples]
    found = {request.sample.id: completion for request, completion in engine.complete(requests)}
    return [found[sample.id] for sample in samples]


def _right(task: TaskContext, completions: Sequence[Completion]) -> dict[str, float]:
    """Return the number of right answers, if the task knows them."""
    if not task.blank.has_right_answers:
        return {}
    scores = zip(task.test_samples, completions, strict=True)
    return {"right": sum(task.task.score(sample, completion).value for sample, completion in scores)}


def _summary(found: Mapping[str, Any]) -> str:
    """Say in one sentence what drafts gave for one answer at a time."""
    facts = found[str(BATCHES[0])]["jacobi"]
    faster = facts["speed_up"]["value"]
    return (
        f"Jacobi decoding gave {facts['tokens_per_pass']:.2f} tokens a pass, {faster:.2f} times as fast as "
        f"one token a pass, and {facts['same']:,} of {facts['answers']:,} answers the same"
    )

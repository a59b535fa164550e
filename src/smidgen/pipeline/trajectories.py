"""The trajectories that a recipe with `method = "jacobi"` is trained on: the base answers the prompts.

trajectories/train/shard-00000.jsonl         of training prompts of similar length, and so on
trajectories/validation/shard-00000.jsonl    of validation prompts
trajectories/facts.json                      what they are of, and the counts

A shard is collected by itself and written as a whole, so a run that was killed goes on with the next one and
comes to the same files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smidgen.config import AnyRecipe, JacobiConfig
from smidgen.data.trajectories import Trajectory, read_shard
from smidgen.errors import first_few
from smidgen.files import content_hash, sha256_file, write_json, write_jsonl
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import forward_of
from smidgen.inference.trajectories import Question, collect_trajectories
from smidgen.models.budget import decoding_budget
from smidgen.models.load import LoadedModel, load, resolve
from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.events import MessageEvent, StepEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import Times
from smidgen.pipeline.trajectory_rows import FACTS, PLACE, SPLITS, questions_of

STAGE = "trajectories"
VERSION = 2
"""Raised when other trajectories are collected of the same answers."""
SHARD = 128
"""Prompts of a shard, neighbours by length."""
SHARE_RUN = 0.4
"""Tokens that are run for each of an answer, by those of a block: half of it, in passes that find 1.25."""


def trajectory_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the stage that collects trajectories, if the recipe is trained on them."""
    if not isinstance(recipe.train, JacobiConfig):
        return []
    return [
        Stage(
            STAGE,
            _collect,
            _minutes,
            lambda budgets: _budget(budgets, tasks),
            lambda times: _seconds(times, tasks),
            needs=("data",),
            tables=("model",),
            inputs=_inputs,
            outputs=(PLACE,),
        )
    ]


def trajectory_names(recipe: AnyRecipe) -> list[str]:
    """Return the names of the stages that a training on trajectories needs."""
    return [STAGE] if isinstance(recipe.train, JacobiConfig) else []


def _collect(context: RunContext) -> Work[None]:
    """Collect the shards that are missing."""
    settings, model = context.recipe.train, context.specialist.model
    assert isinstance(settings, JacobiConfig)
    loaded, seed, done = load(model.base), context.specialist.data.seed, 0
    parts: dict[str, list[list[Question]]] = {}
    left_out: list[str] = []
    for split, samples in zip(SPLITS, (context.training_samples, context.validation_samples), strict=True):
        questions, faults = questions_of(samples, loaded.tokenizer, settings, thinking=model.thinking)
        parts[split] = _shards(questions)
        left_out += faults
    if left_out:
        yield MessageEvent(
            STAGE,
            f"left out {len(left_out):,} prompts that leave no room for an answer within train.max_length, "
            f"{settings.max_length:,}: {first_few(left_out)}",
        )
    total = sum(len(shard) for shards in parts.values() for shard in shards)
    counts: dict[str, Any] = dict.fromkeys(("answers", "unfinished", "tokens", "iterations", "states"), 0)
    files: list[dict[str, Any]] = []
    for split, shards in parts.items():
        for number, questions in enumerate(shards):
            path = context.run.path(f"{PLACE}/{split}/shard-{number:05d}.jsonl")
            if path.exists():
                yield StepEvent(STAGE, done + len(questions), total, is_new=False)
            else:
                yield from _collect_shard(path, questions, loaded, settings, seed, (done, total))
            done += len(questions)
            _count(counts, read_shard(path))
            files.append(_described(path, split, questions))
    facts = {
        "model": {"name": model.base, "sha256": content_hash(resolve(model.base))},
        **_collecting(context),
        **counts,
        "left_out": len(left_out),
        "files": files,
    }
    write_json(context.run.path(FACTS), facts)
    yield MessageEvent(STAGE, _summary(counts))


def _shards(questions: Sequence[Question]) -> list[list[Question]]:
    """Return the prompts in shards of similar length, so that a batch has little padding."""
    ordered = sorted(questions, key=lambda one: len(one.prompt))
    return [ordered[at : at + SHARD] for at in range(0, len(ordered), SHARD)]


def _collect_shard(
    path: Path,
    questions: Sequence[Question],
    loaded: LoadedModel,
    settings: JacobiConfig,
    seed: int,
    progress: tuple[int, int],
) -> Work[None]:
    """Write the trajectories of a shard, in the order of its prompts."""
    done, total = progress
    tokens = iterations = 0
    found: dict[int, Trajectory] = {}
    collecting = collect_trajectories(
        Decoder(forward_of(loaded.model)),  # a new one, so that a shard does not depend on those before it
        questions,
        block_size=settings.block_size,
        end_tokens=loaded.tokenizer.eos_token_ids,
        batch_size=settings.collect_batch_size,
        seed=seed,
    )
    for place, trajectory in collecting:
        found[place], new = trajectory, len(trajectory.answer)
        tokens, iterations = tokens + new, iterations + trajectory.iterations
        values = {"tokens_per_pass": tokens / iterations}
        yield StepEvent(STAGE, done + len(found), total, tokens=new, values=values)
    write_jsonl(path, (found[place].to_json() for place in range(len(questions))))


def _count(counts: dict[str, Any], found: Sequence[Trajectory]) -> None:
    for one in found:
        counts["answers"] += 1
        counts["unfinished"] += not one.is_finished
        counts["tokens"] += len(one.answer)
        counts["iterations"] += one.iterations
        counts["states"] += sum(map(len, one.blocks))


def _described(path: Path, split: str, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the provenance of a shard."""
    lengths = [len(one.prompt) for one in questions]
    return {
        "file": f"{split}/{path.name}",
        "sha256": sha256_file(path),
        "answers": len(questions),
        "prompt_tokens": [min(lengths), max(lengths)],
    }


def _summary(counts: Mapping[str, Any]) -> str:
    """Say in one sentence what was collected."""
    cut = f", {counts['unfinished']:,} of them cut off" if counts["unfinished"] else ""
    return (
        f"collected {counts['answers']:,} answers{cut} with {counts['tokens']:,} tokens, of which a pass "
        f"found {counts['tokens'] / counts['iterations']:.2f}"
    )


def _inputs(context: RunContext) -> Mapping[str, Any]:
    """Return what determines the trajectories; how many are collected together does not."""
    return {"model": content_hash(resolve(context.specialist.model.base)), **_collecting(context)}


def _collecting(context: RunContext) -> dict[str, Any]:
    """Return the settings of the collection; the seed is that of the data, which outlasts trainings."""
    names = {"block_size", "max_tokens", "max_length"}
    return context.recipe.train.model_dump(mode="json", include=names) | {
        "seed": context.specialist.data.seed,
        "version": VERSION,
    }


def _minutes(context: RunContext, probes: Probes) -> float:
    settings = context.recipe.train
    assert isinstance(settings, JacobiConfig)
    each = [probes.answer_seconds(task, "generate") for task in context.tasks]
    mean = sum(each) / len(each)
    return _slowdown(settings) * mean * _number(context) / 60


def _seconds(times: Times, tasks: Sequence[TaskContext]) -> float | None:
    context = times.budgets.context
    settings, options = context.recipe.train, replace(context.base_engine, engine="mlx")
    assert isinstance(settings, JacobiConfig)
    found = [
        times.evaluation(task, options, ends=True, requests=lambda task=task: _number_of(task))
        for task in tasks
    ]
    return None if None in found else _slowdown(settings) * sum(filter(None, found))


def _slowdown(settings: JacobiConfig) -> float:
    """Return how much longer a collection takes than answers do, where the number of tokens decides."""
    return max(1.0, SHARE_RUN * settings.block_size)


def _budget(budgets: Budgets, tasks: Sequence[TaskContext]) -> StageBudget:
    context = budgets.context
    settings, options = context.recipe.train, replace(context.base_engine, engine="mlx")
    assert isinstance(settings, JacobiConfig)
    rows = min(settings.collect_batch_size, SHARD, _number(context))
    decodings = [
        budgets.decoding(task, options)._replace(
            rows=rows, answer=settings.max_tokens, logits=rows * settings.block_size
        )
        for task in tasks
    ]
    found = max(map(decoding_budget, decodings), key=lambda budget: budget.peak)
    return StageBudget(found)


def _number(context: RunContext) -> int:
    return sum(map(_number_of, context.tasks))


def _number_of(task: TaskContext) -> int:
    """Return the number of answers that are collected of a task."""
    return sum(map(len, task.split_samples))

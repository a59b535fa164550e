"""The stages of every training method: writing the data, and training."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smidgen.config import AnyRecipe, DpoConfig, PretrainRecipe, Recipe
from smidgen.files import content_hash, read_json, write_jsonl
from smidgen.models.graph import named_arrays
from smidgen.models.load import resolve
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext, TaskContext
from smidgen.pipeline.events import MessageEvent, StepEvent, Work
from smidgen.pipeline.jobs import TOKENIZER, TOKENIZER_DOCUMENTS, make_tokenizer, prepare_training
from smidgen.pipeline.sources import DataFacts, data_facts
from smidgen.pipeline.stage import Stage
from smidgen.training.loop import train

FACTS, SUMMARY, METRICS = "data/facts.json", "training.json", "metrics.jsonl"
CACHES = ("trunk", "teacher", "reference")
"""Folders of what is computed once per row, until the training is finished."""
TOKENIZER_SECONDS = 20.0
"""Time to train a tokenizer of a few thousand entries on `TOKENIZER_DOCUMENTS`, on two cores."""


@dataclass(frozen=True)
class TaskFacts:
    """What the data stage recorded for one task.

    Attributes:
        findings: problems found in the rows, one sentence each.
        train: provenance of the training rows.
        test: provenance of the held-out rows.
    """

    findings: list[str]
    train: DataFacts
    test: DataFacts


def data_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the stage that writes the training and evaluation samples."""
    if isinstance(recipe, PretrainRecipe):
        return [
            Stage(
                "data",
                _make_tokenizer,
                lambda context, probes: TOKENIZER_SECONDS / 60,
                Budgets.reading,
                tables=("data", "model"),
                inputs=lambda context: {"documents": TOKENIZER_DOCUMENTS},
                outputs=(TOKENIZER,),
            )
        ]
    return [
        Stage(
            "data",
            _write_samples,
            lambda context, probes: probes.row_seconds / 60,
            Budgets.reading,
            tables=("task", "settings", "tasks", "data"),
            inputs=_data_inputs,
            outputs=("data",),
        )
    ]


def training_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the training stage, the same for every method."""
    return [
        Stage(
            "train",
            _train,
            lambda context, probes: probes.training.minutes,
            Budgets.training,
            needs=("data",),
            tables=("model", "train"),
            inputs=_training_inputs,
            outputs=("best", METRICS, SUMMARY),
            scratch=("checkpoints", *CACHES),
            entry=_training_entry,
        )
    ]


def _data_inputs(context: RunContext) -> Mapping[str, Any]:
    return {
        "files": {source: sha for task in context.tasks for source, sha in task.source_hashes().items()},
        "tasks": [[task.blank.name, task.blank.version, task.blank.variant] for task in context.tasks],
    }


def _training_inputs(context: RunContext) -> Mapping[str, Any]:
    """Return the content of the teacher's files, since its name alone does not say which model it is."""
    if (teacher := context.teacher) is None:
        return {}
    adapter = {} if teacher.adapter is None else {"teacher_adapter": content_hash(Path(teacher.adapter))}
    return {"teacher": content_hash(resolve(teacher.model)), **adapter}


def _make_tokenizer(context: RunContext) -> Work[None]:
    assert isinstance(context.recipe, PretrainRecipe)
    make_tokenizer(context.recipe, context.run.path(TOKENIZER))
    yield MessageEvent("data", f"trained a tokenizer on {TOKENIZER_DOCUMENTS:,} documents")


def _write_samples(context: RunContext) -> Work[None]:
    """Write the samples exactly as they are trained and evaluated, and report suspicious rows."""
    write_jsonl(context.run.path("data/train.jsonl"), map(asdict, context.training_samples))
    write_jsonl(context.run.path("data/validation.jsonl"), map(asdict, context.validation_samples))
    facts: dict[str, TaskFacts] = {}
    for task in context.tasks:
        write_jsonl(context.run.path(f"data/{task.named('test')}.jsonl"), map(asdict, task.test_samples))
        findings = task.task.examine(task.train_rows, task.test_rows)
        for finding in findings:
            yield MessageEvent("data", finding)
        data = task.config.data
        facts[task.name] = TaskFacts(
            findings,
            data_facts(data.train, task.train_rows, len(task.split_samples[0])),
            data_facts(data.test, task.test_rows, len(task.test_samples)),
        )
    content = {name: asdict(found) for name, found in facts.items()}
    context.run.write_json(FACTS, content if len(content) > 1 else content[""])


def facts_by_task(context: RunContext) -> dict[str, TaskFacts]:
    """Read what the data stage recorded, by task name; the name is empty if the recipe has one task."""
    content = read_json(context.run.path(FACTS)) if context.tasks else {}
    by_task = {"": content} if "findings" in content else content
    return {
        name: TaskFacts(found["findings"], DataFacts(**found["train"]), DataFacts(**found["test"]))
        for name, found in by_task.items()
    }


def _train(context: RunContext) -> Work[None]:
    """Train, resuming from the last checkpoint."""
    job = prepare_training(context)
    for cache in job.caches:
        cache.open(context.run.path(cache.name))
    started, last = time.monotonic(), None
    for result in train(
        job.model,
        job.objective,
        job.batches,
        context.recipe.train,
        run_dir=context.run.folder,
        validation=job.validation,
        save=job.save,
    ):
        last = result
        values = {"loss": result.loss, **result.metrics}
        if result.validation_loss is not None:
            values["validation"] = result.validation_loss
        yield StepEvent("train", result.step, job.batches.num_steps, tokens=result.tokens, values=values)
    for cache in job.caches:
        shutil.rmtree(context.run.path(cache.name), ignore_errors=True)
    counts = {
        name: sum(array.size for array in named_arrays(tree).values())
        for name, tree in (
            ("parameters", job.model.parameters()),
            ("trained_parameters", job.model.trainable_parameters()),
        )
    }
    context.run.write_json(
        SUMMARY,
        {
            "plan": asdict(job.plan) if job.plan else None,
            **({} if job.cut_rows is None else {"cut_rows": job.cut_rows}),
            **counts,
            "steps": job.batches.num_steps,
            "seconds": time.monotonic() - started,
            "last": last.to_json() if last else None,
        },
    )


def _training_entry(context: RunContext) -> Mapping[str, Any]:
    summary, lora = read_json(context.run.path(SUMMARY)), context.lora
    steps = context.run.read_jsonl(METRICS)
    validated = [step for step in steps if step["validation_loss"] is not None]
    chosen = min(validated, key=lambda step: step["validation_loss"], default=steps[-1])
    seconds = sum(step["seconds"] for step in steps)
    return {
        "model": {
            **_base(context.recipe),
            "parameters": summary["parameters"] - (summary["trained_parameters"] if lora else 0),
            "trained_parameters": summary["trained_parameters"],
            "method": _method_name(context),
            "path": "best",
        },
        "data": _data_entry(context, summary),
        "training": {
            "steps": len(steps),
            "epochs": steps[-1]["epoch"],
            "chosen_step": chosen["step"],
            "seconds": seconds,
            "tokens_per_second": sum(step["tokens"] for step in steps) / seconds,
            "curve": [{"step": step["step"], "loss": step["loss"]} for step in steps],
            "validation": [{"step": step["step"], "loss": step["validation_loss"]} for step in validated],
        },
    }


def _base(recipe: AnyRecipe) -> dict[str, Any]:
    if isinstance(recipe, Recipe):
        return {"base": recipe.model.base, "thinking": recipe.model.thinking}
    return {"base": "random weights", "thinking": False}


def _method_name(context: RunContext) -> str:
    """Say what is trained, and on what besides the text."""
    if (teacher := context.teacher) is not None:
        return f"{_trained_weights(context)}, taught by {teacher.model}"
    on_pairs = isinstance(context.recipe.train, DpoConfig)
    return f"{_trained_weights(context)}{', on preferences' if on_pairs else ''}"


def _trained_weights(context: RunContext) -> str:
    if (lora := context.lora) is not None:
        kind = ("rsLoRA" if lora.rslora else "LoRA") + ("+" if lora.plus > 1 else "")
        return f"{kind} rank {lora.rank}, alpha {lora.alpha:g}"
    return "full fine-tuning" if isinstance(context.recipe, Recipe) else "pretraining"


def _data_entry(context: RunContext, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return row and token counts; empty for a document stream, which has no plan."""
    if summary["plan"] is None:
        return {}
    facts = facts_by_task(context)
    return {
        "train_rows": summary["plan"]["rows"],
        "train_tokens": summary["plan"]["tokens"],
        "trained_tokens": summary["plan"]["trained_tokens"],
        "cut_rows": summary["cut_rows"],
        "test_rows": sum(found.test.rows for found in facts.values()),
    }

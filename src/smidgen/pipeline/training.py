"""The stages that every method has: its data, written down, and its training."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from smidgen.config import AnyRecipe, PretrainRecipe, Recipe
from smidgen.files import read_json, write_jsonl
from smidgen.models.graph import named_arrays
from smidgen.pipeline.context import RunContext, TaskContext
from smidgen.pipeline.events import MessageEvent, StepEvent, Work
from smidgen.pipeline.jobs import TOKENIZER, TOKENIZER_DOCUMENTS, make_tokenizer, prepare_training
from smidgen.pipeline.sources import data_facts
from smidgen.pipeline.stage import Estimate, Stage
from smidgen.training.loop import train

FACTS, SUMMARY, METRICS = "data/facts.json", "training.json", "metrics.jsonl"
TOKENIZER_SECONDS = 20.0
"""A tokenizer of a few thousand entries, learnt from `TOKENIZER_DOCUMENTS` on two cores."""


def data_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """The stage that writes down what is trained on and evaluated."""
    if isinstance(recipe, PretrainRecipe):
        return [
            Stage(
                "data",
                _make_tokenizer,
                lambda context, probes: Estimate(TOKENIZER_SECONDS / 60, probes.memory_bytes),
                tables=("data", "model"),
                inputs=lambda context: {"documents": TOKENIZER_DOCUMENTS},
                outputs=(TOKENIZER,),
            )
        ]
    return [
        Stage(
            "data",
            _write_samples,
            lambda context, probes: Estimate(probes.row_seconds / 60, probes.memory_bytes),
            tables=("task", "settings", "tasks", "data"),
            inputs=_data_inputs,
            outputs=("data",),
        )
    ]


def training_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """The stage that trains, whatever the method."""
    return [
        Stage(
            "train",
            _train,
            lambda context, probes: Estimate(probes.training["minutes"], probes.memory_bytes),
            needs=("data",),
            tables=("model", "train"),
            outputs=("best", METRICS, SUMMARY),
            scratch=("checkpoints",),
            entry=_training_entry,
        )
    ]


def _data_inputs(context: RunContext) -> Mapping[str, Any]:
    return {
        "files": {source: sha for task in context.tasks for source, sha in task.source_hashes().items()},
        "tasks": [[task.blank.name, task.blank.version, task.blank.variant] for task in context.tasks],
    }


def _make_tokenizer(context: RunContext) -> Work[None]:
    assert isinstance(context.recipe, PretrainRecipe)
    make_tokenizer(context.recipe, context.run.path(TOKENIZER))
    yield MessageEvent("data", f"learnt a tokenizer from {TOKENIZER_DOCUMENTS:,} documents")


def _write_samples(context: RunContext) -> Work[None]:
    """Write the samples as they will be trained and evaluated, and report what is suspect about them."""
    write_jsonl(context.run.path("data/train.jsonl"), map(asdict, context.learnt_samples))
    write_jsonl(context.run.path("data/validation.jsonl"), map(asdict, context.validation_samples))
    facts: dict[str, Any] = {}
    for task in context.tasks:
        write_jsonl(context.run.path(f"data/{task.named('test')}.jsonl"), map(asdict, task.test_samples))
        findings = task.task.examine(task.train_rows, task.test_rows)
        for finding in findings:
            yield MessageEvent("data", finding)
        data = task.config.data
        facts[task.name] = {
            "findings": findings,
            "train": data_facts(data.train, task.train_rows) | {"samples": len(task.split_samples[0])},
            "test": data_facts(data.test, task.test_rows) | {"samples": len(task.test_samples)},
        }
    context.run.write_json(FACTS, facts if len(facts) > 1 else facts[""])


def facts_by_task(context: RunContext) -> dict[str, dict[str, Any]]:
    """What the data stage found of each task, by its name; the only task's is empty."""
    facts = read_json(context.run.path(FACTS)) if context.tasks else {}
    return {"": facts} if "findings" in facts else facts


def _train(context: RunContext) -> Work[None]:
    """Train, resuming from the last checkpoint."""
    job = prepare_training(context)
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
            "plan": asdict(job.planned) if job.planned else None,
            **job.facts,
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
    if (lora := context.lora) is not None:
        return f"LoRA rank {lora.rank}, alpha {lora.alpha:g}"
    return "full fine-tuning" if isinstance(context.recipe, Recipe) else "pretraining"


def _data_entry(context: RunContext, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Rows and tokens; of a stream only what a plan of it knows."""
    if summary["plan"] is None:
        return {}
    facts = facts_by_task(context)
    return {
        "train_rows": summary["plan"]["rows"],
        "train_tokens": summary["plan"]["tokens"],
        "trained_tokens": summary["plan"]["trained_tokens"],
        "cut_rows": summary["cut_rows"],
        "test_rows": sum(found["test"]["rows"] for found in facts.values()),
    }

"""The stage that writes the data: samples of tasks, or the tokenizer of a corpus."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from smidgen.config import AnyRecipe, PretrainRecipe
from smidgen.data.examine import examine
from smidgen.data.types import Sample
from smidgen.files import read_json, write_jsonl
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.corpus import Corpus, source_hashes
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.jobs import SOURCES, TOKENIZER, make_tokenizer, survey_sources
from smidgen.pipeline.sources import DataFacts, data_facts
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext

FACTS = "data/facts.json"
TOKENIZER_SECONDS = 20.0
"""Time to train a tokenizer of a few thousand entries on the texts of a corpus, on two cores."""


@dataclass(frozen=True)
class TaskFacts:
    """What the data stage recorded for one task.

    Attributes:
        findings: problems found in the rows, one sentence each.
        data: provenance of the training rows, of each source if there are several, and of the held-out rows.
    """

    findings: list[str]
    data: dict[str, DataFacts]


def data_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the stage that writes the training and evaluation samples."""
    if isinstance(recipe, PretrainRecipe):
        return [
            Stage(
                "data",
                _prepare_corpus,
                lambda context, probes: TOKENIZER_SECONDS / 60,
                Budgets.reading,
                tables=("data", "model"),
                inputs=lambda context: {
                    "files": source_hashes(recipe),
                    "shares": Corpus(recipe, {}).shares,  # of the texts that a tokenizer is trained on
                },
                outputs=(TOKENIZER, SOURCES),
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


def _data_inputs(context: RunContext) -> Mapping[str, Any]:
    return {
        "files": {source: sha for task in context.tasks for source, sha in task.source_hashes().items()},
        "tasks": [[task.blank.name, task.blank.version, task.blank.variant] for task in context.tasks],
    }


def _prepare_corpus(context: RunContext) -> Work[None]:
    """Survey the files of a pretraining, and write its tokenizer."""
    recipe = context.recipe
    assert isinstance(recipe, PretrainRecipe)
    surveys = yield from survey_sources(recipe)
    for name, found in surveys.items():
        yield MessageEvent(
            "data",
            f"{name}: {found.documents:,} documents with {found.characters:,} characters, {found.held_out:,} "
            "of them held out for validation",
        )
    make_tokenizer(Corpus(recipe, surveys), context.run.path(TOKENIZER))
    kept = recipe.model.base is not None
    yield MessageEvent(
        "data", f"kept the tokenizer of {recipe.model.base}" if kept else "trained a tokenizer"
    )
    context.run.write_json(SOURCES, {name: found._asdict() for name, found in surveys.items()})


def _write_samples(context: RunContext) -> Work[None]:
    """Write the samples exactly as they are trained and evaluated, and report suspicious rows."""
    for name, samples in _own_samples(context).items():
        write_jsonl(context.run.path(f"data/{name}.jsonl"), map(Sample.to_json, samples))
    facts: dict[str, TaskFacts] = {}
    for task in context.tasks:
        test = map(Sample.to_json, task.test_samples)
        write_jsonl(context.run.path(f"data/{task.named('test')}.jsonl"), test)
        examples = [example for rows in task.sources.values() for example in task.task.examples(rows)]
        found = examine(examples, task.task.examples(task.test_rows))
        findings = [each.sentence for each in found if each.severity != "info"]
        for finding in findings:
            yield MessageEvent("data", finding)
        facts[task.name] = TaskFacts(findings, _facts(task))
    content = {name: asdict(found) for name, found in facts.items()}
    context.run.write_json(FACTS, content.get("", content))


def _facts(task: TaskContext) -> dict[str, DataFacts]:
    """Return the provenance of the rows of a task, named as the run's provenance names their hashes."""
    data, numbers = task.config.data, Counter(sample.source for sample in task.split_samples[0])
    train = {
        f"train {name}".strip(): data_facts(source.path, rows, numbers[name])
        for source, (name, rows) in zip(data.all_sources, task.sources.items(), strict=True)
    }
    return train | {"test": data_facts(data.test, task.test_rows, len(task.test_samples))}


def _own_samples(context: RunContext) -> dict[str, list[Sample]]:
    """Return the samples with the targets of the rows; those of a distillation are split once answered."""
    if context.recipe.teacher is not None:
        return {"train": [sample for task in context.tasks for sample in task.training_samples]}
    return {"train": context.training_samples, "validation": context.validation_samples}


def facts_by_task(context: RunContext) -> dict[str, TaskFacts]:
    """Read what the data stage recorded, by task name; the name is empty if the recipe has one task."""
    content = read_json(context.run.path(FACTS)) if context.tasks else {}
    by_task = {"": content} if "findings" in content else content
    return {
        name: TaskFacts(
            found["findings"], {role: DataFacts(**facts) for role, facts in found["data"].items()}
        )
        for name, found in by_task.items()
    }

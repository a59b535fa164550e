"""The last stage of a run: report.json, report.html and model cards, from the outputs of the other stages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from smidgen.backend import device
from smidgen.config import Prices, Recipe, resolved_toml
from smidgen.data.row_files import fingerprint
from smidgen.data.types import Record
from smidgen.evaluation.cost import cost_table
from smidgen.evaluation.distillation_section import limits_of
from smidgen.evaluation.report import build_report
from smidgen.evaluation.report_model import Report
from smidgen.export.card import write_card
from smidgen.figures.columns import BASES
from smidgen.files import content_hash, read_json, write_json, write_text
from smidgen.models.load import resolve
from smidgen.models.weights import weight_files
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.data_stage import facts_by_task
from smidgen.pipeline.evaluating import of_task, records_of
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.exporting import artefacts_of, export_entry
from smidgen.pipeline.keeping import distillation_facts
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.runs import provenance

EXAMPLES = 10
REPORT, PAGE = "report.json", "report.html"
SECONDS_A_ROW = 0.005
"""Time of the bootstrap over the rows, done for every evaluation and comparison."""
_BUNDLED_MODEL = "smidgen:nano is a demonstration model: it knows little beyond its small generated world."


def report_stage(stages: Sequence[Stage]) -> Stage:
    """Return the stage that writes the report; it needs all the others."""

    def work(context: RunContext) -> Work[None]:
        report = collect(context, stages)
        content = report.to_json()
        for artefact in artefacts_of(context.recipe):
            folder = context.run.path(artefact.folder)
            write_card(folder, content, artefact=artefact.name, format=artefact.format)
        write_json(context.run.path(REPORT), content)
        write_text(context.run.path(PAGE), build_report(content))
        yield MessageEvent("report", f"report: {context.run.path(PAGE)}")

    def inputs(context: RunContext) -> Mapping[str, Any]:
        tasks = [[task.blank.name, task.blank.version, task.blank.variant] for task in context.tasks]
        return {"prices": context.prices.model_dump(mode="json"), "tasks": tasks}

    def minutes(context: RunContext, probes: Probes) -> float:
        answers = sum(len(task.test_samples) for task in context.tasks)
        evaluations = sum(1 for stage in stages if stage.tables[-1:] == ("evaluate",))
        return SECONDS_A_ROW * answers * evaluations / 60

    cards = [f"{output}/README.md" for stage in stages for output in _card_folders(stage)]
    return Stage(
        "report",
        work,
        minutes,
        Budgets.reading,
        needs=tuple(stage.name for stage in stages),
        tables=("name", "description", "evaluate", "quantize", "export"),
        inputs=inputs,
        outputs=(REPORT, PAGE, *cards),
    )


def _card_folders(stage: Stage) -> list[str]:
    """Return the artefact folders of a stage; each gets a model card."""
    is_artefact = stage.name == "quantize" or stage.name.startswith("export-")
    return [output for output in stage.outputs if is_artefact and not output.endswith(".json")]


def collect(context: RunContext, stages: Sequence[Stage]) -> Report:
    """Build the report: date, machine and provenance, then the entry of every stage."""
    recipe, run = context.recipe, context.run
    facts = read_json(run.path("provenance.json"))
    content: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description,
        **_circumstances(facts),
        "provenance": _provenance(context, facts),
        "sizes": _sizes(context),
        "recipe": resolved_toml(recipe),
        "limits": _limits(context),
        "stages": [
            {"name": stage.name, "seconds": record["seconds"]}
            for stage in stages
            if (record := run.stage_record(stage.name)) is not None
        ],
    }
    for stage in stages:
        _merge(content, stage.entry(context))
    for artefact in artefacts_of(recipe):
        if context.tasks:
            _merge(content, export_entry(context, artefact))
    for task in context.tasks:
        found = content["tasks"][task.name] if task.name else content
        _merge(content, of_task(task, _evidence(context, task, found, content["training"]["seconds"])))
    return Report.model_validate(content)


def _evidence(
    context: RunContext, task: TaskContext, found: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Return the report content of one task besides its evaluations: examples, cost and usage."""
    columns = [name for name in ("before", "after", "quantized", "teacher") if name in found]
    ways = {name: found[name] for name in ("after", *task.blank.methods) if name in found}
    usage = task.blank.usage
    return {
        "task": task.blank.name,
        **_best_base(context, found),
        "examples": _examples(context, task, columns),
        "cost": cost_table(ways, context.prices, training_seconds=seconds),
        **({"usage": usage._asdict()} if usage else {}),
    }


def _best_base(context: RunContext, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return which evaluation of the base the trained model is compared with, and how the base was asked."""
    ways = {column.key: column.long for column in BASES if column.key in found}
    if context.lora is not None and context.lora.start is not None:
        ways = {name: long.replace("base model", "model before") for name, long in ways.items()}
    name = next(name for name in ways if f"after_vs_{name}" in found["comparisons"])
    return {"best_base": {"name": name, "description": ways[name], "ways": len(ways)}}


def _merge(content: dict[str, Any], entry: Mapping[str, Any]) -> None:
    """Merge an entry into the content, recursively."""
    for key, value in entry.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def evaluation_report(result: Mapping[str, Any], *, rows: int, seed: int, prices: Prices) -> Report:
    """Build the report of a single evaluation."""
    test = {"path": result["data"], "rows": rows, "sha256": fingerprint(result["data"])}
    facts = provenance(seeds={"evaluate": seed}, data={}) | {"device": device().name}
    return Report.model_validate(
        {
            "name": result["model"],
            "task": result["task"],
            **_circumstances(facts),
            "provenance": _made_with(facts) | {"data": {"test": test}},
            "after": result,
            "cost": cost_table({"after": result}, prices),
        }
    )


def _circumstances(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return date, command and machine."""
    return {
        "created": facts["started"],
        "command": " ".join(["smidgen", *facts["command"][1:]]),
        "machine": {key: facts.get(key) for key in ("device", "cpu", "cores", "memory_bytes", "platform")},
    }


def _made_with(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "versions": facts["versions"] | {"python": facts["python"]},
        "git_revision": facts["git"],
        "seeds": facts["seeds"],
    }


def _limits(context: RunContext) -> list[str]:
    """Return the limitations of the figures."""
    limits = dict.fromkeys(task.blank.words.limits for task in context.tasks)
    bundled = [_BUNDLED_MODEL] if context.tasks and context.specialist.model.base == "smidgen:nano" else []
    findings = [
        f"{name}: {finding}" if name else finding
        for name, facts in facts_by_task(context).items()
        for finding in facts.findings
    ]
    taught = [
        f"{task.name}: {sentence}" if task.name else sentence
        for task in (context.tasks if context.recipe.teacher else ())
        for sentence in limits_of(distillation_facts(context, task))
    ]
    return [*limits, *bundled, *taught, *findings]


def _provenance(context: RunContext, facts: Mapping[str, Any]) -> dict[str, Any]:
    data = {
        f"{name} {role}" if name else role: asdict(facts)
        for name, found in facts_by_task(context).items()
        for role, facts in found.data.items()
    }
    made = _made_with(facts) | {"data": data}
    if not isinstance(context.recipe, Recipe):
        return made
    base = context.specialist.model.base
    return made | {"base_model": {"name": base, "sha256": content_hash(resolve(base))}}


def _sizes(context: RunContext) -> dict[str, int]:
    """Return the bytes of each model's weights; an adapter counts together with its base."""
    recipe = context.recipe
    base = weight_files(resolve(recipe.model.base)) if isinstance(recipe, Recipe) else []
    adapter = list(context.best.glob("*.safetensors")) if context.lora else []
    files = {column.key: base for column in BASES} if base else {}
    files["after"] = [*base, *adapter] if adapter else weight_files(context.best)
    if recipe.quantize:
        files["quantized"] = weight_files(context.run.path("quantized"))
    return {name: sum(file.stat().st_size for file in found) for name, found in files.items()}


def _examples(context: RunContext, task: TaskContext, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a few test samples, evenly spaced over the rows, with each model's answer."""
    by_name = {
        name: {record.sample.id: record for record in records_of(context, task, name)} for name in names
    }
    step = max(1, len(task.test_rows) // EXAMPLES)
    per_row = max(1, len(task.test_samples) // len(task.test_rows))
    chosen = []
    for index, row in list(enumerate(task.test_rows))[::step][:EXAMPLES]:
        sample = task.test_samples[index * per_row]
        answers = {
            name: _answer(records[sample.id], has_right=task.blank.has_right_answers)
            for name, records in by_name.items()
        }
        chosen.append({"id": sample.id, **task.task.show(row), **answers})
    return chosen


def _answer(record: Record, *, has_right: bool) -> dict[str, Any]:
    return {
        "text": record.completion.text,
        "answer": record.score.answer,
        "right": record.score.value == 1.0 if has_right else None,
    }

"""The last stage of a life: report.json and report.html, from what the stages left in the run folder."""

from typing import TYPE_CHECKING, Any

from smidgen.cli.exports import artefacts, size_of
from smidgen.files import content_hash, read_json, write_json, write_text
from smidgen.runs import provenance

if TYPE_CHECKING:
    from smidgen.cli.exports import Artefact
    from smidgen.cli.stages import Life

_LIMITS = {
    "judge": "The figures hold for pairs like those it was evaluated on, not for questions from elsewhere.",
    "intent": "The figures hold for queries like those it was evaluated on, and for these labels only.",
}
_BUNDLED = "smidgen:nano is a demonstration model: it knows little beyond its small generated world."


def report(life: "Life") -> None:
    """Write the report."""
    from smidgen.evaluation.report import build_report
    from smidgen.export.card import write_card

    content = collect(life)
    for artefact in artefacts(life.recipe):
        folder = life.run.path(artefact.folder)
        write_card(folder, content, artefact=artefact.name, format=artefact.format)
    write_json(life.run.path("report.json"), content)
    write_text(life.run.path("report.html"), build_report(content))


def collect(life: "Life") -> dict[str, Any]:
    """Everything the report says, as one JSON object."""
    from smidgen.cli import stages
    from smidgen.config import resolved_toml
    from smidgen.evaluation.cost import cost_table

    recipe, run = life.recipe, life.run
    names = ["before", "after", *(["quantized"] if recipe.quantize else [])]
    evaluations = {name: stages.evaluation(life, name) for name in names}
    shipped = artefacts(recipe)
    made = [
        stage for artefact in shipped if artefact.make for stage in (f"export-{artefact.name}", artefact.name)
    ]
    facts = read_json(run.path("provenance.json"))
    content: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description,
        "task": recipe.task,
        **_circumstances(facts),
        "provenance": _provenance(life, facts),
        "model": _model(life),
        "data": _data(life),
        "training": _training(life),
        **evaluations,
        "comparisons": {"after_vs_before": stages.comparison(life, "after", "before")},
        "examples": stages.examples(life, names),
        "sizes": _sizes(life),
        "recipe": resolved_toml(recipe),
        "limits": _limits(life),
        "stages": [
            {"name": stage, "seconds": record["seconds"]}
            for stage in ("data", "before", "train", "after", "logits", "quantize", "quantized", *made)
            if (record := run.stage_record(stage)) is not None
        ],
    }
    if recipe.task == "judge":
        content["logits"] = stages.evaluation(life, "logits")
        content["comparisons"]["logits_vs_after"] = stages.comparison(life, "logits", "after")
    ways = {name: content[name] for name in ("after", "logits") if name in content}
    content["cost"] = cost_table(ways, life.prices, training_seconds=content["training"]["seconds"])
    if recipe.quantize:
        content["comparisons"]["quantized_vs_after"] = stages.comparison(life, "quantized", "after")
        content["quantize"] = read_json(run.path("quantize.json"))
    if shipped:
        content["exports"] = {artefact.name: _export(life, artefact) for artefact in shipped}
    if confusions := evaluations["after"]["details"].get("confusions"):
        content["confusions"] = confusions
    return content


def _export(life: "Life", artefact: "Artefact") -> dict[str, Any]:
    """One artefact: where it is, its size, what it scores, and the difference from the trained model."""
    from smidgen.cli import stages

    stage = "quantized" if artefact.make is None else artefact.name
    evaluation, compared = stages.evaluation(life, stage), stages.comparison(life, stage, "after")
    made = {} if artefact.make is None else read_json(life.run.path(f"exports/{artefact.name}.json"))
    return {
        **made,
        "path": artefact.folder,
        "format": artefact.format,
        "bytes": size_of(life.run.path(artefact.folder)),
        "metrics": evaluation["metrics"],
        "speed": evaluation["speed"],
        "difference": compared["difference"],
        "p_value": compared["p_value"],
    }


def evaluation_report(result: dict[str, Any], *, rows: int, seed: int) -> dict[str, Any]:
    """The report of one evaluation, of a model as it was found."""
    from smidgen.backend import device
    from smidgen.data.row_files import fingerprint

    asked = {"path": result["data"], "rows": rows, "sha256": fingerprint(result["data"])}
    facts = provenance(seeds={"evaluate": seed}, data={}) | {"device": device().name}
    return {
        "name": result["model"],
        "task": result["task"],
        **_circumstances(facts),
        "provenance": _made_with(facts) | {"data": {"test": asked}},
        "after": result,
        "cost": result["cost"],
    }


def _circumstances(facts: dict[str, Any]) -> dict[str, Any]:
    """When, how and where, as the report says it."""
    return {
        "created": facts["started"],
        "command": " ".join(["smidgen", *facts["command"][1:]]),
        "machine": {key: facts.get(key) for key in ("device", "cpu", "cores", "memory_bytes", "platform")},
    }


def _made_with(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "versions": facts["versions"] | {"python": facts["python"]},
        "git_revision": facts["git"],
        "seeds": facts["seeds"],
    }


def _limits(life: "Life") -> list[str]:
    """What a reader should know before believing the figures."""
    bundled = [_BUNDLED] if life.recipe.model.base == "smidgen:nano" else []
    return [_LIMITS[life.recipe.task], *bundled, *_facts(life)["findings"]]


def _facts(life: "Life") -> dict[str, Any]:
    return read_json(life.run.path("data/facts.json"))


def _provenance(life: "Life", facts: dict[str, Any]) -> dict[str, Any]:
    from smidgen.models.load import resolve

    base = life.recipe.model.base
    return _made_with(facts) | {
        "data": {name: source for name, source in _facts(life).items() if name != "findings"},
        "base_model": {"name": base, "sha256": content_hash(resolve(base))},
    }


def _model(life: "Life") -> dict[str, Any]:
    training, lora = read_json(life.run.path("training.json")), life.recipe.train.lora
    return {
        "base": life.recipe.model.base,
        "thinking": life.recipe.model.thinking,
        "parameters": training["parameters"] - (training["trained_parameters"] if lora else 0),
        "trained_parameters": training["trained_parameters"],
        "method": f"LoRA rank {lora.rank}, alpha {lora.alpha:g}" if lora else "full fine-tuning",
        "path": "best",
    }


def _data(life: "Life") -> dict[str, Any]:
    training, facts = read_json(life.run.path("training.json")), _facts(life)
    return {
        "train_rows": training["plan"]["rows"],
        "train_tokens": training["plan"]["tokens"],
        "trained_tokens": training["plan"]["trained_tokens"],
        "cut_rows": training["cut_rows"],
        "test_rows": facts["test"]["rows"],
    }


def _training(life: "Life") -> dict[str, Any]:
    steps = life.run.read_jsonl("metrics.jsonl")
    validated = [step for step in steps if step["validation_loss"] is not None]
    chosen = min(validated, key=lambda step: step["validation_loss"], default=steps[-1])
    seconds = sum(step["seconds"] for step in steps)
    return {
        "steps": len(steps),
        "epochs": steps[-1]["epoch"],
        "chosen_step": chosen["step"],
        "seconds": seconds,
        "tokens_per_second": sum(step["tokens"] for step in steps) / seconds,
        "curve": [{"step": step["step"], "loss": step["loss"]} for step in steps],
        "validation": [{"step": step["step"], "loss": step["validation_loss"]} for step in validated],
    }


def _sizes(life: "Life") -> dict[str, int]:
    """Bytes of the weights at every stage; an adapter comes on top of its base."""
    from smidgen.models.load import resolve
    from smidgen.models.weights import weight_files

    base = weight_files(resolve(life.recipe.model.base))
    files = {"before": base}
    files["after"] = (
        [*base, *life.best.glob("*.safetensors")] if life.recipe.train.lora else weight_files(life.best)
    )
    if life.recipe.quantize:
        files["quantized"] = weight_files(life.run.path("quantized"))
    return {stage: sum(file.stat().st_size for file in found) for stage, found in files.items()}

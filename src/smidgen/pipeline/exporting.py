"""Exported artefacts: made from the trained model, and each re-evaluated in its target runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from smidgen.config import AnyRecipe
from smidgen.data.prompts import read_prompts
from smidgen.errors import ConfigError
from smidgen.export.facts import DriftFacts
from smidgen.export.fused import MAX_DRIFT, export_fused
from smidgen.export.gguf import verify_gguf, write_gguf
from smidgen.export.gguf.gguf_facts import Verification
from smidgen.export.peft_adapter import export_peft
from smidgen.files import read_json
from smidgen.options import EngineOptions
from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.evaluating import comparison, evaluation_of, evaluation_stage, of_task
from smidgen.pipeline.events import MessageEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.quantizing import quantized_name
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import WRITING

DRIFT_PROMPTS = 20
"""Validation rows on which a fused model is compared with the base plus adapter."""
VALIDATED = "prompts that the run validated on"


@dataclass(frozen=True)
class ExportMeasurement:
    """What was measured while an artefact was made.

    Attributes:
        drift: distance from the trained model; None if it is not measured.
        warnings: sentences about a large drift; None if the drift is not judged.
    """

    drift: DriftFacts | None = None
    warnings: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what was measured, as JSON values."""
        drift = {} if self.drift is None else {"drift": self.drift.to_json()}
        return drift if self.warnings is None else {**drift, "warnings": self.warnings}


@dataclass(frozen=True)
class Artefact:
    """One export of a run.

    Attributes:
        name: key in the report, and name of its folders in the run.
        format: `mlx`, `peft`, `fused` or `gguf`.
        folder: its folder, relative to the run folder.
        evaluation: name of its evaluation.
        make: writes the artefact; None for the quantised model, which has a stage of its own.
        engine: returns the engine options for its evaluation.
        loads: how often weights are loaded while it is made, for the estimate.
    """

    name: str
    format: str
    folder: str
    evaluation: str
    make: Callable[[RunContext, Path], ExportMeasurement] | None
    engine: Callable[[RunContext, Path], EngineOptions]
    loads: int = 1


def artefacts_of(recipe: AnyRecipe) -> list[Artefact]:
    """Return the exports of a recipe in order, the quantised model included."""
    artefacts = []
    if recipe.quantize is not None:
        name = quantized_name(recipe.quantize)
        artefacts.append(Artefact(name, "mlx", "quantized", "quantized", None, _as_model))
    if recipe.export is not None:
        gguf = f"gguf-{recipe.export.gguf_dtype.lower()}"
        known = {
            "peft": Artefact("peft", "peft", "exports/peft", "peft", _make_peft, _as_adapter),
            "fused": Artefact("fused", "fused", "exports/fused", "fused", _make_fused, _as_model, loads=3),
            "gguf": Artefact(gguf, "gguf", f"exports/{gguf}", gguf, _make_gguf, _as_gguf, loads=3),
        }
        artefacts += [known[name] for name in recipe.export.formats]
    return artefacts


def check_exporting(context: RunContext) -> None:
    """Refuse an export that cannot be evaluated.

    Raises:
        ConfigError: GGUF is exported, and a task is answered by log-probabilities.
    """
    export = context.recipe.export
    scored = [task.blank.name for task in context.tasks if task.blank.methods[0] != "generate"]
    if export is not None and "gguf" in export.formats and scored:
        raise ConfigError(
            f"the task {scored[0]} is answered by log-probabilities, which llama.cpp does not give, so a "
            'GGUF file could not be evaluated; remove "gguf" from export.formats'
        )


def exporting_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return, for each artefact, a stage that makes it and one per task that evaluates it."""
    return [
        stage
        for artefact in artefacts_of(recipe)
        if artefact.make is not None
        for stage in _stages_of(artefact, tasks)
    ]


def export_entry(context: RunContext, artefact: Artefact) -> Mapping[str, Any]:
    """Return an artefact's report entry: path, size, metrics per task, difference from the trained model."""
    content: dict[str, Any] = {}
    facts = _facts(context, artefact)
    for task in context.tasks:
        evaluation = evaluation_of(context, task, artefact.evaluation)
        compared = comparison(context, task, artefact.evaluation, "after")
        scored = {
            **facts,
            "metrics": evaluation["metrics"],
            "speed": evaluation["speed"],
            "difference": compared["difference"],
            "p_value": compared["p_value"],
        }
        if not task.name:
            return {"exports": {artefact.name: scored}}
        content |= of_task(task, {"exports": {artefact.name: scored}})["tasks"]
    metrics = {
        f"{name} {metric}": value
        for name, evaluated in content.items()
        for metric, value in evaluated["exports"][artefact.name]["metrics"].items()
    }
    return {"tasks": content, "exports": {artefact.name: {**facts, "metrics": metrics}}}


def _facts(context: RunContext, artefact: Artefact) -> dict[str, Any]:
    folder = context.run.path(artefact.folder)
    made = {} if artefact.make is None else read_json(context.run.path(f"exports/{artefact.name}.json"))
    return {**made, "path": artefact.folder, "format": artefact.format, "bytes": size_of(folder)}


def _stages_of(artefact: Artefact, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    making, facts = f"export-{artefact.name}", f"exports/{artefact.name}.json"

    def make(context: RunContext) -> Work[None]:
        assert artefact.make is not None
        made = artefact.make(context, context.run.path(artefact.folder))
        context.run.write_json(facts, made.to_json())
        for warning in made.warnings or ():
            yield MessageEvent(making, f"warning: {warning}")

    def minutes(context: RunContext, probes: Probes) -> float:
        return artefact.loads * (probes.load_seconds + probes.base_bytes / WRITING) / 60

    def budget(budgets: Budgets) -> StageBudget:
        return budgets.copying(_expected_bytes(budgets, artefact))

    stage = Stage(
        making,
        make,
        minutes,
        budget,
        lambda times: times.copying(artefact.loads),
        needs=("data", "train"),
        tables=("name", "model", "export"),
        outputs=(artefact.folder, facts),
    )
    return [
        stage,
        *(
            evaluation_stage(
                artefact.evaluation,
                task,
                lambda context: artefact.engine(context, context.run.path(artefact.folder)),
                needs=("data", making),
                entry=lambda context: {},
            )
            for task in tasks
        ),
    ]


def _expected_bytes(budgets: Budgets, artefact: Artefact) -> int:
    """Return the expected bytes of an artefact's weights."""
    shape, export = budgets.shape, budgets.context.recipe.export
    if artefact.format == "peft":
        return 4 * shape.trainable(budgets.context.lora)
    if artefact.format == "fused" or export is None:
        return shape.parameters * shape.stored
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[export.gguf_dtype]]
    return shape.parameters * size // block


def _as_model(context: RunContext, folder: Path) -> EngineOptions:
    return context.engine(str(folder), kind="mlx")  # llama.cpp would evaluate a conversion of it


def _as_adapter(context: RunContext, folder: Path) -> EngineOptions:
    return context.engine(context.specialist.model.base, adapter=folder, kind="mlx")


def _as_gguf(context: RunContext, folder: Path) -> EngineOptions:
    return context.engine(str(_gguf_file(context, folder)), kind="llama")


def _make_peft(context: RunContext, folder: Path) -> ExportMeasurement:
    export_peft(context.best, context.specialist.model.base, folder)
    return ExportMeasurement()


def _make_fused(context: RunContext, folder: Path) -> ExportMeasurement:
    prompts = read_prompts(context.run.path("data/validation.jsonl"))[:DRIFT_PROMPTS]
    model, adapter = context.trained
    export = export_fused(model, adapter, folder, prompts=prompts, asked=VALIDATED)
    return ExportMeasurement(export.drift)


def _make_gguf(context: RunContext, folder: Path) -> ExportMeasurement:
    assert context.recipe.export is not None
    model, adapter = context.trained
    path = _gguf_file(context, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(model, path, dtype=context.recipe.export.gguf_dtype, adapter=adapter)
    verified = verify_gguf(path, model, adapter=adapter)
    return gguf_drift(verified, context.recipe.export.gguf_dtype)


def _gguf_file(context: RunContext, folder: Path) -> Path:
    return folder / f"{context.recipe.name}-{folder.name.removeprefix('gguf-')}.gguf"


def gguf_drift(verified: Verification | None, dtype: str) -> ExportMeasurement:
    """Return the drift of a verified GGUF file from its source model, with a warning if it is large.

    Args:
        verified: as `verify_gguf` returns it; None if the file was not verified.
        dtype: of the file's weights.
    """
    if verified is None:
        return ExportMeasurement()
    mean_kl = verified.kl_from_source
    drift = DriftFacts(asked="texts of smidgen's own", mean_kl=max(mean_kl, 0.0), prompts=verified.prompts)
    if mean_kl <= MAX_DRIFT:
        return ExportMeasurement(drift, [])
    warning = (
        f"{dtype} changes the next-token distributions by {mean_kl:.3g} nats on average; "
        f"`smidgen export fused` refuses a model above {MAX_DRIFT:g}. Evaluate this file before you use it, "
        "or choose a --dtype with more bits"
    )
    return ExportMeasurement(drift, [warning])


def size_of(folder: Path) -> int:
    """Return the bytes of an artefact's weight files (safetensors, GGUF)."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf"))

"""Quantisation of a loaded model in place, with the measured effect of every layer; and as stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from smidgen.backend import mx
from smidgen.cache import cache_dir
from smidgen.config import DEFAULT_BITS, DEFAULT_GROUP_SIZE, AnyRecipe, QuantizeConfig
from smidgen.evaluation.sensitivity_report import markdown, page
from smidgen.figures.formatting import size
from smidgen.files import content_hash, read_json, sha256_json, write_json, write_text
from smidgen.models.load import LoadedModel, load, resolve
from smidgen.models.lora import fuse
from smidgen.models.quantization import (
    MIXES,
    MODES,
    QuantizationPlan,
    Setting,
    Size,
    make_plan,
    quantizable,
    quantize_as,
    size_of,
)
from smidgen.models.save import save_model, stored_dtype
from smidgen.models.sensitivity import Effects, Predictions, affordable, choose, measure
from smidgen.pipeline.budgets import Budgets, StageBudget
from smidgen.pipeline.calibration_texts import calibration_rows, sample_rows
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.evaluating import evaluation_stage
from smidgen.pipeline.events import MessageEvent, StepEvent, Work
from smidgen.pipeline.probes import Probes
from smidgen.pipeline.sources import source_hash
from smidgen.pipeline.stage import Stage
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import Times

SUMMARY, FOLDER, RECORD = "quantize.json", "quantized", "sensitivity.jsonl"


def quantizing_stages(recipe: AnyRecipe, tasks: tuple[TaskContext, ...]) -> list[Stage]:
    """Return the stages that quantise and evaluate the trained model; none without a [quantize] table."""
    if recipe.quantize is None:
        return []
    making = Stage(
        "quantize",
        _quantize,
        _minutes,
        _budget,
        _seconds,
        needs=("data", "train"),
        tables=("model", "quantize"),
        inputs=_inputs,
        outputs=(FOLDER, SUMMARY),
        scratch=(RECORD,),
        entry=lambda context: {"quantize": read_json(context.run.path(SUMMARY))},
    )
    return [
        making,
        *(
            evaluation_stage(
                "quantized",
                task,
                lambda context: context.engine(str(context.run.path(FOLDER)), kind="mlx"),
                needs=("data", "quantize"),
                compared_with=("after",),
            )
            for task in tasks
        ),
    ]


def check_quantizing(context: RunContext) -> None:
    """Refuse unreachable targets and unusable calibration texts before training starts."""
    settings = context.recipe.quantize
    if settings is None:
        return
    loaded = load(context.specialist.model.base)
    plan = make_plan(loaded.model, loaded.config, settings)
    if settings.target_bits is not None:
        free = [name for name in quantizable(loaded.model, loaded.config) if name not in plan]
        affordable(loaded.model, settings, plan, stored_dtype(loaded.path), free)
        _calibration(context, loaded)


def _inputs(context: RunContext) -> Mapping[str, Any]:
    source = context.recipe.quantize and context.recipe.quantize.calibration
    return {"calibration": source_hash(source)} if source else {}


def _minutes(context: RunContext, probes: Probes) -> float:
    """Estimate loading and writing; with a target, also one calibration pass per layer and candidate."""
    settings = context.recipe.quantize
    assert settings is not None
    seconds = 2 * probes.load_seconds
    if settings.target_bits is not None:
        training = probes.training
        a_token = 60 * training.minutes / training.tokens / 3
        layers = 7 * int(load(context.specialist.model.base).config.get("num_hidden_layers") or 1)
        seconds += a_token * settings.calibration_tokens * layers * len(settings.candidate_bits)
    return seconds / 60


def _budget(budgets: Budgets) -> StageBudget:
    settings = budgets.context.recipe.quantize
    assert settings is not None
    if settings.target_bits is not None or settings.recipe is not None:
        bits = settings.target_bits or max(MIXES[settings.recipe or ""])
        return budgets.copying(round(budgets.shape.parameters * bits / 8))
    group_size = settings.group_size or DEFAULT_GROUP_SIZE
    setting = MODES.get(settings.mode) or Setting(settings.bits or DEFAULT_BITS, group_size)
    rows = budgets.shape.parameters // setting.group_size
    return budgets.copying(setting.num_bytes((rows, setting.group_size), mx.float16))


def _seconds(times: Times) -> float:
    """Return the time of loading and writing, and of the passes over the calibration texts."""
    settings = times.budgets.context.recipe.quantize
    assert settings is not None
    if settings.target_bits is None:
        return times.copying(2)
    passes = 7 * times.budgets.shape.layers * len(settings.candidate_bits)
    return times.copying(2) + times.reading(settings.calibration_tokens * passes)


def _calibration(context: RunContext, loaded: LoadedModel) -> list[list[int]]:
    """Return the calibration rows as token ids: the training samples, unless a file is given."""
    settings, thinking = context.recipe.quantize, context.specialist.model.thinking
    assert settings is not None
    source, num_tokens = settings.calibration, settings.calibration_tokens
    if source is None:
        return sample_rows(context.training_samples, loaded.tokenizer, num_tokens, thinking=thinking)
    return calibration_rows(source, loaded.tokenizer, num_tokens, thinking=thinking)


def _quantize(context: RunContext) -> Work[None]:
    settings = context.recipe.quantize
    assert settings is not None
    model, adapter = context.trained
    loaded = load(model, adapter=adapter)
    fuse(loaded.model)
    # A fully trained model is stored in float32; the quantised copy gets the dtype of the base.
    dtype = stored_dtype(resolve(context.specialist.model.base))
    done = yield from shrink(
        loaded,
        settings,
        lambda: _calibration(context, loaded),
        dtype=dtype,
        record=context.run.path(RECORD),
    )
    save_model(context.run.path(FOLDER), loaded.model, done.config, loaded.path, dtype=dtype)
    write_sensitivity(context.run.path(FOLDER), done)
    context.run.write_json(SUMMARY, asdict(done.facts()))


@dataclass(frozen=True)
class QuantizationFacts:
    """Sizes and settings of a quantised model, for reports and `--json`.

    Attributes:
        summary: the settings in one phrase.
        mode: quantisation mode, such as `affine`.
        bits: bits of every layer, or the sorted widths that occur.
        group_size: weights that share a scale.
        bytes_before: bytes of the weights before.
        bytes: bytes of the quantised weights.
        bits_per_weight_before: average bits per weight before.
        bits_per_weight: average bits per weight now, scales and biases included.
    """

    summary: str
    mode: str
    bits: int | list[int]
    group_size: int
    bytes_before: int
    bytes: int
    bits_per_weight_before: float
    bits_per_weight: float


def quantized_name(settings: QuantizeConfig) -> str:
    """Return the name of the quantised artefact, such as `mlx-4bit`."""
    if settings.target_bits is not None:
        return f"mlx-{settings.target_bits:g}bpw"
    mixed = settings.recipe or (settings.mode if settings.mode != "affine" else None)
    return f"mlx-{mixed or f'{settings.bits or 4}bit'}"


class Shrunk(NamedTuple):
    """Result of quantising a model.

    Attributes:
        config: content of the new `config.json`.
        settings: the requested settings.
        plan: how each layer is stored.
        before: size of the weights in their stored dtype.
        after: size of the quantised weights.
        sensitivity: table of the measured effects, where they were measured.
    """

    config: dict[str, Any]
    settings: QuantizeConfig
    plan: QuantizationPlan
    before: Size
    after: Size
    sensitivity: dict[str, Any] | None

    def facts(self) -> QuantizationFacts:
        """Return the sizes and settings."""
        widths = sorted({setting.bits for setting in self.plan.values() if setting is not None})
        return QuantizationFacts(
            summary=self.settings.summary,
            mode=self.settings.mode,
            bits=widths[0] if len(widths) == 1 else widths,
            group_size=self.config["quantization"]["group_size"],
            bytes_before=self.before.num_bytes,
            bytes=self.after.num_bytes,
            bits_per_weight_before=self.before.bits_per_weight,
            bits_per_weight=self.after.bits_per_weight,
        )


def shrink(
    loaded: LoadedModel,
    settings: QuantizeConfig,
    rows: Callable[[], Sequence[Sequence[int]]],
    *,
    dtype: mx.Dtype,
    record: Path | None,
) -> Work[Shrunk]:
    """Quantise a loaded model in place and report its size before and after.

    Args:
        loaded: an unquantised model without adapter layers.
        settings: quantisation settings.
        rows: returns the calibration rows as token ids; called only if a target is set.
        dtype: dtype of the weights that are not quantised.
        record: file that keeps the measurements, so that they can resume; default: a file in the cache, keyed
            by the weights, rows and settings.
    """
    plan = make_plan(loaded.model, loaded.config, settings)
    before = size_of(loaded.model, stored_dtype(loaded.path))
    yield MessageEvent(
        "quantize",
        f"before: {before.num_bytes:,} bytes of weights, {before.bits_per_weight:.3f} bits per weight",
    )
    table = None
    if settings.target_bits is not None:
        measured = rows()
        path = record or _cached_record(loaded, measured, settings)
        plan, table = yield from _measured_plan(loaded, settings, plan, measured, dtype, path)
    after = size_of(loaded.model, dtype, plan)
    config = quantize_as(loaded.model, loaded.config, plan)
    share = f"{after.num_bytes / before.num_bytes:.1%} of it"
    yield MessageEvent(
        "quantize",
        f"after: {after.num_bytes:,} bytes ({size(after.num_bytes)}, {share}), "
        f"{after.bits_per_weight:.3f} bits per weight",
    )
    return Shrunk(config, settings, plan, before, after, table)


def write_sensitivity(folder: Path, done: Shrunk) -> None:
    """Write the table of measured effects, if there is one, as JSON, Markdown and an HTML page."""
    if done.sensitivity is None:
        return
    write_json(folder / "sensitivity.json", done.sensitivity)
    write_text(folder / "sensitivity.md", markdown(done.sensitivity))
    write_text(folder / "sensitivity.html", page(done.sensitivity))


def _measured_plan(
    loaded: LoadedModel,
    settings: QuantizeConfig,
    fixed: QuantizationPlan,
    rows: Sequence[Sequence[int]],
    dtype: mx.Dtype,
    record: Path,
) -> Work[tuple[QuantizationPlan, dict[str, Any]]]:
    """Return the plan chosen from the measured effects, and their table."""
    model, group_size = loaded.model, settings.group_size or DEFAULT_GROUP_SIZE
    layers = quantizable(model, loaded.config)
    free = [name for name in layers if name not in fixed]
    candidates = sorted(set(settings.candidate_bits))

    def alike(bits: int) -> QuantizationPlan:
        return {**dict.fromkeys(free, Setting(bits, group_size)), **fixed}

    costs, budget = affordable(model, settings, fixed, dtype, free)
    effects: Effects = {name: {} for name in free}
    predictions = Predictions(model, rows, dtype)
    total = len(free) * len(candidates)
    for number, effect in enumerate(measure(predictions, free, candidates, group_size, record), start=1):
        effects[effect.name][effect.bits] = effect.divergence
        yield StepEvent("measure", number, total, is_new=not effect.known)
    chosen = choose(effects, costs, budget)
    plan: QuantizationPlan = {**{name: Setting(bits, group_size) for name, bits in chosen.items()}, **fixed}
    whole_effect = predictions.divergence(plan)
    yield MessageEvent(
        "quantize", f"divergence on {sum(map(len, rows)):,} tokens: {whole_effect:.4g} nats per token"
    )
    table = {
        "model": loaded.name,
        "target_bits": settings.target_bits,
        "group_size": group_size,
        "calibration": {"rows": len(rows), "tokens": sum(map(len, rows))},
        "chosen": {
            **_sized(size_of(model, dtype, plan)),
            "divergence": whole_effect,
            "sum_of_divergences": sum(effects[name][bits] for name, bits in chosen.items()),
        },
        "uniform": {
            str(bits): {
                **_sized(size_of(model, dtype, alike(bits))),
                "divergence": predictions.divergence(alike(bits)),
            }
            for bits in candidates
        },
        "layers": [
            {
                "name": name,
                "parameters": module.weight.size,
                "divergence": {str(bits): value for bits, value in effects.get(name, {}).items()},
                "bits": setting.bits if (setting := plan[name]) else None,
            }
            for name, module in layers.items()
        ],
    }
    return plan, table


def _sized(of: Size) -> dict[str, Any]:
    return {"bytes": of.num_bytes, "bits_per_weight": of.bits_per_weight}


def _cached_record(loaded: LoadedModel, rows: Sequence[Sequence[int]], settings: QuantizeConfig) -> Path:
    """Return the cache file for the measurements of these weights on these rows."""
    key = sha256_json([content_hash(loaded.path), rows, settings.group_size])
    return cache_dir() / "sensitivity" / f"{key}.jsonl"

"""The model card of an artefact: what it is, how it was made, its results, and how to run it.

It is made from the `report.json` of a run and shows the results of this artefact, evaluated as it ships, or
says that it was not evaluated. The front matter is the hub's (https://huggingface.co/docs/hub/model-cards),
including `model-index`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData, snapshot_download

from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError, ModelError, did_you_mean
from smidgen.export.card_figures import at, number, with_interval
from smidgen.export.card_judge import confident, resistance
from smidgen.export.drift import in_words
from smidgen.export.markdown import code, escaped
from smidgen.export.running import Subject, ways
from smidgen.files import sha256_file, write_text
from smidgen.models.licence import licence_of
from smidgen.models.load import HUB_ID, read_config, resolve

FORMATS = {
    "mlx": "a quantised MLX model",
    "fused": "a model in safetensors with its adapter merged into the weights",
    "peft": "a LoRA adapter in PEFT's format",
    "mlx-adapter": "a LoRA adapter in mlx-lm's format",
    "gguf": "a GGUF file",
}
LIBRARIES = {"mlx": "mlx", "fused": "transformers", "peft": "peft", "mlx-adapter": "mlx", "gguf": "gguf"}
RELATIONS = {"mlx": "quantized", "fused": "finetune", "peft": "adapter", "mlx-adapter": "adapter"}
"""The hub's name for the relation to the base; a GGUF file is quantised."""
CURVE_ROWS = 8

_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


def write_card(
    folder: Path, report: Mapping[str, Any], *, artefact: str, format: str, place: str | None = None
) -> None:
    """Write the model card of an exported folder, its `README.md`; an existing one is replaced.

    Args:
        folder: the artefact's folder, already written.
        report: the content of `report.json`. Every key is optional; text in it is escaped.
        artefact: its name in the report's `exports`, whose results are shown.
        format: `mlx`, `fused`, `peft`, `mlx-adapter` or `gguf`.
        place: where users find it: `owner/name` on the hub or a folder's name; default: the folder's name.

    Raises:
        ConfigError: the format is not known.
        WorkError: the disk is full or the folder is not writable.
    """
    text = card_text(folder, report, artefact=artefact, format=format, place=place)
    write_text(folder / "README.md", text)


def card_text(
    folder: Path, report: Mapping[str, Any], *, artefact: str, format: str, place: str | None = None
) -> str:
    """Return the text of the card; equal folders and reports give equal cards."""
    if format not in FORMATS:
        raise ConfigError(
            f"there is no format '{format}'; expected one of {', '.join(FORMATS)}."
            f"{did_you_mean(format, FORMATS)}"
        )
    facts = _facts(folder, report, artefact, format, place or folder.name)
    matter = _front_matter(report, facts, format)
    return f"---\n{matter}\n---\n\n{_template().render(facts).strip()}\n"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the output is Markdown: `finalize` escapes every value for it
    )
    return environment.get_template("card.md.jinja")


def _facts(folder: Path, report: Mapping[str, Any], artefact: str, format: str, place: str) -> dict[str, Any]:
    """The variables of the template."""
    named = str(at(report, "model", "base") or "an unknown model")
    base, base_folder = _public_name(named) or named, _base_folder(named)
    config = _config(base_folder) or _config(folder)
    licence = licence_of(base_folder, config) if base_folder is not None else None
    weights = sorted(file for file in folder.glob("*") if file.suffix in (".safetensors", ".gguf"))
    shipped = at(report, "exports", artefact) or {}
    thinking = _thinking(report, folder, base_folder)
    subject = Subject(format, folder, place, base, config.get("model_type"), thinking, report.get("usage"))
    return {
        "name": f"{report.get('name') or subject.name} ({artefact})",
        "description": report.get("description"),
        "kind": FORMATS[format],
        "task": report.get("task"),
        "base": base,
        "licence": licence,
        "files": [(file.name, f"{file.stat().st_size:,}", sha256_file(file)) for file in weights],
        "figures": list(_figures(at(shipped, "metrics"))),
        "difference": _interval(at(shipped, "difference")),
        "gain": _gain(report),
        "confident": confident(report),
        "drift": in_words(shipped["drift"]) if shipped.get("drift") else None,
        "resistance": list(resistance(report)),
        "trained_figures": list(_figures(at(report, "after", "metrics"))),
        "data": list(_data(report)),
        "test_data": _public_name(at(report, "provenance", "data", "test", "path")),
        "distillation": list(_distillation(report)),
        "training": list(_training(report)),
        "curve": list(_curve(report)),
        "recipe": code(str(report["recipe"]), "toml") if report.get("recipe") else None,
        "made": list(_made(report)),
        "limits": list(report.get("limits") or ()),
        "thinking": thinking,
        "trained_thinking": at(report, "model", "thinking"),
        "ways": list(ways(subject)),
    }


def _front_matter(report: Mapping[str, Any], facts: Mapping[str, Any], format: str) -> str:
    """The YAML front matter of the card, written by the hub's own library."""
    licence, base = facts["licence"], facts["base"]
    known = licence is not None and _LICENCE_ID.fullmatch(licence.name)
    results = [
        EvalResult(
            task_type="text-generation",
            task_name=str(report.get("task") or "text-generation"),
            dataset_type=re.sub(r"[^\w.-]+", "-", facts["test_data"] or "unknown"),
            dataset_name=f"{facts['test_data'] or 'unknown'} (held-out rows)",
            metric_type=name,
            metric_value=value,
            metric_name=f"{name}, 95 % interval {low} to {high}, n = {n}",
        )
        for name, value, low, high, n in facts["figures"]
    ]
    return ModelCardData(
        license=None if licence is None else licence.name if known else "other",
        license_name=None if licence is None or known else licence.name,
        library_name=LIBRARIES[format],
        pipeline_tag="text-generation",
        tags=["smidgen", *([str(report["task"])] if report.get("task") else [])],
        base_model=base if HUB_ID.fullmatch(base) else None,
        base_model_relation=RELATIONS.get(format, "quantized") if HUB_ID.fullmatch(base) else None,
        model_name=str(facts["name"]),
        eval_results=results or None,
    ).to_yaml(line_break="\n").strip()  # fmt: skip


def _base_folder(base: str) -> Path | None:
    """The base's folder on this machine, if there is one; nothing is downloaded."""
    try:
        if base.startswith("smidgen:") or Path(base).expanduser().exists():
            return resolve(base)
        if matched := HUB_ID.fullmatch(base):
            found = Path(snapshot_download(matched["repo"], local_files_only=True))
            return found / (matched["subfolder"] or "")
    except Exception:  # a missing base is not an error; the hub client raises many types of errors
        return None
    return None


def _thinking(report: Mapping[str, Any], *folders: Path | None) -> bool | None:
    """Whether thinking is on; None if the chat template has no switch for it or is not on this machine."""
    for folder in folders:
        with suppress(ModelError):  # adapters and GGUF files have no tokenizer beside them
            if folder is not None and load_tokenizer(folder).has_thinking_switch:
                return bool(at(report, "model", "thinking"))
    return None


def _config(folder: Path | None) -> dict[str, Any]:
    try:
        return read_config(folder) if folder is not None else {}
    except ModelError:  # adapters and GGUF files have none
        return {}


def _figures(metrics: Any) -> Iterator[tuple[str, float, str, str, int]]:
    """Yield name, value, interval bounds and n of each metric that has a value."""
    for name, metric in (metrics or {}).items():
        value = metric.get("value")
        if value is not None:
            yield (
                str(name),
                round(value, 4),
                number(metric.get("low")),
                number(metric.get("high")),
                metric["n"],
            )


def _gain(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the paired difference of the trained model from its base, asked in the best way."""
    best = at(report, "best_base") or {}
    compared = at(report, "comparisons", f"after_vs_{best.get('name')}")
    difference = _interval(at(compared, "difference"))
    if difference is None:
        return None
    described = {"base": best["description"], "ways": best["ways"]}
    return {"metric": compared["metric"], "difference": difference, **described}


def _interval(metric: Any) -> str | None:
    """Format a difference as `value (low to high)`, or return None."""
    if not metric or metric.get("value") is None:
        return None
    return f"{metric['value']:+.3f} ({metric['low']:+.3f} to {metric['high']:+.3f})"


def _data(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield role, name, rows and fingerprint of each dataset."""
    for role, source in (at(report, "provenance", "data") or {}).items():
        rows = source.get("rows")
        yield role, _public_name(source.get("path")) or "–", number(rows), source.get("sha256") or "–"


def _training(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts of the training as terms and values."""
    model, data, training = (report.get(name) or {} for name in ("model", "data", "training"))
    known = (
        ("method", model.get("method")),
        ("parameters", model.get("parameters")),
        ("trained parameters", model.get("trained_parameters")),
        ("training rows", data.get("train_rows")),
        ("trained tokens", data.get("trained_tokens")),
        ("steps", training.get("steps")),
        ("epochs", training.get("epochs")),
        ("best step", training.get("chosen_step")),
        ("seconds", training.get("seconds") and round(training["seconds"])),
    )
    for term, value in known:
        if value is not None:
            yield term, value if isinstance(value, str) else number(value)


def _distillation(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the model was taught as terms and values; nothing if it had no teacher."""
    facts = report.get("distillation")
    if not facts:
        return
    yield "teacher", " ".join(_public_name(word) or word for word in facts["teacher"].split())
    metric = next(iter(at(report, "after", "metrics") or {}), "accuracy")
    named = {"teacher": "teacher", "before": "student before", "after": "student after"}
    for key, who in named.items():
        if (found := at(report, key, "metrics", metric)) and found["value"] is not None:
            yield f"{metric} of the {who}, held-out rows", with_interval(found)
    yield "right answers of the teacher, training rows", with_interval(facts["accuracy"])
    ceiling = f"training rows with a right answer among {facts['candidates']} (the ceiling)"
    yield ceiling, with_interval(facts["ceiling"])
    yield "kept answers", f"{facts['kept']:,} of {facts['answers']:,}"
    for reason, count in facts["rejected"].items():
        yield f"dropped: {reason}", number(count)
    if facts.get("contradictory"):
        yield "rows not asked, with contradictory labels", number(facts["contradictory"])
    for term, key in (("cost of the teacher", "cost"), ("cost of the judge", "judge_cost")):
        if cost := facts.get(key):
            money = "price unknown" if cost["money"] is None else f"{cost['money']:.3g} {cost['currency']}"
            read, written = number(cost["prompt_tokens"]), number(cost["completion_tokens"])
            yield term, f"{money}; {read} prompt tokens, {written} generated, {cost['seconds']:.0f} s"


def _curve(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield step, training loss and validation loss at evenly spaced steps and at every validated step."""
    curve = {point["step"]: point["loss"] for point in at(report, "training", "curve") or ()}
    validated = {point["step"]: point["loss"] for point in at(report, "training", "validation") or ()}
    steps = sorted(curve)
    apart = max(1, (len(steps) - 1) // (CURVE_ROWS - 1)) if steps else 1
    for step in sorted({*steps[::apart], *steps[-1:], *validated}):
        yield str(step), number(curve.get(step)), number(validated.get(step))


def _made(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield when, where and with what it was made."""
    machine, provenance = report.get("machine") or {}, report.get("provenance") or {}
    versions = provenance.get("versions") or {}
    command = " ".join(_public_name(word) or word for word in str(report.get("command") or "").split())
    known = (
        ("date", report.get("created")),
        ("command", command),
        ("machine", machine.get("device") or machine.get("cpu")),
        ("system", machine.get("platform")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("seeds", ", ".join(f"{name} {seed}" for name, seed in (provenance.get("seeds") or {}).items())),
        ("SHA-256 of the base", at(provenance, "base_model", "sha256")),
    )
    yield from ((term, str(value)) for term, value in known if value)


def _public_name(path: Any) -> str | None:
    """A path as the card shows it: of a local path only the last part, which reveals nothing private."""
    if not path:
        return None
    return Path(path).name if str(path).startswith(("/", "~", ".")) else str(path)

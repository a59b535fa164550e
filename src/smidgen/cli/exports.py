"""The artefacts of a run that others load: made from the trained model, and asked everything again."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smidgen.config import QuantizeConfig, Recipe

if TYPE_CHECKING:
    from smidgen.cli.stages import Life


DRIFT_PROMPTS = 20
"""Validation rows on which a fused model is held against the model with its adapter beside it."""
VALIDATED = "prompts that the run validated on"


class Artefact(NamedTuple):
    """One thing that others load.

    Attributes:
        name: its key in the report, and the name of its folders in the run.
        format: `mlx`, `peft`, `fused` or `gguf`.
        folder: where it stands in the run folder.
        make: writes it, and returns how far it is from the trained model where that is measured.
        loaded: how it is opened for its evaluation, as arguments of `prove`.
    """

    name: str
    format: str
    folder: str
    make: "Callable[[Life, Path], dict[str, Any]] | None"
    loaded: "Callable[[Life, Path], dict[str, Any]]"


def artefacts(recipe: Recipe) -> list[Artefact]:
    """What a recipe makes for others, in order; the quantised model is one, made by its own stage."""
    found = []
    if recipe.quantize is not None:
        name = quantized_name(recipe.quantize)
        found.append(Artefact(name, "mlx", "quantized", None, _as_model))
    if recipe.export is not None:
        gguf = f"gguf-{recipe.export.gguf_dtype.lower()}"
        known = {
            "peft": Artefact("peft", "peft", "exports/peft", _make_peft, _as_adapter),
            "fused": Artefact("fused", "fused", "exports/fused", _make_fused, _as_model),
            "gguf": Artefact(gguf, "gguf", f"exports/{gguf}", _make_gguf, _as_gguf),
        }
        found += [known[name] for name in recipe.export.formats]
    return found


def quantized_name(settings: QuantizeConfig) -> str:
    """What the quantised model is called, as `mlx-4bit`."""
    if settings.target_bits is not None:
        return f"mlx-{settings.target_bits:g}bpw"
    mixed = settings.recipe or (settings.mode if settings.mode != "affine" else None)
    return f"mlx-{mixed or f'{settings.bits or 4}bit'}"


def _as_model(_: "Life", folder: Path) -> dict[str, Any]:
    return {"model": str(folder), "engine": "mlx"}  # another would convert it and evaluate that


def _make_peft(life: "Life", folder: Path) -> dict[str, Any]:
    from smidgen.export.peft import export_peft

    export_peft(life.best, life.recipe.model.base, folder)
    return {}


def _as_adapter(life: "Life", folder: Path) -> dict[str, Any]:
    return {"model": life.recipe.model.base, "adapter": folder, "engine": "mlx"}


def _make_fused(life: "Life", folder: Path) -> dict[str, Any]:
    from smidgen.data.prompts import read_prompts
    from smidgen.export.fused import export_fused

    prompts = read_prompts(life.run.path("data/validation.jsonl"))[:DRIFT_PROMPTS]
    facts = export_fused(**life.trained(), out=folder, prompts=prompts, asked=VALIDATED)
    return {"drift": facts["drift"]}


def _make_gguf(life: "Life", folder: Path) -> dict[str, Any]:
    from smidgen.export.gguf import verify_gguf, write_gguf

    assert life.recipe.export is not None
    source = life.trained()
    path = _gguf_file(life, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(source["model"], path, dtype=life.recipe.export.gguf_dtype, adapter=source["adapter"])
    verified = verify_gguf(path, source["model"], adapter=source["adapter"])
    return gguf_drift(verified, life.recipe.export.gguf_dtype)


def gguf_drift(verified: dict[str, Any] | None, dtype: str) -> dict[str, Any]:
    """How far a verified GGUF file is from what it was made of: `drift`, and `warnings` where that is far."""
    from smidgen.export.fused import MAX_DRIFT

    if verified is None:
        return {}
    mean_kl, prompts = verified["kl_from_source"], verified["prompts"]
    drift = {"asked": "texts of smidgen's own", "mean_kl": max(mean_kl, 0.0), "prompts": prompts}
    if mean_kl <= MAX_DRIFT:
        return {"drift": drift, "warnings": []}
    far = (
        f"{dtype} changes the next-token distributions by {mean_kl:.3g} nats on average, and above "
        f"{MAX_DRIFT:g} `smidgen export fused` keeps nothing; evaluate the model again on this file, or "
        "choose a --dtype of more bits"
    )
    return {"drift": drift, "warnings": [far]}


def _as_gguf(life: "Life", folder: Path) -> dict[str, Any]:
    return {"model": str(_gguf_file(life, folder)), "engine": "llama"}


def _gguf_file(life: "Life", folder: Path) -> Path:
    return folder / f"{life.recipe.name}-{folder.name.removeprefix('gguf-')}.gguf"


def size_of(folder: Path) -> int:
    """Bytes of the weights of an artefact: safetensors, GGUF."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf"))

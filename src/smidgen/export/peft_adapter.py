"""Export adapters in PEFT's format, which transformers and vLLM load, and in mlx-lm's.

PEFT computes `α / r · B A x` from the transposes of mlx-lm's matrices: α is the rank times mlx-lm's scale, or
√r times it for rsLoRA (`use_rslora`).
Nothing is rounded: reading the written files gives the same tensors, dtypes and scales.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smidgen.backend import mx
from smidgen.export.facts import DriftFacts
from smidgen.files import atomic_folder, write_json
from smidgen.models.adapter import (
    CONFIG,
    WEIGHTS,
    Adapter,
    grid,
    read_adapter,
    refuse_faults,
    warn_of_another_base,
    write_adapter,
)
from smidgen.models.architectures import build_graph
from smidgen.models.licence import warn_of_licence
from smidgen.models.load import local_folder, read_config
from smidgen.models.lora import refuse_misfits
from smidgen.models.peft import PREFIX
from smidgen.models.peft import WEIGHTS as PEFT_WEIGHTS

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's `--max-lora-rank` accepts (`MaxLoRARanks` in vllm/config/lora.py)."""
VLLM_DEFAULT_RANK = 16


@dataclass(frozen=True, kw_only=True)
class AdapterExport:
    """An adapter that was written.

    Attributes:
        out: the folder.
        format: `peft` or `mlx-adapter`.
        rank: the rank that most layers have.
        alpha: the α that most layers have; the scale of the update is α / rank, or α / √rank for rsLoRA.
        layers: number of adapted layers.
        parameters: number of values in all matrices.
        bytes: size of the weight file.
        warnings: what vLLM does not support in it.
    """

    out: Path
    format: str
    rank: int
    alpha: float
    layers: int
    parameters: int
    bytes: int
    warnings: list[str]
    drift: DriftFacts | None = field(default=None, init=False)
    adapter_effect: DriftFacts | None = field(default=None, init=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        return dict(vars(self))


def export_peft(adapter: Path, base: str, out: Path) -> AdapterExport:
    """Write an adapter in PEFT's format; an existing folder at `out` is replaced.

    Args:
        adapter: adapter folder in mlx-lm's or PEFT's format.
        base: name of the model that it belongs to, as for `smidgen.models.load.load`; the file names it. If
            its folder is on this machine, every shape is checked against it.
        out: the folder to write.

    Raises:
        ModelError: the adapter cannot be read, the base is neither a folder nor a hub id, or they do not fit.
        WorkError: the disk is full or the folder is not writable.
    """
    found = read_adapter(adapter)
    num_blocks = _check(found, base)
    config = peft_config(found, base, num_blocks)
    weights = {}
    for layer in found.layers:
        for part in ("lora_A", "lora_B"):
            value = found.weights[f"{layer}.{part.lower()}"]
            weights[f"{PREFIX}{layer}.{part}.weight"] = mx.contiguous(value.T)
    with atomic_folder(out, replace=True) as folder:
        # torch's loader refuses files whose metadata does not name a known format
        mx.save_safetensors(str(folder / PEFT_WEIGHTS), weights, metadata={"format": "pt"})
        write_json(folder / CONFIG, config)
    return AdapterExport(
        out=out,
        format="peft",
        rank=config["r"],
        alpha=config["lora_alpha"],
        layers=len(found.layers),
        parameters=found.num_parameters,
        bytes=(out / PEFT_WEIGHTS).stat().st_size,
        warnings=vllm_warnings(found),
    )


def export_mlx_adapter(adapter: Path, base: str, out: Path) -> AdapterExport:
    """Write an adapter in mlx-lm's format; arguments, results and errors are those of `export_peft`."""
    found = read_adapter(adapter)
    num_blocks = _check(found, base)
    write_adapter(out, found, num_blocks=num_blocks)
    written = read_adapter(out)
    layer = written.layers[0]
    return AdapterExport(
        out=out,
        format="mlx-adapter",
        rank=written.ranks[layer],
        alpha=_alpha(written.scales[layer], _divisor(written, layer)),
        layers=len(written.layers),
        parameters=written.num_parameters,
        bytes=(out / WEIGHTS).stat().st_size,
        warnings=[],
    )


def peft_config(adapter: Adapter, base: str, num_blocks: int | None = None) -> dict[str, Any]:
    """Return PEFT's `adapter_config.json` for an adapter that `refuse_faults` accepts.

    The most common rank and α are the defaults; `rank_pattern` and `alpha_pattern` contain the others. Layers
    are named by their kind if every adapted block has the same kinds, else by their full names.

    Args:
        adapter: the adapter.
        base: the base model's name.
        num_blocks: number of blocks of the model; if all are adapted, `layers_to_transform` is null.
    """
    ranks = adapter.ranks
    alphas = {layer: _alpha(adapter.scales[layer], _divisor(adapter, layer)) for layer in adapter.layers}
    rank, alpha = (_most_common(list(values.values())) for values in (ranks, alphas))
    blocks, kinds = grid(adapter.layers)
    everywhere = num_blocks is not None and blocks == list(range(num_blocks))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted(kind.rpartition(".")[2] for kind in kinds) or adapter.layers,
        "layers_to_transform": blocks if blocks and not everywhere else None,
        "rank_pattern": {_exactly(layer): value for layer, value in ranks.items() if value != rank},
        "alpha_pattern": {_exactly(layer): value for layer, value in alphas.items() if value != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": adapter.rslora,
        "use_dora": False,
    }


def vllm_warnings(adapter: Adapter) -> list[str]:
    """Return what vLLM does not support in an adapter, or only with an option."""
    warnings = []
    rank = max(adapter.ranks.values())
    if rank > VLLM_RANKS[-1]:
        warnings.append(f"vLLM serves adapters up to rank {VLLM_RANKS[-1]}, and this one has {rank}")
    elif rank > VLLM_DEFAULT_RANK:
        needed = next(allowed for allowed in VLLM_RANKS if allowed >= rank)
        warnings.append(
            f"vLLM serves adapters up to rank {VLLM_DEFAULT_RANK} by default, and this one has {rank}: start "
            f"it with --max-lora-rank {needed}"
        )
    if outside := [layer for layer in adapter.layers if not layer.startswith("model.layers.")]:
        warnings.append(f"vLLM refuses or ignores updates outside of the blocks: {', '.join(outside)}")
    if len(set(adapter.ranks.values())) > 1 or len(set(adapter.scales.values())) > 1:
        warnings.append(
            "vLLM reads one rank and one alpha for all layers and ignores rank_pattern and alpha_pattern, so "
            "it would scale some layers of this adapter wrongly; serve the fused model instead"
        )
    return warnings


def _check(adapter: Adapter, base: str) -> int | None:
    """Refuse an adapter that is broken or does not fit the base; return the base's number of blocks if known.

    Warns about the base's licence as loading it would.
    """
    refuse_faults(adapter)
    warn_of_another_base(adapter, base)
    path = local_folder(base)
    if path is None:
        return None  # a hub id: converting an adapter does not require the base's weights
    config = read_config(path)
    model = build_graph(config, str(path / "config.json"))  # its weights are never computed
    refuse_misfits(adapter, model)
    warn_of_licence(path, config)
    return len(model.layers)


def _divisor(adapter: Adapter, layer: str) -> float:
    """Return what PEFT divides a layer's α by."""
    rank = adapter.ranks[layer]
    return math.sqrt(rank) if adapter.rslora else rank


def _alpha(scale: float, divisor: float) -> float:
    """Return α such that α / divisor is the scale, without rounding noise if possible."""
    exact = scale * divisor
    tidy = round(exact, 9)
    alpha = tidy if tidy / divisor == scale else exact
    return int(alpha) if float(alpha).is_integer() else alpha


def _most_common(values: list[Any]) -> Any:
    return max(sorted(set(values)), key=values.count)


def _exactly(layer: str) -> str:
    """Escape a layer's name for PEFT's patterns, which are regular expressions."""
    return layer.replace(".", r"\.")

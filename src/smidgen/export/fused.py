"""Merge a base and its adapter into one model folder, which mlx-lm, transformers and vLLM load as any other.

The update is added in float32 to the weights, which are dequantised first if needed. The sum is cast to the
base's stored dtype, or quantised again. Rounding the sum may round the update away
(https://github.com/ml-explore/mlx-lm/issues/1172), so the written folder is loaded again and compared with
the unfused model and adapter; if the drift is too large, nothing is kept.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smidgen import cpu_kernels
from smidgen.backend import mx
from smidgen.data.types import Message
from smidgen.errors import ConfigError, WorkError
from smidgen.export.drift import OWN_PROMPTS, Drift, compare, describe, last_logits, token_rows
from smidgen.export.facts import DriftFacts
from smidgen.files import atomic_folder
from smidgen.models.licence import LicenceNotice
from smidgen.models.load import build, load, read_config
from smidgen.models.lora import dequantize, fuse, load_adapter
from smidgen.models.quantization import quantize
from smidgen.models.save import QUANTIZATION_KEYS, save_model, stored_dtype
from smidgen.models.weights import weight_files

MAX_DRIFT = 0.1
"""Nats. The bundled judge in 4 bits drifts by 0.002 on prompts like its training prompts, and by 0.16 on
those of `smidgen.export.drift`, which it does not understand; in 2 bits by 0.7, where it is useless."""
GROUP_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class FusedExport:
    """A fused model that was written.

    Attributes:
        out: the folder.
        format: `mlx` if quantised, else `fused`.
        bits: bits per quantised weight; None for plain weights.
        group_size: weights that share a scale; None for plain weights.
        dtype: dtype of the floating-point weights, as `config.json` names it.
        bytes: size of the weight files.
        drift: from the model with its adapter, unfused.
        adapter_effect: the drift between the base and the base with its adapter; None without an adapter.
        warnings: what a user should know before relying on it.
    """

    out: Path
    format: str
    bits: int | None
    group_size: int | None
    dtype: str
    bytes: int
    drift: DriftFacts
    adapter_effect: DriftFacts | None
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        effect = self.adapter_effect and self.adapter_effect.to_json()
        return {**vars(self), "drift": self.drift.to_json(), "adapter_effect": effect}


def export_fused(
    model: str,
    adapter: Path | None,
    out: Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    prompts: Sequence[Sequence[Message]] | None = None,
    asked: str = "prompts that were given",
    max_drift: float = MAX_DRIFT,
    force: bool = False,
) -> FusedExport:
    """Write a model with its adapter merged into the weights; an existing folder at `out` is replaced.

    Args:
        model: a model name or folder, as for `smidgen.models.load.load`.
        adapter: adapter folder; None writes the model alone.
        out: the folder to write.
        bits: bits per quantised weight; None writes plain weights, even if the base's are quantised.
        group_size: weights that share a scale; default 64.
        prompts: conversations to measure the drift on; default: those of `smidgen.export.drift`.
        asked: what the prompts are, for the description of the drift.
        max_drift: the largest mean KL divergence, in nats, that is accepted.
        force: keep the folder regardless of the drift.

    Raises:
        ConfigError: `group_size` without `bits`, or a negative `max_drift`.
        ModelError: the model or the adapter is not usable, or cannot be quantised with these settings.
        WorkError: the drift is above `max_drift`, or the disk is full; nothing is left behind.
    """
    if bits is None and group_size is not None:
        raise ConfigError(f"group_size is {group_size}, but plain weights have no groups; set bits too")
    if not max_drift >= 0:
        raise ConfigError(f"max_drift is {max_drift}; expected 0 or more nats")
    with atomic_folder(out, replace=True) as folder:
        asked = OWN_PROMPTS if prompts is None else asked
        rows, reference, effect = _write(folder, model, adapter, bits, group_size or GROUP_SIZE, prompts)
        config = read_config(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LicenceNotice)  # already raised for the model itself
            written = build(folder, config)
        dequantize(written, mx.float32)  # the same weights, but much faster on a CPU
        cpu_kernels.accelerate(written)
        drift = compare(reference, last_logits(written, rows))
        if not (force or drift.mean_kl <= max_drift):
            raise WorkError(_refusal(drift, asked, effect, max_drift, bits))
    return FusedExport(
        out=out,
        format="mlx" if bits else "fused",
        bits=bits,
        group_size=(group_size or GROUP_SIZE) if bits else None,
        dtype=config["torch_dtype"],
        bytes=sum(file.stat().st_size for file in weight_files(out)),
        drift=describe(drift, asked),
        adapter_effect=effect and describe(effect, asked),
        warnings=_warnings(drift, effect),
    )


def _write(
    folder: Path,
    model: str,
    adapter: Path | None,
    bits: int | None,
    group_size: int,
    prompts: Sequence[Sequence[Message]] | None,
) -> tuple[list[list[int]], list[np.ndarray], Drift | None]:
    """Write the folder; return the rows to compare on, the unfused model's logits, and the adapter's effect.

    The model is freed on return, because two models may not fit into memory.
    """
    loaded = load(model)
    graph, config = loaded.model, loaded.config
    dequantize(graph, mx.float32)
    rows = token_rows(loaded.tokenizer, prompts, config.get("max_position_embeddings"))
    reference, effect = list(last_logits(graph, rows)), None
    if adapter is not None:
        load_adapter(graph, adapter, model)
        base, reference = reference, list(last_logits(graph, rows))
        effect = compare(reference, iter(base))
    dtype = stored_dtype(loaded.path)
    fuse(graph)
    config = {name: value for name, value in config.items() if name not in QUANTIZATION_KEYS}
    if bits is not None:
        config = quantize(graph, config, bits=bits, group_size=group_size)
    save_model(folder, graph, config, loaded.path, dtype=dtype)
    mx.clear_cache()
    return rows, reference, effect


def _warnings(drift: Drift, effect: Drift | None) -> list[str]:
    """Warnings about a folder that was kept."""
    if effect is None or drift.mean_kl < effect.mean_kl:
        return []
    return ["the drift is as large as the adapter's effect, which may have been rounded away; evaluate it"]


def _refusal(drift: Drift, asked: str, effect: Drift | None, max_drift: float, bits: int | None) -> str:
    """The error message for a folder that was not kept."""
    beside = f"; the adapter itself changes it by {effect.mean_kl:.3g}" if effect else ""
    remedy = "Use more bits, or no quantisation" if bits else "Check the model and the adapter"
    return (
        f"nothing was written: the fused model's next-token distributions differ from the unfused model's by "
        f"{drift.mean_kl:.3g} nats on average, above --max-drift {max_drift:g}{beside}. It was measured on "
        f"{drift.prompts} {asked}; --prompts FILE uses other prompts, --run the run's validation prompts. "
        f"{remedy}, raise --max-drift, or keep the model anyway with --force"
    )

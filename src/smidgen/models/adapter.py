"""Low-rank adapter files: mlx-lm's format, which smidgen writes too, and PEFT's.

Both store a pair of matrices for each adapted layer. mlx-lm multiplies with A (in, rank) and B (rank, out)
and stores one factor, `scale`. PEFT stores both transposed, like torch's linear layers, and stores α, which
it divides by the rank. Both formats are read into the same `Adapter`.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smidgen.backend import mx
from smidgen.errors import ModelError, did_you_mean_best, first_few
from smidgen.files import atomic_folder, write_json
from smidgen.models import peft
from smidgen.models.weights import read_safetensors

_HUB_NAME = re.compile(r"smidgen:\w+|\w[\w.-]*/[\w.-]+(:[\w./-]+)?")
_COPY = re.compile(r"(-bnb|-mlx)?-(\d+bit|bf16|fp16)\b.*$", re.IGNORECASE)
"""The suffix that a quantised copy's name adds to the model's name."""

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates `scale · A B` of some layers of a model.

    Attributes:
        weights: `<layer>.lora_a` (in, rank) and `<layer>.lora_b` (rank, out), in the dtype of their file.
            Other tensors of the file keep their names; `refuse_faults` reports them.
        scales: the factor of each layer.
        dropout: dropout rate of the layers' inputs during training.
        base: the model that it was trained on, if the file names one.
        source: the folder it was read from, for error messages.
        rslora: whether the factors are meant as α / √rank (rsLoRA) instead of α / rank.
    """

    weights: Mapping[str, mx.array]
    scales: Mapping[str, float]
    dropout: float
    base: str | None
    source: Path
    rslora: bool = False

    @cached_property
    def layers(self) -> list[str]:
        """The dotted names of the layers that the file has tensors for."""
        return sorted({_layer_of(name) for name in self.weights})

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer's update."""
        return {layer: self.weights[f"{layer}.lora_a"].shape[1] for layer in self.layers}

    @property
    def num_parameters(self) -> int:
        """Number of values in all matrices."""
        return sum(value.size for value in self.weights.values())


def read_adapter(path: Path) -> Adapter:
    """Read an adapter folder in mlx-lm's or PEFT's format, as its `adapter_config.json` tells.

    Raises:
        ModelError: the folder is not an adapter, or the adapter is not a plain low-rank update.
    """
    config = read_adapter_config(path)
    return _read_peft(path, config) if "peft_type" in config else _read_mlx(path, config)


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Return the `adapter_config.json` of an adapter folder.

    Raises:
        ModelError: it is missing or is not a JSON object.
    """
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_dir():
            fault = "is a file" if path.exists() else "does not exist"
            raise ModelError(f"{path} {fault}; expected an adapter folder") from None
        raise ModelError(
            f"{path} does not contain {CONFIG}; expected an adapter of smidgen, mlx-lm or PEFT."
            f"{did_you_mean_best(path)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / CONFIG} is not readable JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} contains a {type(config).__name__}; expected a JSON object")
    return config


def warn_of_another_base(adapter: Adapter, name: str) -> None:
    """Warn if an adapter was trained on another model than the named one, even if its shapes fit.

    Only the last parts of hub names are compared: mirrors and quantised copies of a model count as that
    model, and a local folder may contain any model.
    """
    trained_on = adapter.base or ""
    if all(_HUB_NAME.fullmatch(base) and not Path(base).exists() for base in (trained_on, name)):
        expected, given = (_COPY.sub("", re.split("[/:]", base)[1]).lower() for base in (trained_on, name))
        if expected != given:
            warnings.warn(
                f"the adapter in {adapter.source} was trained on {trained_on}, not on {name}; "
                "on another model its answers may be useless",
                stacklevel=1,  # from one place, so that Python shows it once
            )


def write_adapter(path: Path, adapter: Adapter, *, num_blocks: int | None = None) -> None:
    """Write a folder that mlx-lm's `load_adapters` reads; an existing folder is replaced.

    mlx-lm supports one rank and one scale: smaller updates are padded with zeros, and where scales differ,
    the difference is multiplied into B.

    Args:
        path: the folder.
        adapter: an adapter that `refuse_faults` accepts.
        num_blocks: number of blocks of the model. With it, layers are named by their kind if the last blocks
            all have the same kinds; without it, every layer is listed.

    Raises:
        WorkError: the disk is full or the folder is not writable.
    """
    rank, scale = max(adapter.ranks.values()), next(iter(adapter.scales.values()))
    weights = {}
    for layer in adapter.layers:
        a, b = adapter.weights[f"{layer}.lora_a"], adapter.weights[f"{layer}.lora_b"]
        if adapter.scales[layer] != scale:
            b = (b.astype(mx.float32) * (adapter.scales[layer] / scale)).astype(b.dtype)
        missing = rank - a.shape[1]
        weights[f"{layer}.lora_a"] = mx.contiguous(mx.pad(a, [(0, 0), (0, missing)]))
        weights[f"{layer}.lora_b"] = mx.contiguous(mx.pad(b, [(0, missing), (0, 0)]))
    blocks, kinds = grid(adapter.layers)
    if num_blocks is not None and blocks and blocks == list(range(num_blocks - len(blocks), num_blocks)):
        named = {"num_layers": len(blocks), "keys": kinds}
    else:  # mlx-lm accepts whole names too, and then ignores num_layers
        named = {"num_layers": 1, "keys": adapter.layers}
    description = {
        "fine_tune_type": "lora",
        "num_layers": named["num_layers"],
        "lora_parameters": {
            "rank": rank, "scale": scale, "dropout": adapter.dropout, "keys": named["keys"],
            **({"rslora": True} if adapter.rslora else {}),
        },
    }  # fmt: skip
    with atomic_folder(path, replace=True) as folder:
        mx.save_safetensors(str(folder / WEIGHTS), weights, metadata={"format": "mlx"})
        write_json(folder / CONFIG, description)


def grid(layers: list[str]) -> tuple[list[int], list[str]]:
    """Return the adapted blocks and the kinds of layers in them, such as `mlp.up_proj`.

    Both are empty if blocks differ in their kinds, or a layer is outside of the blocks.
    """
    found: dict[int, set[str]] = {}
    for layer in layers:
        head, _, rest = layer.partition("model.layers.")
        block, _, kind = rest.partition(".")
        if head or not block.isdigit() or not kind:
            return [], []
        found.setdefault(int(block), set()).add(kind)
    kinds = next(iter(found.values()), set())
    if any(others != kinds for others in found.values()):
        return [], []
    return sorted(found), sorted(kinds)


def refuse_faults(adapter: Adapter) -> None:
    """Refuse an adapter that is empty or has tensors other than complete A and B pairs.

    Raises:
        ModelError: names the first faults and the number of others.
    """
    faults = [fault for layer in adapter.layers for fault in pair_faults(layer, adapter.weights)]
    if not adapter.layers:
        faults = ["it has no tensors"]
    if faults:
        raise ModelError(
            f"the adapter in {adapter.source} cannot be used: {first_few(faults)}. Download or save it again"
        )


def pair_faults(layer: str, weights: Mapping[str, mx.array]) -> Iterator[str]:
    """Yield the faults of one layer's matrices that do not depend on the model."""
    a, b = weights.get(f"{layer}.lora_a"), weights.get(f"{layer}.lora_b")
    if a is None and b is None:
        yield f"'{layer}' is neither a lora_a nor a lora_b"
        return
    if a is None or b is None:
        there, absent = ("lora_b", "lora_a") if a is None else ("lora_a", "lora_b")
        yield f"'{layer}' has {there} but no {absent}"
    for part, tensor in (("lora_a", a), ("lora_b", b)):
        if tensor is not None and tensor.ndim != 2:
            yield f"'{layer}.{part}' has shape {tensor.shape}, expected a matrix"
    if a is not None and b is not None and a.ndim == b.ndim == 2 and a.shape[1] != b.shape[0]:
        yield f"'{layer}' has rank {a.shape[1]} in lora_a and {b.shape[0]} in lora_b"


def _read_mlx(path: Path, config: dict[str, Any]) -> Adapter:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ModelError(f"the adapter in {path} is of type '{kind}'; only 'lora' can be loaded")
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict) or not peft.is_positive(scale := parameters.get("scale")):
        raise ModelError(
            f"{path / CONFIG} has no positive number at lora_parameters.scale, the factor of the update"
        )
    if not peft.is_dropout(dropout := parameters.get("dropout", 0.0)):
        raise ModelError(
            f"{path / CONFIG} has {dropout!r} at lora_parameters.dropout; expected a number of at "
            "least 0 and below 1"
        )
    weights = read_safetensors(path / WEIGHTS)
    scales = {_layer_of(name): scale for name in weights}
    base = config.get("model")
    named = base if isinstance(base, str) else None
    return Adapter(weights, scales, dropout, named, path, parameters.get("rslora") is True)


def _read_peft(path: Path, config: dict[str, Any]) -> Adapter:
    faults = peft.config_faults(config)
    if not (path / peft.WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        faults.append("its weights are a pickle file, adapter_model.bin; save them as safetensors")
    if faults:
        raise ModelError(f"the PEFT adapter in {path} is not supported: {first_few(faults)}")
    weights = {}
    for name, value in read_safetensors(path / peft.WEIGHTS).items():
        layer, _, part = name.removesuffix(".weight").removeprefix(peft.PREFIX).rpartition(".")
        if part in ("lora_A", "lora_B") and name == f"{peft.PREFIX}{layer}.{part}.weight" and value.ndim == 2:
            weights[f"{layer}.{part.lower()}"] = value.T
        else:
            faults.append(f"'{name}' {value.shape} is not a lora_A or lora_B matrix of a linear layer")
    layers = sorted({_layer_of(name) for name in weights})
    for layer in layers:
        wanted, a = peft.rank_of(config, layer), weights.get(f"{layer}.lora_a")
        if not peft.is_target(config, layer):
            faults.append(f"'{layer}' has an update, but {CONFIG} does not target it")
        elif a is not None and a.shape[1] != wanted:
            faults.append(f"'{layer}' has rank {a.shape[1]}, but {CONFIG} says {wanted}")
    faults += [f"there is no tensor for '{name}'" for name in peft.idle_targets(config, layers)]
    if faults:
        raise ModelError(
            f"the tensors of the PEFT adapter in {path} do not fit its {CONFIG}: {first_few(faults)}"
        )
    scales = {layer: peft.scale_of(config, layer) for layer in layers}
    dropout = config.get("lora_dropout") or 0.0
    base, rslora = config.get("base_model_name_or_path"), bool(config.get("use_rslora"))
    return Adapter(weights, scales, dropout, base, path, rslora)


def _layer_of(name: str) -> str:
    return name.removesuffix(".lora_a").removesuffix(".lora_b")

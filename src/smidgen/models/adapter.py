"""Low-rank adapters as files: mlx-lm's format, which is ours too, and that of PEFT.

Both hold a pair of matrices for each adapted layer. mlx-lm multiplies with A (in, rank) and B (rank, out) and
writes one factor, `scale`; PEFT stores both transposed, as torch's linear layers do, and writes α, which it
divides by the rank. Whichever a folder holds is read to the same `Adapter`.
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
"""What the name of a quantised copy has behind that of the model."""

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """The updates `scale · A B` of some layers of a model.

    Attributes:
        weights: `<layer>.lora_a` (in, rank) and `<layer>.lora_b` (rank, out), in the dtype of their file.
            What else stands in the file keeps its name; `refuse_faults` tells it.
        scales: the factor of each layer.
        dropout: of the layers' inputs while training.
        base: the model that it was made for, where the file names one.
        source: the folder it was read from, for errors.
    """

    weights: Mapping[str, mx.array]
    scales: Mapping[str, float]
    dropout: float
    base: str | None
    source: Path

    @cached_property
    def layers(self) -> list[str]:
        """The dotted name of each layer that something in the file belongs to."""
        return sorted({_layer_of(name) for name in self.weights})

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer's update."""
        return {layer: self.weights[f"{layer}.lora_a"].shape[1] for layer in self.layers}

    @property
    def num_parameters(self) -> int:
        """Numbers in all matrices."""
        return sum(value.size for value in self.weights.values())


def read_adapter(path: Path) -> Adapter:
    """Read the adapter of a folder, ours, mlx-lm's or PEFT's by what its `adapter_config.json` says.

    Raises:
        ModelError: the folder is no adapter, or one that is not a plain low-rank update.
    """
    config = read_adapter_config(path)
    return _read_peft(path, config) if "peft_type" in config else _read_mlx(path, config)


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Return the `adapter_config.json` of an adapter's folder.

    Raises:
        ModelError: it is missing or is not a JSON object.
    """
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_dir():
            fault = "is a file" if path.exists() else "does not exist"
            raise ModelError(f"{path} {fault}; expected the folder of an adapter") from None
        raise ModelError(
            f"{path} holds no {CONFIG}; expected an adapter of smidgen, mlx-lm or PEFT."
            f"{did_you_mean_best(path)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / CONFIG} is not readable JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} holds a {type(config).__name__}; expected a JSON object")
    return config


def warn_of_another_base(adapter: Adapter, name: str) -> None:
    """Warn of an adapter that was made for another model than the one of this name, though it may fit.

    Only names are compared, and by their last parts: mirrors and quantised copies of a model are that model,
    and what stands in a folder may be any.
    """
    named = adapter.base or ""
    if all(_HUB_NAME.fullmatch(base) and not Path(base).exists() for base in (named, name)):
        made_for, given = (_COPY.sub("", re.split("[/:]", base)[1]).lower() for base in (named, name))
        if made_for != given:
            warnings.warn(
                f"the adapter in {adapter.source} was made for {named}, and not for {name}; "
                "on another model its answers may be worthless",
                stacklevel=1,  # from one place, so that Python shows it once
            )


def write_adapter(path: Path, adapter: Adapter, *, num_blocks: int | None = None) -> None:
    """Write a folder that mlx-lm's `load_adapters` reads; one that stands there is replaced.

    mlx-lm knows one rank and one scale: smaller updates are filled up with zeros, and where scales differ,
    B takes up the difference.

    Args:
        path: the folder.
        adapter: without faults.
        num_blocks: how many blocks the model has, to name the layers by their kind where all the last blocks
            have the same; without it each is named.

    Raises:
        WorkError: the disk is full or the place cannot be written.
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
    else:  # mlx-lm takes whole names too, and then does not count blocks
        named = {"num_layers": 1, "keys": adapter.layers}
    description = {
        "fine_tune_type": "lora",
        "num_layers": named["num_layers"],
        "lora_parameters": {
            "rank": rank, "scale": scale, "dropout": adapter.dropout, "keys": named["keys"],
        },
    }  # fmt: skip
    with atomic_folder(path, replace=True) as folder:
        mx.save_safetensors(str(folder / WEIGHTS), weights, metadata={"format": "mlx"})
        write_json(folder / CONFIG, description)


def grid(layers: list[str]) -> tuple[list[int], list[str]]:
    """Return the blocks and the kinds of layer in them, as `mlp.up_proj`.

    Both are empty where some blocks have kinds that others have not, or a layer is in no block.
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
    """Refuse an adapter that holds nothing, half a pair, or something else than pairs.

    Raises:
        ModelError: names the first faults, and says how many more there are.
    """
    faults = [fault for layer in adapter.layers for fault in pair_faults(layer, adapter.weights)]
    if not adapter.layers:
        faults = ["it has no tensors"]
    if faults:
        raise ModelError(
            f"the adapter in {adapter.source} cannot be used: {first_few(faults)}. Fetch or save it again"
        )


def pair_faults(layer: str, weights: Mapping[str, mx.array]) -> Iterator[str]:
    """What is wrong with one layer's matrices, whatever the model."""
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
            f"{path / CONFIG} has no number above 0 at lora_parameters.scale, the factor of the update"
        )
    if not peft.is_dropout(dropout := parameters.get("dropout", 0.0)):
        raise ModelError(
            f"{path / CONFIG} has {dropout!r} at lora_parameters.dropout; expected a number from 0 up to, "
            "but not, 1"
        )
    weights = read_safetensors(path / WEIGHTS)
    scales = {_layer_of(name): scale for name in weights}
    base = config.get("model")
    return Adapter(weights, scales, dropout, base if isinstance(base, str) else None, path)


def _read_peft(path: Path, config: dict[str, Any]) -> Adapter:
    faults = peft.config_faults(config)
    if not (path / peft.WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        faults.append("its weights are a pickle, adapter_model.bin; save them as safetensors")
    if faults:
        raise ModelError(f"the PEFT adapter in {path} cannot be honoured: {first_few(faults)}")
    weights = {}
    for name, value in read_safetensors(path / peft.WEIGHTS).items():
        layer, _, part = name.removesuffix(".weight").removeprefix(peft.PREFIX).rpartition(".")
        if part in ("lora_A", "lora_B") and name == f"{peft.PREFIX}{layer}.{part}.weight" and value.ndim == 2:
            weights[f"{layer}.{part.lower()}"] = value.T
        else:
            faults.append(f"'{name}' {value.shape} is no lora_A or lora_B of a linear layer")
    layers = sorted({_layer_of(name) for name in weights})
    for layer in layers:
        wanted, a = peft.rank_of(config, layer), weights.get(f"{layer}.lora_a")
        if not peft.is_target(config, layer):
            faults.append(f"'{layer}' has an update, but {CONFIG} does not target it")
        elif a is not None and a.shape[1] != wanted:
            faults.append(f"'{layer}' has rank {a.shape[1]}, and {CONFIG} says {wanted}")
    faults += [f"there is none for '{name}'" for name in peft.idle_targets(config, layers)]
    if faults:
        raise ModelError(
            f"the tensors of the PEFT adapter in {path} do not fit its {CONFIG}: {first_few(faults)}"
        )
    scales = {layer: peft.scale_of(config, layer) for layer in layers}
    dropout = config.get("lora_dropout") or 0.0
    return Adapter(weights, scales, dropout, config.get("base_model_name_or_path"), path)


def _layer_of(name: str) -> str:
    return name.removesuffix(".lora_a").removesuffix(".lora_b")

"""Find a model by name and load it, refusing anything that does not fit.

mlx-lm supplies the graphs. Its own loader stops at the first wrong tensor and ignores unknown keys of
`config.json`; here all faults are collected and reported.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from smidgen import cpu_kernels
from smidgen.backend import compute_dtype, mx, nn
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.errors import ModelError, did_you_mean_best, first_few
from smidgen.files import is_url
from smidgen.gguf import cached_import
from smidgen.models.architectures import ModelConfigJson, build_arguments, build_graph
from smidgen.models.graph import named_arrays
from smidgen.models.licence import LICENCE_FILES, warn_of_licence
from smidgen.models.lora import load_adapter
from smidgen.models.packaged import NAMES, PREFIX, named_folder
from smidgen.models.weights import is_same_tensor, read_weights

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<subfolder>[\w./-]+))?")
HUB_FILES: tuple[str, ...] = (
    "*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja", "README.md", *LICENCE_FILES,
)  # fmt: skip
DESCRIPTION_FILES = tuple(name for name in HUB_FILES if not name.endswith(".safetensors"))


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and configuration.

    Attributes:
        model: the graph with its weights, in evaluation mode.
        tokenizer: tokenizer and chat template of its folder.
        config: the content of `config.json`.
        path: its folder on this machine.
        name: the name that it was loaded by.
    """

    model: nn.Module
    tokenizer: Tokenizer
    config: ModelConfigJson
    path: Path
    name: str


def load(name: str, *, adapter: Path | None = None) -> LoadedModel:
    """Load a model and its tokenizer, and attach an adapter if one is given.

    Args:
        name: a folder, a `.gguf` file, `smidgen:nano`, `smidgen:smollm2`, or a hub id (`owner/repo`,
            `owner/repo:subfolder`).
        adapter: folder of a LoRA adapter.

    Raises:
        ModelError: the model is missing or not supported, or its parts do not fit each other.
    """
    path = resolve(name)
    config = read_config(path)
    # transformers reads config.json with the tokenizer and would fail with an error of its own
    build_arguments(config, str(path / "config.json"))
    tokenizer = load_tokenizer(path)
    model = build(path, config)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise ModelError(
            f"the tokenizer in {path} has {tokenizer.vocab_size} tokens, but the model has "
            f"{config['vocab_size']}; "
            "use the tokenizer that the model was trained with"
        )
    if adapter is not None:
        load_adapter(model, adapter, name)
    cpu_kernels.accelerate(model)
    return LoadedModel(model, tokenizer, config, path, name)


def describe(name: str) -> Path:
    """Return a folder with the configuration and the tokenizer of a model, without its weights if it is far.

    Raises:
        ModelError: as in `resolve`.
    """
    return local_folder(name) or _fetched(name, files=DESCRIPTION_FILES)


def resolve(name: str) -> Path:
    """Return the folder of a model, fetching it from the hub if it is not on this machine.

    A GGUF file is imported into the cache folder, once for its content.

    Raises:
        ModelError: there is no such model, or the hub cannot be reached.
    """
    return local_folder(name) or _fetched(name)


def local_folder(name: str) -> Path | None:
    """Return the folder of a model that is on this machine by itself; None for a hub id.

    Raises:
        ModelError: the name is neither.
    """
    if name.startswith(PREFIX):
        return named_folder(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.suffix == ".gguf":
        return cached_import(folder)
    if folder.exists():
        raise ModelError(
            f"{name} is a file; expected a .gguf file, or a model's folder with config.json and safetensors"
        )
    if HUB_ID.fullmatch(name) is None or name.startswith((".", "~", "/")):
        raise ModelError(
            f"there is no folder {name}; "
            f"expected a model's folder, a .gguf file, {', '.join(NAMES)}, "
            "or a hub id such as Qwen/Qwen3-0.6B"
            f"{', and not the URL of a server' if is_url(name) else ''}"
        )
    return None


def read_config(path: Path) -> ModelConfigJson:
    """Return the `config.json` of a model folder.

    Raises:
        ModelError: it is missing, is not a JSON object, or has invalid quantisation settings.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path / "adapter_config.json").exists():
            raise ModelError(
                f"{path} is an adapter; pass the model it was trained on, and the adapter as --adapter {path}"
            ) from None
        raise ModelError(
            f"{path} contains no config.json; expected a model folder.{did_you_mean_best(path)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file} contains a {type(config).__name__}; expected a JSON object")
    _check_quantization(config, file)
    return config


def fitting_graph(path: Path, config: ModelConfigJson) -> tuple[nn.Module, dict[str, mx.array]]:
    """Return the graph that `config` describes and the weights of the folder that it loads.

    Both are lazy: the graph's random weights are not computed, and the folder's values are not read yet.

    Raises:
        ModelError: the config is not supported, a file is damaged, tensors are missing, unexpected or of the
            wrong shape, or the weights have a separate head although the config ties it to the embedding.
    """
    model = build_graph(config, str(path / "config.json"))
    stored = read_weights(path)
    if has_other_head(model, path, stored):
        raise ModelError(
            f"{path} contains a {HEAD} that differs from its embedding, but its config.json ties the head to "
            'the embedding; set "tie_word_embeddings": false there if the head should be used, '
            f"or remove {HEAD} from the weights"
        )
    weights = model.sanitize(stored)
    quantize_like(model, config, path, has_scales=lambda name: f"{name}.scales" in weights)
    if faults := misfits(model, weights):
        raise ModelError(
            f"the weights in {path} do not fit its config.json: {first_few(faults)}. Download the model again"
        )
    return model, weights


def has_other_head(model: nn.Module, path: Path, weights: dict[str, mx.array]) -> bool:
    """Whether the weights have a head that differs from the embedding although the graph ties the two."""
    if "lm_head" in model or not {HEAD, EMBEDDING} <= weights.keys():
        return False
    return not is_same_tensor(path, weights, HEAD, EMBEDDING)


def build(path: Path, config: ModelConfigJson) -> nn.Module:
    """Return the graph that `config` describes with the weights of the folder, in evaluation mode.

    Warns if the licence rules out commercial use.

    Raises:
        ModelError: as in `fitting_graph`.
    """
    model, weights = fitting_graph(path, config)
    dtype = compute_dtype()
    model.load_weights([(name, _taken(weights, name, dtype)) for name in list(weights)])
    model.eval()
    warn_of_licence(path, config)
    return model


def _check_quantization(config: ModelConfigJson, file: Path) -> None:
    """Refuse quantisation settings that are not a table, or lack the integers that `nn.quantize` needs."""
    for key in ("quantization", "quantization_config"):
        if not isinstance(config.get(key), dict | None):
            raise ModelError(
                f"{file} has '{key}' = {config[key]!r}; expected a table of settings such as bits and "
                "group_size, so download the model again"
            )
    if (quantization := config.get("quantization")) is None:
        return
    needed = {"group_size": None, "bits": None}
    layers = {f"quantization.{name}": own for name, own in quantization.items() if isinstance(own, dict)}
    for name, table in {"quantization": needed | quantization, **layers}.items():
        for key in needed.keys() & table.keys():
            number = table[key]
            if not (type(number) is int and number > 0):
                raise ModelError(
                    f"{file} has {number!r} as '{key}' in '{name}'; expected a positive integer, so "
                    "download or convert the model again"
                )


def _fetched(hub_id: str, files: Sequence[str] = HUB_FILES) -> Path:
    """Download a hub repository, or one folder of it, and return its local path."""
    repo, _, subfolder = hub_id.partition(":")
    patterns = [f"{subfolder}/{pattern}" for pattern in files] if subfolder else list(files)
    try:
        path = Path(snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:  # the hub client raises errors of several libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"{repo} is not a local folder and could not be downloaded from the Hugging Face hub: {reason}. "
            "Check the name and the network, or pass a local folder"
        ) from error
    if subfolder and not (path / subfolder).is_dir():
        raise ModelError(
            f"{repo} on the hub has no model in a folder '{subfolder}'; check the part after ':'"
        )
    return path / subfolder if subfolder else path


def quantize_like(
    model: nn.Module,
    config: ModelConfigJson,
    path: Path,
    *,
    has_scales: Callable[[str], bool] = lambda name: True,
) -> None:
    """Quantise the layers of the graph with the settings of the stored weights.

    Args:
        model: the graph.
        config: content of its `config.json`.
        path: its folder, for errors.
        has_scales: whether the layer of this name is stored with scales; all that can be, without weights.

    Raises:
        ModelError: `quantization` in the config is not usable, or another tool has quantised the weights.
    """
    quantization = config.get("quantization")
    if quantization is None:
        if foreign := config.get("quantization_config"):
            method = foreign.get("quant_method", "another tool")
            raise ModelError(
                f"the weights in {path} are quantised by {method}; expected plain or MLX-quantised ones, "
                "so use the unquantised checkpoint"
            )
        return

    def layer_settings(name: str, module: nn.Module) -> bool | dict[str, Any]:
        own = quantization.get(name, True)
        if own is False or not hasattr(module, "to_quantized") or not has_scales(name):
            return False
        return own

    try:
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=layer_settings,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path / 'config.json'} has quantization {quantization}, which is not usable: {error}"
        ) from None


def misfits(model: nn.Module, weights: dict[str, mx.array]) -> list[str]:
    """Return every difference in names, shapes and dtype kinds between the weights and the graph."""
    arrays = named_arrays(model.parameters())
    wanted = {name: value.shape for name, value in arrays.items()}
    faults = [f"missing '{name}' {shape}" for name, shape in wanted.items() if name not in weights]
    faults += [f"unexpected '{name}' {value.shape}" for name, value in weights.items() if name not in wanted]
    faults += [
        f"'{name}' is stored as {_name(weights[name].dtype)}, expected {_name(value.dtype)}"
        for name, value in arrays.items()
        if name in weights and _is_float(weights[name].dtype) != _is_float(value.dtype)
    ]
    return faults + [
        f"'{name}' has shape {weights[name].shape}, expected {shape}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != shape
    ]


def _taken(weights: dict[str, mx.array], name: str, dtype: mx.Dtype) -> mx.array:
    """Read a tensor, take it out of `weights` and return it in the compute dtype.

    Read one by one, so that no more than one tensor is there as it is stored beside its converted copy.
    """
    value = weights.pop(name)
    value = value.astype(dtype) if _is_float(value.dtype) else value
    mx.eval(value)
    return value


def _is_float(dtype: mx.Dtype) -> bool:
    return mx.issubdtype(dtype, mx.floating)


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")

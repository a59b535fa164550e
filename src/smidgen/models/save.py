"""Write model folders that mlx-lm, transformers and vLLM load."""

import shutil
from collections import Counter
from pathlib import Path

from smidgen.backend import mx, nn
from smidgen.errors import ModelError
from smidgen.files import atomic_folder, write_json
from smidgen.models.architectures import ModelConfigJson, explicit_config
from smidgen.models.graph import named_arrays
from smidgen.models.licence import copy_licence
from smidgen.models.weights import read_weights

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip
"""Files that are copied from the tokenizer's folder if they exist."""
QUANTIZATION_KEYS = ("quantization", "quantization_config")
DTYPE_NAMES = {mx.float32: "float32", mx.bfloat16: "bfloat16", mx.float16: "float16"}


def save_model(
    path: Path,
    model: nn.Module,
    config: ModelConfigJson,
    tokenizer_path: Path,
    *,
    dtype: mx.Dtype | None = None,
) -> None:
    """Write weights, `config.json` and tokenizer to a folder that appears whole or not at all.

    Args:
        path: the folder; an existing one is replaced.
        model: without adapter layers; fuse them or save them separately.
        config: the content of `config.json`; its quantisation is removed if no layer is quantised any more.
        tokenizer_path: folder whose tokenizer, generation files and licence are copied.
        dtype: dtype of the floating-point weights and of the scales of a quantised model; unchanged if None.

    Raises:
        ModelError: the model has an unfused adapter, or `tokenizer_path` contains no tokenizer.
        WorkError: the disk is full or the folder is not writable.
    """
    weights = named_arrays(model.parameters())
    if any(name.endswith(("lora_a", "lora_b")) for name in weights):
        raise ModelError("the model has an adapter that is not fused; fuse it or save the adapter separately")
    if not (tokenizer_path / "tokenizer.json").exists():
        raise ModelError(
            f"{tokenizer_path} contains no tokenizer.json; pass the folder of the model's tokenizer"
        )
    if dtype is not None:
        weights = {name: _cast(value, dtype) for name, value in weights.items()}
    config = {**explicit_config(config), "torch_dtype": _dtype_name(weights)}
    config.pop("dtype", None)  # the name in transformers 5, which takes precedence there
    if not any(name.endswith(".scales") for name in weights):  # fusing an adapter dequantises
        config = {name: value for name, value in config.items() if name not in QUANTIZATION_KEYS}
    with atomic_folder(path, replace=True) as folder:
        # transformers refuses files whose metadata does not name a known format
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
        write_json(folder / "config.json", dict(sorted(config.items())))
        copy_tokenizer(tokenizer_path, folder)


def stored_dtype(folder: Path) -> mx.Dtype:
    """Return the dtype of most floating-point values in a model folder, from the headers of its files.

    Raises:
        ModelError: a file is missing or damaged, or has no values of a floating-point dtype that MLX
            supports.
    """
    numbers = Counter[mx.Dtype]()
    for value in read_weights(folder).values():  # lazy: the values themselves are never read
        numbers[value.dtype] += value.size if value.dtype in DTYPE_NAMES else 0
    dtype = max(DTYPE_NAMES, key=lambda known: numbers[known])
    if not numbers[dtype]:
        raise ModelError(
            f"{folder} has no {', '.join(DTYPE_NAMES.values())} weights; download the model again"
        )
    return dtype


def declared_dtype(config: ModelConfigJson) -> mx.Dtype | None:
    """Return the dtype of the weights that `config.json` declares; None if it declares none."""
    name = config.get("dtype") or config.get("torch_dtype")
    return next((dtype for dtype, known in DTYPE_NAMES.items() if known == name), None)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer, generation and licence files of one folder into another."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    copy_licence(source, folder)


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value


def _dtype_name(weights: dict[str, mx.array]) -> str:
    """The name of the floating-point weights' dtype as `config.json` spells it."""
    return next(DTYPE_NAMES[value.dtype] for value in weights.values() if value.dtype in DTYPE_NAMES)

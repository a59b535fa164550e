"""Write a model folder that mlx-lm, transformers and vLLM load."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from smidgen.backend import mx, nn
from smidgen.errors import ModelError
from smidgen.files import atomic_folder, write_json
from smidgen.models.architectures import explicit_config
from smidgen.models.graph import named_arrays
from smidgen.models.licence import copy_licence
from smidgen.models.weights import read_weights

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip
"""What is copied from the tokenizer's folder, where it is there."""
QUANTIZATION_KEYS = ("quantization", "quantization_config")
DTYPE_NAMES = {mx.float32: "float32", mx.bfloat16: "bfloat16", mx.float16: "float16"}


def save_model(
    path: Path,
    model: nn.Module,
    config: dict[str, Any],
    tokenizer_path: Path,
    *,
    dtype: mx.Dtype | None = None,
) -> None:
    """Write weights, `config.json` and tokenizer to a folder that appears whole or not at all.

    Args:
        path: the folder; one that stands there is replaced.
        model: without adapter layers; fuse or save those apart.
        config: the content of `config.json`; its quantisation goes where no layer is quantised any more.
        tokenizer_path: folder whose tokenizer, generation files and licence are copied.
        dtype: of the floating weights; as they are when None. Scales of a quantised model follow it too.

    Raises:
        ModelError: the model holds an unfused adapter, or `tokenizer_path` holds no tokenizer.
        WorkError: the disk is full or the place cannot be written.
    """
    weights = named_arrays(model.parameters())
    if any(name.endswith(("lora_a", "lora_b")) for name in weights):
        raise ModelError(
            "the model holds an adapter that is not fused; fuse it or save the adapter by itself"
        )
    if not (tokenizer_path / "tokenizer.json").exists():
        raise ModelError(
            f"{tokenizer_path} holds no tokenizer.json; name the folder the model's tokenizer is in"
        )
    if dtype is not None:
        weights = {name: _cast(value, dtype) for name, value in weights.items()}
    config = {**explicit_config(config), "torch_dtype": _dtype_name(weights)}
    config.pop("dtype", None)  # what transformers 5 calls it, and reads first
    if not any(name.endswith(".scales") for name in weights):  # fusing an adapter dequantises
        config = {name: value for name, value in config.items() if name not in QUANTIZATION_KEYS}
    with atomic_folder(path, replace=True) as folder:
        # transformers refuses a file whose metadata does not name a format that it knows
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
        write_json(folder / "config.json", dict(sorted(config.items())))
        copy_tokenizer(tokenizer_path, folder)


def stored_dtype(folder: Path) -> mx.Dtype:
    """The dtype that most floating numbers of a model folder are stored in, by the headers of its files.

    Raises:
        ModelError: a file is missing or damaged, or holds no floating numbers that MLX has.
    """
    numbers = Counter[mx.Dtype]()
    for value in read_weights(folder).values():  # they are read when first used, and these never are
        numbers[value.dtype] += value.size if value.dtype in DTYPE_NAMES else 0
    dtype = max(DTYPE_NAMES, key=lambda known: numbers[known])
    if not numbers[dtype]:
        raise ModelError(f"{folder} holds no weights of {', '.join(DTYPE_NAMES.values())}; fetch it again")
    return dtype


def declared_dtype(config: dict[str, Any]) -> mx.Dtype | None:
    """The dtype that `config.json` says the weights are stored in; None where it does not say."""
    name = config.get("dtype") or config.get("torch_dtype")
    return next((dtype for dtype, known in DTYPE_NAMES.items() if known == name), None)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer and generation files of one folder, and what tells its licence, into another."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    copy_licence(source, folder)


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value


def _dtype_name(weights: dict[str, mx.array]) -> str:
    """The name of the dtype that the floating weights share, as `config.json` spells it."""
    return next(DTYPE_NAMES[value.dtype] for value in weights.values() if value.dtype in DTYPE_NAMES)

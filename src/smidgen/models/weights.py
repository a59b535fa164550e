"""Read weight files, refusing damaged ones by name."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from smidgen.backend import mx
from smidgen.errors import ModelError

COMPARED_BYTES = 1 << 22
"""Bytes of each of two tensors that are read at a time to compare them."""
INDEX = "model.safetensors.index.json"
FOREIGN = (".bin", ".pth", ".gguf", ".npz")


def read_safetensors(file: Path) -> dict[str, mx.array]:
    """Return the tensors of a file; their values are read when first used.

    Raises:
        ModelError: the file is missing, truncated or not a safetensors file.
    """
    try:
        # mx.load does not notice a file that is shorter than its header says
        with safe_open(file, framework="numpy"):
            return cast(dict[str, mx.array], mx.load(str(file)))
    except FileNotFoundError:
        raise ModelError(f"the weight file {file} does not exist; download or save the model again") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{file} is truncated or damaged ({error}); expected a complete safetensors file, so download it "
            "again"
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, as its index lists them or by name.

    Raises:
        ModelError: there are none, or the index names missing files.
    """
    index = folder / INDEX
    if index.exists():
        try:
            named = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if others := [name for name in named if not isinstance(name, str)]:
                raise ValueError(f"it has {others[0]!r} as a file name")
            names = sorted(set(named))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is not a readable index of weight files: {error}") from None
        if missing := [name for name in names if not (folder / name).exists()]:
            raise ModelError(
                f"{folder} lacks {', '.join(missing)}, which {INDEX} names; download the model again"
            )
        return [folder / name for name in names]
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        others = sorted(file.name for file in folder.glob("*") if file.suffix in FOREIGN)
        found = f"; it has {', '.join(others)}, which is not supported" if others else ""
        raise ModelError(
            f"{folder} contains no model*.safetensors{found}. Expected weights in safetensors format"
        )
    return files


def read_weights(folder: Path) -> dict[str, mx.array]:
    """Return every tensor of a model folder; values are read when first used.

    Raises:
        ModelError: a file is missing or damaged.
    """
    weights: dict[str, mx.array] = {}
    for file in weight_files(folder):
        weights.update(read_safetensors(file))
    return weights


def read_header(descriptor: int) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and `data_offsets` (from the file's start) of every tensor in an open file."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header = json.loads(os.pread(descriptor, length, 8))
    header.pop("__metadata__", None)
    begin = 8 + length
    return {
        name: entry | {"data_offsets": [begin + offset for offset in entry["data_offsets"]]}
        for name, entry in header.items()
    }


def is_same_tensor(folder: Path, weights: Mapping[str, mx.array], first: str, second: str) -> bool:
    """Return whether two tensors of a model folder are equal, comparing them in parts to save memory.

    Args:
        folder: the model folder.
        weights: as `read_weights` returns them.
        first: name of a tensor in it.
        second: name of the other.
    """
    left, right = weights[first], weights[second]
    if left.shape != right.shape:
        return False
    if left.dtype != right.dtype:
        floats = all(mx.issubdtype(value.dtype, mx.floating) for value in (left, right))
        return floats and bool(
            mx.array_equal(left.astype(mx.float32), right.astype(mx.float32), equal_nan=True)
        )
    descriptors = [os.open(file, os.O_RDONLY) for file in weight_files(folder)]
    try:
        places = {
            name: (descriptor, *entry["data_offsets"])
            for descriptor in descriptors
            for name, entry in read_header(descriptor).items()
            if name in (first, second)
        }
        (one, begin, end), (other, other_begin, _) = places[first], places[second]
        return all(
            os.pread(one, min(COMPARED_BYTES, end - at), at)
            == os.pread(other, min(COMPARED_BYTES, end - at), other_begin + at - begin)
            for at in range(begin, end, COMPARED_BYTES)
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

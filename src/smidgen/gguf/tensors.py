"""The tensors of a GGUF file, written as safetensors a few rows at a time.

What the file holds as float32, float16 or bfloat16 stays as it is; block types are dequantised to float16,
whose 11 bits are finer than the steps of any of them. No tensor is ever whole in memory.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from smidgen.errors import ConfigError, ModelError, did_you_mean
from smidgen.gguf.names import rotated_head, unpair_rows
from smidgen.gguf.read import GgufFile

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What weights can be stored in, and safetensors' names for it."""
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_CHUNK = 1 << 18
"""Numbers that one thread works on at a time."""
_FINITE_BITS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


@dataclass(frozen=True)
class Target:
    """A tensor of the safetensors file.

    Attributes:
        name: as the graph calls it.
        source: as the GGUF file calls it.
        shape: rows and columns; one dimension for vectors.
        dtype: as safetensors calls it.
        head: rows of a head whose rows change places; None where they stay.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    head: int | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one number of a vector."""
        return math.prod(self.shape[1:]) * _SIZES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield the rows that are worked on at a time, from one to another."""
        unit = self.head or 1
        step = max(_CHUNK // math.prod(self.shape[1:]) // unit, 1) * unit
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])


def plan_weights(
    file: GgufFile, names: Mapping[str, str], head_dim: int, dtype: str | None
) -> tuple[Target, ...]:
    """Return what is written.

    Args:
        file: that is read.
        names: the graph's names of its tensors, by its own.
        head_dim: features of one head.
        dtype: one of `DTYPES`; as the file has it if None.

    Raises:
        ConfigError: there is no such dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(
            f"there is no dtype '{dtype}'; expected one of {', '.join(DTYPES)}.{did_you_mean(dtype, DTYPES)}"
        )

    def stored(kind: GGMLQuantizationType) -> str:
        return DTYPES[dtype] if dtype else kind.name if kind.name in _SIZES else "F16"

    return tuple(
        Target(
            name,
            source,
            file.tensors[source].shape,
            stored(file.tensors[source].kind),
            rotated_head(name, file.architecture, head_dim),
        )
        for source, name in names.items()
    )


def write_weights(file: GgufFile, targets: Sequence[Target], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        ModelError: a number is not finite as it is to be stored.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for target in targets:
        header[target.name] = {
            "dtype": target.dtype,
            "shape": list(target.shape),
            "data_offsets": [at, at + target.nbytes],
        }
        at += target.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    offset = 8 + len(text)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, offset + at)
    descriptor = os.open(path, os.O_WRONLY)
    pool = ThreadPoolExecutor()
    try:
        for target in targets:
            begin = offset

            def write(part: tuple[int, int], target: Target = target, begin: int = begin) -> None:
                content = _content(file, target, *part)
                _write_at(descriptor, content, begin + part[0] * target.row_bytes)

            for _ in pool.map(write, target.parts()):
                pass
            offset += target.nbytes
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)


def _content(file: GgufFile, target: Target, start: int, stop: int) -> np.ndarray:
    """Rows of a tensor as they are stored: the file's own bits, or its numbers rounded."""
    if file.tensors[target.source].kind.name == target.dtype:
        kind = np.uint32 if target.dtype == "F32" else np.uint16
        rows = file.packed(target.source, start, stop).view(kind).reshape(stop - start, *target.shape[1:])
    else:
        rows = _encoded(file.rows(target.source, start, stop), target.dtype)
    bits, exponent = _FINITE_BITS[target.dtype]
    if ((rows.view(bits) & exponent) == exponent).any():
        raise ModelError(
            f"the tensor '{target.source}' holds numbers that are not finite as {target.dtype}; fetch the "
            "file again, or choose --dtype bfloat16 or float32"
        )
    return rows if target.head is None else unpair_rows(rows, target.head)


def _encoded(rows: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        matrix = np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
        packed = quantize(matrix, GGMLQuantizationType.BF16)
        return packed.view(np.uint16).reshape(rows.shape)
    with np.errstate(over="ignore"):  # what overflows is refused
        return np.ascontiguousarray(rows, dtype=np.float16 if dtype == "F16" else np.float32)


def _write_at(descriptor: int, content: np.ndarray, offset: int) -> None:
    view = memoryview(np.ascontiguousarray(content).reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written

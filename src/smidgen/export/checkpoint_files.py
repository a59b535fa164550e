"""Read the tensors of a model folder a few rows at a time: plain, quantised by MLX, or with an adapter added.

A tensor is never completely in memory, so the memory of a conversion depends only on the number of rows read
at a time. A safetensors file has eight bytes with the length of a JSON header, the header with every tensor's
dtype, shape and offsets, and the tensors (https://huggingface.co/docs/safetensors).
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smidgen.backend import mx
from smidgen.errors import ModelError
from smidgen.models.adapter import read_adapter, warn_of_another_base
from smidgen.models.architectures import ModelConfigJson, build_graph
from smidgen.models.graph import named_arrays
from smidgen.models.load import fitting_graph, read_config, resolve
from smidgen.models.lora import refuse_misfits
from smidgen.models.weights import read_header, weight_files

DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
}
"""safetensors' dtype names to numpy's. numpy has no bfloat16: it is read as the upper half of a float32."""


class Stored(NamedTuple):
    """The location of a tensor's bytes.

    Attributes:
        descriptor: file descriptor of the open file.
        offset: offset of the tensor's first byte in it.
        dtype: safetensors' dtype name.
        shape: shape as stored; packed if the tensor is quantised.
    """

    descriptor: int
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Update(NamedTuple):
    """A low-rank update of a matrix W: `W + scale · (A B)ᵀ`, float32.

    Attributes:
        a: (in, rank).
        b: (rank, out).
        scale: alpha / rank.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float


@dataclass(frozen=True)
class Checkpoint:
    """An open model folder; see `open_checkpoint`.

    Attributes:
        path: the folder.
        config: its `config.json`.
        graph: mlx-lm's model for that config; its random weights are lazy and never computed.
        shapes: shape of each tensor that the graph expects, by its name.
        updates: low-rank updates by the name of the tensor that they are added to.
    """

    path: Path
    config: ModelConfigJson
    graph: Any
    shapes: dict[str, tuple[int, ...]]
    updates: dict[str, Update]
    _stored: dict[str, Stored]
    _packed: dict[str, Any]
    """Quantised layers with the settings of the stored weights, by name; they are never computed either."""

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the rows `start:stop` of a tensor as float32; each value of a vector counts as a row.

        Thread-safe.
        """
        stop = self.shapes[name][0] if stop is None else stop
        base = name.removesuffix(".weight")
        if f"{base}.scales" in self._stored:
            rows = self._dequantized(base, start, stop)
        else:
            rows = _float32(_read(self._stored[name], start, stop), self._stored[name].dtype)
        if name in self.updates:
            a, b, scale = self.updates[name]
            rows = rows + np.float32(scale) * (b[:, start:stop].T @ a.T)
        return rows

    def _dequantized(self, base: str, start: int, stop: int) -> np.ndarray:
        """Dequantise rows of a matrix: packed integers with a scale and, in affine mode, a bias per group."""
        packed, scales, biases = (
            None if (part := self._stored.get(f"{base}.{name}")) is None else _array(part, start, stop)
            for name in ("weight", "scales", "biases")
        )
        assert packed is not None and scales is not None
        # Without biases the scales are exponents, from which MLX cannot infer the dtype of the result.
        dtype = mx.float32 if biases is None else None
        layer = self._packed[base]
        values = mx.dequantize(
            packed, scales, biases,
            group_size=layer.group_size, bits=layer.bits, mode=layer.mode, dtype=dtype,
        )  # fmt: skip
        return np.array(values, copy=False)


@contextmanager
def open_checkpoint(source: str, adapter: Path | None = None) -> Iterator[Checkpoint]:
    """Open a model for reading, with an adapter's updates added to its matrices.

    Args:
        source: a folder, a hub id or `smidgen:nano`.
        adapter: folder of a low-rank adapter.

    Raises:
        ModelError: the model or the adapter is missing, not supported, or damaged, or the two do not fit.
    """
    path = resolve(source)
    config = read_config(path)
    fitted, _ = fitting_graph(path, config)
    packed = {name: layer for name, layer in fitted.named_modules() if "scales" in layer}
    graph = build_graph(config, str(path / "config.json"))
    shapes = {name: value.shape for name, value in named_arrays(graph.parameters()).items()}
    descriptors = [os.open(file, os.O_RDONLY) for file in weight_files(path)]
    try:
        stored: dict[str, Stored] = {}
        for descriptor in descriptors:
            stored.update(_header(descriptor))
        if odd := sorted(name for name, found in stored.items() if found.dtype not in DTYPES):
            raise ModelError(
                f"{path} stores '{odd[0]}' as {stored[odd[0]].dtype}; expected {', '.join(DTYPES)}"
            )
        updates = {} if adapter is None else _updates(adapter, graph, source)
        yield Checkpoint(path, config, graph, shapes, updates, stored, packed)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _header(descriptor: int) -> dict[str, Stored]:
    """The locations of all tensors in a safetensors file."""
    return {
        name: Stored(descriptor, entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in read_header(descriptor).items()
    }


def _read(stored: Stored, start: int, stop: int) -> np.ndarray:
    """Read rows of a tensor as stored; bfloat16 as its bits."""
    dtype = DTYPES[stored.dtype]
    row_bytes = math.prod(stored.shape[1:]) * dtype.itemsize
    content = os.pread(stored.descriptor, (stop - start) * row_bytes, stored.offset + start * row_bytes)
    return np.frombuffer(content, dtype).reshape(stop - start, *stored.shape[1:])


def _array(stored: Stored, start: int, stop: int) -> mx.array:
    return mx.array(_float32(_read(stored, start, stop), stored.dtype))


def _float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """Convert floating-point values to float32; packed integers are returned unchanged."""
    if dtype == "BF16":
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return values.astype(np.float32, copy=False) if dtype in ("F32", "F16") else values


def _updates(folder: Path, graph: Any, source: str) -> dict[str, Update]:
    """The updates of an adapter folder by the name of the matrix that they are added to."""
    adapter = read_adapter(folder)
    refuse_misfits(adapter, graph)
    warn_of_another_base(adapter, source)
    return {
        f"{layer}.weight": Update(
            np.array(adapter.weights[f"{layer}.lora_a"].astype(mx.float32)),
            np.array(adapter.weights[f"{layer}.lora_b"].astype(mx.float32)),
            adapter.scales[layer],
        )
        for layer in adapter.layers
    }

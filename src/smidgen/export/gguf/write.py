"""Write a model, or an adapter by itself, as a GGUF file for llama.cpp and what is built on it.

No tensor is ever whole in memory: its rows are read, turned to float32, given the adapter's update, encoded
and written where they belong, a few at a time and on every core.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from smidgen.backend import device, peak_memory_bytes
from smidgen.errors import ConfigError, ModelError, did_you_mean
from smidgen.export.checkpoint import Checkpoint, open_checkpoint
from smidgen.export.gguf.architectures import check_architecture
from smidgen.export.gguf.blocks import FILE_TYPES, encode, is_finite
from smidgen.export.gguf.metadata import (
    add_general,
    add_hyperparameters,
    head_dimension,
    llama3_frequency_divisors,
)
from smidgen.export.gguf.tokenizer import add_vocabulary, read_vocabulary
from smidgen.files import atomic_file
from smidgen.gguf.names import ROPE_DIVISORS, gguf_name, pair_rows, rotated_head
from smidgen.models.licence import licence_of
from smidgen.models.load import read_config, resolve

ADAPTER_TYPES = ("F32", "F16")
"""The types that an adapter by itself is written in."""
CHUNK = 1 << 18
"""Numbers that one thread works on at a time; its float32s and their temporaries stay in the core's cache."""


@dataclass(frozen=True)
class Planned:
    """A tensor to write.

    Attributes:
        name: as llama.cpp calls it.
        shape: rows and columns; one dimension for vectors.
        kind: what its numbers are stored as.
        step: its rows may be cut at multiples of this.
        rows: gives the rows from one to another as float32.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    step: int
    rows: Callable[[int, int], np.ndarray]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one number of a vector."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[1] // block * size if len(self.shape) == 2 else size

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes


def write_gguf(source: str, out: Path, *, dtype: str = "Q8_0", adapter: Path | None = None) -> dict[str, Any]:
    """Write a model as a GGUF file, which appears whole or not at all.

    Matrices are stored as `dtype`, vectors as F32. A matrix whose rows are no whole blocks stays F16.

    Args:
        source: a folder, plain or quantised by MLX, a hub id or `smidgen:nano`.
        out: the file.
        dtype: one of `FILE_TYPES`.
        adapter: folder of a low-rank adapter that is added to the weights, in float32.

    Returns:
        `path`, `bytes`, `tensors`, `dtype`, `unblocked` (names of matrices that stayed F16), `licence`,
        `seconds`, and `peak_memory_bytes` of this process so far.

    Raises:
        ConfigError: there is no such dtype.
        ModelError: llama.cpp has no such architecture or pre-tokenizer, the weights or the adapter do not
            fit, or a number is not finite in this dtype.
        WorkError: the disk is full or the place cannot be written.
    """
    start = time.perf_counter()
    kind = _kind(dtype)
    check_architecture(read_config(resolve(source)), source)
    with open_checkpoint(source, adapter) as checkpoint:
        plan = list(plan_tensors(checkpoint, kind))
        with atomic_file(out) as partial_file:
            writer = GGUFWriter(partial_file, checkpoint.config["model_type"])
            add_general(writer, checkpoint, _model_name(checkpoint, source), FILE_TYPES[dtype])
            add_hyperparameters(writer, checkpoint)
            add_vocabulary(writer, read_vocabulary(checkpoint.path, checkpoint.config))
            write_tensors(writer, partial_file, plan)
        unblocked = [t.name for t in plan if len(t.shape) == 2 and t.kind != kind]
        licence = licence_of(checkpoint.path, checkpoint.config)
    return _facts(out, plan, start) | {
        "dtype": dtype,
        "unblocked": unblocked,
        "licence": licence.name if licence else None,
    }


def write_gguf_adapter(source: str, adapter: Path, out: Path, *, dtype: str = "F32") -> dict[str, Any]:
    """Write a low-rank adapter by itself, for llama.cpp to put on the GGUF file of its base model.

    llama.cpp multiplies an update by alpha / rank, so `alpha` is the scale times the largest rank.

    Raises:
        ConfigError: there is no such dtype for an adapter.
        ModelError, WorkError: as in `write_gguf`.
    """
    start = time.perf_counter()
    if dtype not in ADAPTER_TYPES:
        raise ConfigError(
            f"an adapter by itself cannot be stored as {dtype}: its rows are no longer than its rank; "
            f"expected {' or '.join(ADAPTER_TYPES)}"
        )
    kind = _kind(dtype)
    check_architecture(read_config(resolve(source)), source)
    with open_checkpoint(source, adapter) as checkpoint:
        ranks = [update.a.shape[1] for update in checkpoint.updates.values()]
        alpha = max(update.scale for update in checkpoint.updates.values()) * max(ranks)
        plan = list(_plan_updates(checkpoint, kind, alpha))
        with atomic_file(out) as partial_file:
            writer = GGUFWriter(partial_file, checkpoint.config["model_type"])
            writer.add_type("adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", alpha)
            writer.add_file_type(FILE_TYPES[dtype])
            write_tensors(writer, partial_file, plan)
    return _facts(out, plan, start) | {"dtype": dtype, "alpha": alpha}


def plan_tensors(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> Iterator[Planned]:
    """Yield every tensor of a model's file in its order."""
    head_dim = head_dimension(checkpoint.graph.args)
    divisors = llama3_frequency_divisors(checkpoint.graph.args)
    if divisors is not None:
        yield Planned(ROPE_DIVISORS, divisors.shape, GGMLQuantizationType.F32, 1, _slices(divisors))
    for name, shape in checkpoint.shapes.items():
        head = rotated_head(name, checkpoint.config["model_type"], head_dim)
        rows = partial(checkpoint.rows, name)
        yield Planned(
            gguf_name(name),
            shape,
            _stored_kind(shape, kind),
            head or 1,
            rows if head is None else _paired(rows, head),
        )


def write_tensors(writer: GGUFWriter, file: Path, plan: list[Planned]) -> None:
    """Write the header of a file and then its tensors, their parts in any order.

    Raises:
        ModelError: a number is not finite as it is to be stored.
    """
    for tensor in plan:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    align = partial(GGUFWriter.ggml_pad, n=writer.data_alignment)
    offset = align(file.stat().st_size)
    jobs = []
    for tensor in plan:
        step = (
            max(CHUNK // (tensor.shape[1] if len(tensor.shape) == 2 else 1) // tensor.step, 1) * tensor.step
        )
        jobs += [
            (tensor, start, min(start + step, tensor.shape[0]), offset + start * tensor.row_bytes)
            for start in range(0, tensor.shape[0], step)
        ]
        offset = align(offset + tensor.nbytes)
    os.truncate(file, offset)
    descriptor = os.open(file, os.O_WRONLY)
    pool = ThreadPoolExecutor(device().cores)
    try:
        for _ in pool.map(lambda job: _write_part(descriptor, *job), jobs):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)


def _write_part(descriptor: int, tensor: Planned, start: int, stop: int, offset: int) -> None:
    rows = tensor.rows(start, stop)
    content = encode(rows, tensor.kind)
    if not is_finite(content, tensor.kind):
        raise ModelError(
            f"the tensor '{tensor.name}' holds numbers that are not finite as {tensor.kind.name}; "
            "check the model with smidgen inspect, or choose --dtype BF16 or F32"
        )
    view = memoryview(content.reshape(-1))  # pyright: ignore[reportArgumentType]
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _plan_updates(checkpoint: Checkpoint, kind: GGMLQuantizationType, alpha: float) -> Iterator[Planned]:
    """Yield both matrices of every update, B scaled where its rank or scale is not the adapter's largest."""
    head_dim = head_dimension(checkpoint.graph.args)
    for name, update in checkpoint.updates.items():
        a, b = update.a.T, update.b.T * np.float32(update.scale * update.a.shape[1] / alpha)
        head = rotated_head(name, checkpoint.config["model_type"], head_dim)
        if head is not None:
            b = pair_rows(b, head)
        for part, matrix in (("lora_a", a), ("lora_b", b)):
            content = np.ascontiguousarray(matrix)
            yield Planned(
                f"{gguf_name(name)}.{part}",
                content.shape,
                _stored_kind(content.shape, kind),
                1,
                _slices(content),
            )


def _stored_kind(shape: tuple[int, ...], kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32  # norms and biases: few numbers that everything depends on
    return kind if shape[1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _paired(rows: Callable[[int, int], np.ndarray], head_dim: int) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: pair_rows(rows(start, stop), head_dim)


def _slices(values: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: values[start:stop]


def _kind(dtype: str) -> GGMLQuantizationType:
    if dtype not in FILE_TYPES:
        raise ConfigError(
            f"there is no dtype '{dtype}'; expected one of {', '.join(FILE_TYPES)}."
            f"{did_you_mean(dtype.upper(), FILE_TYPES)}"
        )
    return GGMLQuantizationType[dtype]


def _model_name(checkpoint: Checkpoint, source: str) -> str:
    """The name that a program shows: the hub id, or the folder's name."""
    return source if source.startswith("smidgen:") else checkpoint.path.resolve().name


def _facts(out: Path, plan: list[Planned], start: float) -> dict[str, Any]:
    return {
        "path": str(out),
        "bytes": out.stat().st_size,
        "tensors": len(plan),
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak_memory_bytes(),
    }

"""Write a model, or an adapter alone, as a GGUF file for llama.cpp and programs based on it.

No tensor is ever completely in memory: rows are read, converted to float32, updated with the adapter, encoded
and written to their offsets, a few at a time and on every core.
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
from smidgen.export.checkpoint_files import Checkpoint, open_checkpoint
from smidgen.export.gguf.blocks import FILE_TYPES, encode, is_finite
from smidgen.export.gguf.gguf_facts import WrittenAdapter, WrittenModel
from smidgen.export.gguf.metadata import (
    add_general,
    add_hyperparameters,
    head_dimension,
    llama3_frequency_divisors,
)
from smidgen.export.gguf.supported import check_architecture
from smidgen.export.gguf.write_tokenizer import add_vocabulary, read_vocabulary
from smidgen.files import atomic_file
from smidgen.gguf.names import FAMILIES, ROPE_DIVISORS, gguf_name, pair_rows, rotated_head
from smidgen.models.licence import licence_of
from smidgen.models.load import read_config, resolve

ADAPTER_TYPES = ("F32", "F16")
"""The types of adapter files."""
CHUNK = 1 << 18
"""Values that one thread processes at a time, so that they and their temporaries stay in the core's cache."""


@dataclass(frozen=True)
class Planned:
    """A tensor to write.

    Attributes:
        name: llama.cpp's name.
        shape: rows and columns; one dimension for vectors.
        kind: the type that it is stored as.
        step: rows may be split at multiples of this.
        rows: `(start, stop) -> rows` as float32.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    step: int
    rows: Callable[[int, int], np.ndarray]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, or of one value of a vector."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[1] // block * size if len(self.shape) == 2 else size

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes


def write_gguf(source: str, out: Path, *, dtype: str = "Q8_0", adapter: Path | None = None) -> WrittenModel:
    """Write a model as a GGUF file, atomically.

    Matrices are stored as `dtype`, vectors as F32. A matrix whose rows are not whole blocks is stored as F16.

    Args:
        source: a folder, plain or quantised by MLX, a hub id or `smidgen:nano`.
        out: the file.
        dtype: one of `FILE_TYPES`.
        adapter: folder of a LoRA adapter that is added to the weights in float32.

    Raises:
        ConfigError: there is no such dtype.
        ModelError: llama.cpp does not support the architecture or pre-tokenizer, the weights or the adapter
            do not fit, or a value is not finite in this dtype.
        WorkError: the disk is full or the folder is not writable.
    """
    start = time.perf_counter()
    kind = _kind(dtype)
    check_architecture(read_config(resolve(source)), source)
    with open_checkpoint(source, adapter) as checkpoint:
        plan = list(plan_tensors(checkpoint, kind))
        with atomic_file(out) as partial_file:
            writer = GGUFWriter(partial_file, FAMILIES[checkpoint.config["model_type"]])
            add_general(writer, checkpoint, _model_name(checkpoint, source), FILE_TYPES[dtype])
            add_hyperparameters(writer, checkpoint)
            add_vocabulary(writer, read_vocabulary(checkpoint.path, checkpoint.config))
            write_tensors(writer, partial_file, plan)
        unblocked = [t.name for t in plan if len(t.shape) == 2 and t.kind != kind]
        licence = licence_of(checkpoint.path, checkpoint.config)
    return WrittenModel(
        **_facts(out, plan, start),
        dtype=dtype,
        unblocked=unblocked,
        licence=licence.name if licence else None,
    )


def write_gguf_adapter(source: str, adapter: Path, out: Path, *, dtype: str = "F32") -> WrittenAdapter:
    """Write a LoRA adapter alone, which llama.cpp applies to the GGUF file of its base model.

    llama.cpp multiplies an update by alpha / rank, so `alpha` is the scale times the largest rank.

    Raises:
        ConfigError: there is no such dtype for an adapter.
        ModelError, WorkError: as in `write_gguf`.
    """
    start = time.perf_counter()
    if dtype not in ADAPTER_TYPES:
        raise ConfigError(
            f"an adapter alone cannot be stored as {dtype}, because its rows are too short for blocks; "
            f"expected {' or '.join(ADAPTER_TYPES)}"
        )
    kind = _kind(dtype)
    check_architecture(read_config(resolve(source)), source)
    with open_checkpoint(source, adapter) as checkpoint:
        ranks = [update.a.shape[1] for update in checkpoint.updates.values()]
        alpha = max(update.scale for update in checkpoint.updates.values()) * max(ranks)
        plan = list(_plan_updates(checkpoint, kind, alpha))
        with atomic_file(out) as partial_file:
            writer = GGUFWriter(partial_file, FAMILIES[checkpoint.config["model_type"]])
            writer.add_type("adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", alpha)
            writer.add_file_type(FILE_TYPES[dtype])
            write_tensors(writer, partial_file, plan)
    return WrittenAdapter(**_facts(out, plan, start), dtype=dtype, alpha=alpha)


def plan_tensors(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> Iterator[Planned]:
    """Yield every tensor of a model's file in the file's order."""
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
    """Write the header of a file and then its tensors, in parts and in any order.

    Raises:
        ModelError: a value is not finite in its type.
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
            f"the tensor '{tensor.name}' has values that are not finite as {tensor.kind.name}; "
            "check the model with smidgen inspect, or choose --dtype BF16 or F32"
        )
    view = memoryview(content.reshape(-1))  # pyright: ignore[reportArgumentType]
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _plan_updates(checkpoint: Checkpoint, kind: GGMLQuantizationType, alpha: float) -> Iterator[Planned]:
    """Yield both matrices of every update; B is rescaled if its rank or scale is not the largest."""
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
        return GGMLQuantizationType.F32  # norms and biases are small, and precision matters there
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
    """Return the name that programs show: the hub id, or the folder's name."""
    return source if source.startswith("smidgen:") else checkpoint.path.resolve().name


def _facts(out: Path, plan: list[Planned], start: float) -> dict[str, Any]:
    """The fields that `WrittenModel` and `WrittenAdapter` share."""
    return {
        "path": str(out),
        "bytes": out.stat().st_size,
        "tensors": len(plan),
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak_memory_bytes(),
    }

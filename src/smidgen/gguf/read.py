"""A GGUF file that is open for reading: what it says of a model, and its tensors a few rows at a time."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderField
from gguf.quants import dequantize

from smidgen.errors import ModelError
from smidgen.gguf.names import ARCHITECTURES


class Placed(NamedTuple):
    """Where a tensor's bytes lie, of which type its numbers are, and its rows and columns."""

    offset: int
    kind: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; of one number of a vector."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.columns // block * size

    @property
    def columns(self) -> int:
        """Numbers of one row."""
        return self.shape[1] if len(self.shape) == 2 else 1


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file; see `open_gguf`.

    Attributes:
        architecture: llama.cpp's name of the model's family.
        tensors: every tensor by llama.cpp's name for it.
    """

    architecture: str
    tensors: dict[str, Placed]
    _fields: Mapping[str, ReaderField]
    _descriptor: int

    def metadata(self) -> dict[str, Any]:
        """Return what the file says beside its tensors, by key."""
        return _contents(self._fields)

    def packed(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return the rows `start:stop` of a tensor in the bytes (N, M) of its type."""
        placed = self.tensors[name]
        size = placed.row_bytes
        content = os.pread(self._descriptor, (stop - start) * size, placed.offset + start * size)
        return np.frombuffer(content, np.uint8).reshape(stop - start, size)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the rows `start:stop` of a tensor as float32; several threads may ask at once."""
        _, kind, shape = self.tensors[name]
        stop = shape[0] if stop is None else stop
        return dequantize(self.packed(name, start, stop), kind).reshape(stop - start, *shape[1:])


def can_dequantize(kind: GGMLQuantizationType) -> bool:
    """Whether numbers of a type can be read."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_metadata(file: Path) -> dict[str, Any]:
    """Return what a file says beside its tensors, by key; `general.architecture` is there in any case.

    Raises:
        ModelError: the file is not there, or is damaged.
    """
    with _plain_faults(file):
        return _contents(_Reader(file).fields)


class _Reader(GGUFReader):
    """Reads from an array in place of the memory map below it, whose slices more than double the time."""

    @property
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._data = mapped.view(np.ndarray)


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufFile]:
    """Open a GGUF file of a family that is known here.

    Raises:
        ModelError: the file is not there, is damaged, or is of another architecture.
    """
    with _plain_faults(path):
        reader = _Reader(path)
        architecture = reader.fields["general.architecture"].contents()
        tensors = {
            tensor.name: Placed(
                tensor.data_offset, tensor.tensor_type, tuple(int(n) for n in reversed(tensor.shape))
            )
            for tensor in reader.tensors
        }
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path} is of the architecture '{architecture}'; expected one of {', '.join(ARCHITECTURES)}"
        )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield GgufFile(architecture, tensors, reader.fields, descriptor)
    finally:
        os.close(descriptor)


def _contents(fields: Mapping[str, ReaderField]) -> dict[str, Any]:
    return {"general.architecture": ""} | {name: field.contents() for name, field in fields.items()}


@contextmanager
def _plain_faults(file: Path) -> Iterator[None]:
    """Say in one sentence that a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}; check the path") from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"{file} is not a complete GGUF file ({error}); convert or download it again"
        ) from None

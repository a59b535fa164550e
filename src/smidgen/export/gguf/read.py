"""A GGUF file that is open for reading, its tensors a few rows at a time as float32."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from smidgen.errors import ModelError
from smidgen.export.gguf.names import ARCHITECTURES


class Placed(NamedTuple):
    """Where a tensor's bytes lie, of which type its numbers are, and its rows and columns."""

    offset: int
    kind: GGMLQuantizationType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file; see `open_gguf`.

    Attributes:
        architecture: llama.cpp's name of the model's family.
        tensors: every tensor by llama.cpp's name for it.
    """

    architecture: str
    tensors: dict[str, Placed]
    _descriptor: int

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the rows `start:stop` of a tensor as float32; several threads may ask at once."""
        offset, kind, shape = self.tensors[name]
        stop = shape[0] if stop is None else stop
        columns = shape[1] if len(shape) == 2 else 1
        block, size = GGML_QUANT_SIZES[kind]
        row_bytes = columns // block * size
        content = os.pread(self._descriptor, (stop - start) * row_bytes, offset + start * row_bytes)
        packed = np.frombuffer(content, np.uint8).reshape(stop - start, row_bytes)
        return dequantize(packed, kind).reshape(stop - start, *shape[1:])


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufFile]:
    """Open a GGUF file of a family that is known here.

    Raises:
        ModelError: the file is not there, is damaged, or is of another architecture.
    """
    try:
        reader = GGUFReader(path)
        field = reader.fields["general.architecture"]
        architecture = field.contents()
        tensors = {
            tensor.name: Placed(
                tensor.data_offset, tensor.tensor_type, tuple(int(n) for n in reversed(tensor.shape))
            )
            for tensor in reader.tensors
        }
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}; export the model first") from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{path} is no whole GGUF file ({error}); export the model again") from None
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path} is of the architecture '{architecture}'; expected one of {', '.join(ARCHITECTURES)}"
        )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield GgufFile(architecture, tensors, descriptor)
    finally:
        os.close(descriptor)

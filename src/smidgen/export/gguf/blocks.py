"""Encode rows of floats as GGUF stores them: plain, or in blocks of 32 with a scale each.

The block formats are ggml's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): `Q8_0` holds d =
max|x| / 127 as float16 and round(x / d) as int8; `Q4_0` and `Q5_0` are signed with fewer bits, `Q4_1` and
`Q5_1` have a minimum too. All types but `Q8_0` use the `gguf` package's code. `Q8_0`, the most common type,
is implemented here with identical bits, because the package takes three times as long.
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize

BLOCK = 32
FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
}
"""The types that matrices are stored as, and the file type of each in the metadata."""

# The largest float below a half: truncating x + 0.49999997 rounds halves away from zero, as C's roundf does.
_ALMOST_HALF = np.nextafter(np.float32(0.5), np.float32(0))


def encode(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Encode rows (N, D), float32, as bytes (N, M) of a type; D is a multiple of its block size."""
    if kind == GGMLQuantizationType.Q8_0:
        return _q8_0(rows)
    with np.errstate(over="ignore"):  # `is_finite` refuses overflows
        return quantize(np.ascontiguousarray(rows), kind).view(np.uint8)


def is_finite(content: np.ndarray, kind: GGMLQuantizationType) -> bool:
    """Whether every encoded value is finite; for block types it is enough to check the scales."""
    if kind == GGMLQuantizationType.BF16:
        return not ((content.view(np.uint16) & 0x7F80) == 0x7F80).any()
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return bool(
            np.isfinite(content.view(np.float32 if kind == GGMLQuantizationType.F32 else np.float16)).all()
        )
    scales = content.reshape(-1, GGML_QUANT_SIZES[kind][1])[:, :2]
    return bool(np.isfinite(np.ascontiguousarray(scales).view(np.float16)).all())


def _q8_0(rows: np.ndarray) -> np.ndarray:
    blocks = rows.reshape(-1, BLOCK)
    largest = np.abs(blocks.T, order="C").max(axis=0)  # numpy reduces a long axis faster than one of 32
    scale = largest / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), 1 / scale)
        half = scale.astype(np.float16)
    scaled = blocks * inverse[:, None]
    scaled += np.copysign(_ALMOST_HALF, scaled)
    content = np.empty((len(blocks), 2 + BLOCK), np.uint8)
    content[:, :2] = half.view(np.uint8).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        content[:, 2:].view(np.int8)[:] = scaled
    return content.reshape(len(rows), -1)

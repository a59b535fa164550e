"""Products of a few rows with a large matrix, in float32 on the CPU.

OpenBLAS repacks the matrix for every product, which takes longer than multiplying it by a few dozen rows. Its
kernels for small products need no packing, but only processors with AVX-512 have them. For those, a matrix is
kept as panels of columns, each contiguous, and multiplied piece by piece, with one call for all panels. On
other processors the matrix is transposed, which is the fastest layout there.
"""

import ctypes
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import blas_library
from smidgen.cpu_kernels.team import Array

KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""Processors, by OpenBLAS's names, with kernels for small products in `cblas_sgemm_batch`."""
PANEL = 64
"""Columns of a panel; measured on a Zen 4: 48 and 96 are up to a fifth slower, 128 and more a half."""
SMALL = 1_000_000
"""Rows × columns × depth up to which OpenBLAS uses the kernels for small products."""
MOST_ROWS = 64
"""Rows of a piece; with more, pieces would be too shallow."""
_ROW_MAJOR, _PLAIN = 101, 111  # enums of cblas.h


class Matrix:
    """A matrix (K, N) that is multiplied from the left by a few rows at a time.

    Attributes:
        shape: (K, N).
        is_packed: whether it is kept as panels, whose products are fastest on one thread.
    """

    def __init__(self, weight: np.ndarray):
        """Copy `weight` (N, K), float32, into the layout that is fastest on this processor."""
        N, K = weight.shape
        self.shape = K, N
        self._batch = _batch()
        self.is_packed = self._batch is not None
        if not self.is_packed:
            self._transposed = weight.T.copy()
            return
        self._panels = np.zeros((-(-N // PANEL), K, PANEL), np.float32)
        for panel, start in zip(self._panels, range(0, N, PANEL), strict=True):
            panel[:, : N - start] = weight[start : start + PANEL].T
        self._addresses = _addresses(self._panels.ctypes.data, len(self._panels), K * PANEL)
        self._columns = _addresses(0, len(self._panels), PANEL)

    def __call__(self, x: Array) -> Array:
        """Return x (T, K) times the matrix, (T, N)."""
        return self.multiply(x, np.empty((len(x), self.shape[1]), np.float32))

    def multiply(self, x: Array, out: Array) -> Array:
        """Set `out` (T, N), whose rows are contiguous, to x (T, K) times the matrix."""
        if not self.is_packed:
            return np.matmul(x, self._transposed, out=out)
        K, N = self.shape
        if x.strides[1] != x.itemsize:
            x = np.ascontiguousarray(x)
        source, stride = x.ctypes.data, max(x.strides[0], 4 * K)
        target, width = out.ctypes.data, max(out.strides[0], 4 * N)
        for rows in parts(len(x), -(-len(x) // MOST_ROWS)):
            outputs = self._columns + np.uint64(target + rows.start * width)
            count = rows.stop - rows.start
            for depth in parts(K, -(-K // max(1, SMALL // (count * PANEL)))):
                top = depth.start
                _Sizes.of(count, depth.stop - top, N, stride // 4, width // 4, top > 0).multiply(
                    self._batch,
                    np.full(len(outputs), source + rows.start * stride + top * 4, np.uint64),
                    self._addresses + np.uint64(top * PANEL * 4),
                    outputs,
                )
        return out


class _Sizes:
    """The sizes of the products of some rows with all panels, as `cblas_sgemm_batch` takes them."""

    @staticmethod
    @lru_cache(1024)
    def of(rows: int, depth: int, columns: int, lda: int, ldc: int, adds: bool) -> "_Sizes":
        """Return sizes made earlier, since most products have been done before."""
        return _Sizes(rows, depth, columns, lda, ldc, adds)

    def __init__(self, rows: int, depth: int, columns: int, lda: int, ldc: int, adds: bool):
        """Prepare products with panels of `columns` in all; `adds` to the outputs or replaces them."""
        full, rest = divmod(columns, PANEL)
        groups = [(PANEL, full)] * (full > 0) + [(rest, 1)] * (rest > 0)
        whole = [[_PLAIN, rows, n, depth, lda, PANEL, ldc, count] for n, count in groups]
        self._whole = np.array(whole, np.int32).T.copy()
        self._real = np.array([[1] * len(groups), [adds] * len(groups)], np.float32)
        plain, m, n, k, lda_at, ldb_at, ldc_at, counts = (row.ctypes.data for row in self._whole)
        one, factor = (row.ctypes.data for row in self._real)
        self._before, self._lda = (_ROW_MAJOR, plain, plain, m, n, k, one), lda_at
        self._between, self._after = (ldb_at, factor), (ldc_at, len(groups), counts)

    def multiply(self, batch: Any, inputs: np.ndarray, panels: np.ndarray, outputs: np.ndarray) -> None:
        """Multiply the matrices at addresses `inputs` by those at `panels` into those at `outputs`."""
        batch(
            *self._before, inputs.ctypes.data, self._lda, panels.ctypes.data, *self._between,
            outputs.ctypes.data, *self._after,
        )  # fmt: skip


def _addresses(start: int, count: int, step: int) -> np.ndarray:
    """Return `count` addresses from `start` on, `step` numbers apart."""
    return np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(4 * step)


def parts(size: int, count: int) -> Iterator[slice]:
    """Return `count` slices that split a size, about equally large."""
    return (slice(size * i // count, size * (i + 1) // count) for i in range(count))


@lru_cache(1)
def _batch() -> Any:
    """Return OpenBLAS's function for batches of products, if it has kernels for small ones here."""
    library = blas_library()
    if library is None or not hasattr(library, "cblas_sgemm_batch"):
        return None
    library.openblas_get_corename.restype = ctypes.c_char_p
    if library.openblas_get_corename().decode() not in KERNELS:
        return None
    whole, address = ctypes.c_int, ctypes.c_void_p
    library.cblas_sgemm_batch.argtypes = [whole, *[address] * 13, whole, address]
    library.cblas_sgemm_batch.restype = None
    return library.cblas_sgemm_batch

"""Foundations of the kernels: a thread team for numbered pieces of work, matrix products, scratch memory."""

import ctypes
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any

import numpy as np

from smidgen.backend import blas, blas_library, device, mx

Array = np.ndarray[Any, np.dtype[np.float32]]

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # enums of cblas.h


def usable(*arrays: mx.array) -> bool:
    """Return whether the kernels support these arrays on this machine."""
    return (
        blas_library() is not None
        and device().kind == "cpu"
        and all(array.dtype == mx.float32 for array in arrays)
    )


class Team:
    """A thread pool that processes numbered pieces of work, with OpenBLAS limited to one thread meanwhile."""

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._pool = ThreadPoolExecutor(max(1, self.size - 1), thread_name_prefix="smidgen-kernel")
        self._turn = threading.Lock()

    def run(self, work: Callable[[int], object], pieces: int) -> None:
        """Call `work` for 0, 1, … `pieces` - 1, on every thread of the team."""
        library = blas_library()
        assert library is not None
        numbers = itertools.count()

        def take() -> None:
            with np.errstate(all="ignore"):  # as in MLX, overflow gives infinity, which the caller checks
                while (piece := next(numbers)) < pieces:
                    work(piece)

        with self._turn:
            library.openblas_set_num_threads(1)
            others = [self._pool.submit(take) for _ in range(min(self.size, pieces) - 1)]
            try:
                take()
            finally:
                wait(others)
                library.openblas_set_num_threads(self.size)
            for other in others:
                other.result()


@lru_cache(1)
def team() -> Team:
    """Return the process-wide team, with as many threads as OpenBLAS has."""
    return Team(blas().threads)


@lru_cache(1)
def _sgemm() -> Callable[..., None]:
    library = blas_library()
    assert library is not None
    i, f, p = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    library.cblas_sgemm.argtypes = [i, i, i, i, i, i, f, p, i, p, i, f, p, i]
    library.cblas_sgemm.restype = None
    return library.cblas_sgemm


def product(a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> Array:
    """Set `out` to alpha · a b + beta · out, row-major; `a` and `b` need one contiguous axis each."""
    (turn_a, lda), (turn_b, ldb) = _layout(a), _layout(b)
    (m, k), n = a.shape, b.shape[1]
    _sgemm()(
        _ROW_MAJOR, turn_a, turn_b, m, n, k,
        alpha, a.ctypes.data, lda, b.ctypes.data, ldb, beta, out.ctypes.data, max(out.strides[0] // 4, n),
    )  # fmt: skip
    return out


@lru_cache(1)
def _sgemm_of_many() -> Callable[..., None] | None:
    library = blas_library()
    if not hasattr(library, "cblas_sgemm_batch_strided"):  # new in OpenBLAS 0.3.30
        return None
    assert library is not None
    i, f, p = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    call = library.cblas_sgemm_batch_strided
    call.argtypes = [i, i, i, i, i, i, f, p, i, i, p, i, i, f, p, i, i, i]
    call.restype = None
    return call


def products(a: Array, b: Array, out: Array, alpha: float = 1.0, beta: float = 0.0) -> Array:
    """Do the same as `product` for every matrix of three stacks, (S, m, k), (S, k, n) and (S, m, n)."""
    call = _sgemm_of_many()
    if call is None or len(out) == 1:
        for left, right, one in zip(a, b, out, strict=True):
            product(left, right, one, alpha, beta)
        return out
    (turn_a, lda), (turn_b, ldb) = _layout(a[0]), _layout(b[0])
    count, m, n = out.shape
    call(
        _ROW_MAJOR, turn_a, turn_b, m, n, a.shape[2],
        alpha, a.ctypes.data, lda, a.strides[0] // 4, b.ctypes.data, ldb, b.strides[0] // 4,
        beta, out.ctypes.data, max(out.strides[1] // 4, n), out.strides[0] // 4, count,
    )  # fmt: skip
    return out


def _layout(matrix: Array) -> tuple[int, int]:
    """Return the transposition flag of a matrix for BLAS, and its leading dimension."""
    columns = matrix.shape[1]
    if matrix.strides[1] == 4 or columns == 1:
        return _PLAIN, max(matrix.strides[0] // 4, columns)  # the stride of a single row is arbitrary
    return _TRANSPOSED, matrix.strides[1] // 4


_SCRATCH = threading.local()


def scratch(name: str, *shape: int) -> Array:
    """Return a named array of this thread, reused by later pieces; its content is undefined."""
    size = math.prod(shape)
    held = _SCRATCH.__dict__.get(name)
    if held is None or held.size < size:
        held = _SCRATCH.__dict__[name] = np.empty(size, np.float32)
    return held[:size].reshape(shape)


def new(shapes: dict[str, tuple[int, ...]]) -> dict[str, mx.array]:
    """Return evaluated zero float32 arrays of MLX, to be written through `view`.

    They are copied from numpy, because MLX fills arrays on a CPU several times slower than it copies them.
    """
    zeros = _zeros(max(map(math.prod, shapes.values()), default=0))
    return {name: mx.array(zeros[: math.prod(shape)].reshape(shape)) for name, shape in shapes.items()}


def _zeros(size: int) -> Array:
    """Return at least `size` zeros that are never written, so the system stores none of them."""
    held = _SCRATCH.__dict__.get("zeros")
    if held is None or held.size < size:
        held = _SCRATCH.__dict__["zeros"] = np.zeros(size, np.float32)
    return held


def view(array: mx.array) -> Array:
    """Return a numpy view of an evaluated array; a copy if it is not contiguous."""
    return np.ascontiguousarray(np.array(array, copy=False))

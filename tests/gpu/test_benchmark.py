"""The benchmark that needs a GPU says so where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.backend import device

BENCHMARK = Path(__file__).parents[2] / "benchmarks/gpu.py"


@pytest.mark.skipif(device().kind != "cpu", reason="MLX has a GPU here")
def test_a_machine_without_a_gpu_is_refused_in_a_sentence():
    done = subprocess.run([sys.executable, BENCHMARK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("error: this compares GPUs, and MLX has none here")
        and "\n" not in done.stderr[:-1]
    )

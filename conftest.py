"""Workers that share the cores: each gets its part of the threads, and threads that wait let go of a core.

A thread of OpenBLAS or llama.cpp turns in a loop until the next product; where there are more of them than
cores, that is half of the time the tests take. Read when the libraries are opened, so this stands before all
imports of them. Where `OPENBLAS_NUM_THREADS` is set, it holds.
"""

import os

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
if workers and "OPENBLAS_NUM_THREADS" not in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OPENBLAS_NUM_THREADS"] = str(max(1, cores // workers))
    os.environ["SMIDGEN_TEST_THREADS"] = "shared"

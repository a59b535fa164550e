"""Shared code of the benchmarks: run contenders in separate processes and save results."""

import argparse
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ORACLE = Path(__file__).parents[1] / ".venv-oracle/bin/python"
"""The interpreter with torch that `make oracle` installs."""


def run(file: str, arguments: Sequence[str], *, python: str = sys.executable, what: str) -> dict[str, Any]:
    """Run a benchmark's file in a separate process; return the JSON object in its last line.

    Raises:
        SystemExit: it failed; the message contains the end of its output.
    """
    before = os.getloadavg()[0]
    done = subprocess.run([python, file, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"load": [before, os.getloadavg()[0]]}


def add_torch_python(parser: argparse.ArgumentParser) -> None:
    """Add the option `--torch-python`; its default is `ORACLE`, if it is installed."""
    default = str(ORACLE) if ORACLE.exists() else sys.executable
    parser.add_argument("--torch-python", default=default, help="Python interpreter with torch")


def imports(python: str, packages: Sequence[str]) -> bool:
    """Return whether an interpreter can import some packages; if not, print that torch is left out."""
    probe = [python, "-c", f"import {', '.join(packages)}"]
    if failed := subprocess.run(probe, capture_output=True, check=False).returncode:
        print(f"torch left out: {python} cannot import {', '.join(packages)}", file=sys.stderr)
    return not failed


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package."""
    from importlib.metadata import version

    return {name: version(name) for name in names}


def peak_memory_bytes() -> int:
    """Return the peak memory of this process, including libraries."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> dict[str, Any]:
    """Return what the results depend on besides the code."""
    from smidgen.backend import device
    from smidgen.runs import cpu_name

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_name(),
        "device": device().name,
        "cores": cores,
        "memory_gb": math.ceil(memory / 1e9),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")},
    }


def facts_of(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of a contender besides its rate: time and load per round, memory of the best round."""
    best = min(turns, key=lambda turn: turn["seconds"])
    return {
        "seconds": [turn["seconds"] for turn in turns],
        "peak_memory_bytes": best["peak"],
        "load": [turn["load"] for turn in turns],
        "versions": best["versions"],
    }


def write_results(name: str, results: Any) -> Path:
    """Save results as `results/<name>-<machine>.json`, with the command, the date and the machine."""
    facts = machine()
    told = f"{facts['cpu']} {facts['cores']} cores"
    if facts["device"] not in told and facts["device"] != "cpu":
        told = facts["device"]
    slug = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{slug}.json"
    given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]  # no local paths
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])
    report = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": facts, "results": results}
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path

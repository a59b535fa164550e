"""`smidgen doctor`: facts about this machine, its speed, and problems with their fixes."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smidgen.cli.console import count, print_json, print_table, say, size
from smidgen.cli.parameters import Json

# Below this fraction of numpy's rate on the same product, MLX's BLAS or its threads are slow, not the CPU.
_SLOW_BELOW = 0.5
_FREE_DISK_WANTED = 5_000_000_000


def doctor(*, json: Json = False) -> None:
    """Show the device, its memory and speed, installed versions, and problems with their fixes."""
    facts = examine()
    if json:
        print_json(facts)
        return
    show(facts)


def examine() -> dict[str, Any]:
    """Measure the machine; takes about a second.

    Returns:
        device, memory, blas (rates in GFLOP/s), disk (bytes), cache (of converted models, bytes), imported
        (folders made of GGUF files, bytes), engines (those that `auto` chose on this machine), versions, and
        problems, each with its fix.
    """
    import psutil

    from smidgen import backend
    from smidgen.cache import cache_dir
    from smidgen.gguf import imported_facts
    from smidgen.inference.choice import known_choices
    from smidgen.inference.llama_cache import cache_facts
    from smidgen.runs import cpu_name, versions

    device, blas, rates = backend.device(), backend.blas(), backend.measure_gflops(repeats=9)
    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "device": {"kind": device.kind, "name": device.name, "memory_bytes": device.memory_bytes},
        "cpu": {"name": cpu_name(), "cores": device.cores},
        "memory": {"total_bytes": memory.total, "available_bytes": memory.available},
        "blas": {
            "name": blas.name,
            "path": blas.path,
            "threads": blas.threads,
            "fast": blas.fast,
            "gflops": rates.mlx,
            "numpy_gflops": rates.numpy,
        },
        "disk": {"folder": Path.cwd(), "free_bytes": shutil.disk_usage(Path.cwd()).free},
        "cache": asdict(cache_facts(cache_dir() / "gguf")),
        "imported": asdict(imported_facts()),
        "engines": [asdict(choice) | {"text": str(choice)} for choice in known_choices()],
        "versions": versions(),
    }
    return facts | {"problems": problems(facts, blas.problem)}


def problems(facts: dict[str, Any], blas_problem: str = "") -> list[str]:
    """List the problems of a machine, each with its fix."""
    found = [blas_problem] if blas_problem else []
    blas = facts["blas"]
    if not blas_problem and blas["gflops"] < _SLOW_BELOW * blas["numpy_gflops"]:
        found.append(
            f"MLX multiplies at {blas['gflops']:.0f} GFLOP/s and numpy at {blas['numpy_gflops']:.0f}; "
            "close other programs and run again, or set OPENBLAS_NUM_THREADS to the number of cores"
        )
    missing = [name for name, version in facts["versions"].items() if version is None]
    if missing:
        found.append(f"not installed: {', '.join(missing)}; install with `pip install {' '.join(missing)}`")
    if facts["disk"]["free_bytes"] < _FREE_DISK_WANTED:
        found.append(
            f"only {size(facts['disk']['free_bytes'])} of disk space free in {facts['disk']['folder']}; "
            f"expected {size(_FREE_DISK_WANTED)}, free some or work in another folder"
        )
    if not os.access(Path.cwd(), os.W_OK):
        found.append(f"{Path.cwd()} is not writable; work in a folder that is")
    return found


def show(facts: dict[str, Any]) -> None:
    """Print the facts as a table, then the problems."""
    device, cpu, memory, blas = facts["device"], facts["cpu"], facts["memory"], facts["blas"]
    threads = f", {blas['threads']} threads" if blas["threads"] else ""
    rows = [
        ("device", f"{device['kind']} ({device['name']}, {size(device['memory_bytes'])})"),
        ("cpu", f"{cpu['name']}, {cpu['cores']} cores"),
        ("memory", f"{size(memory['total_bytes'])}, {size(memory['available_bytes'])} free"),
        ("blas", blas["name"] + threads),
        ("", f"{count(blas['gflops'])} GFLOP/s; numpy on the same product {count(blas['numpy_gflops'])}"),
        ("disk", f"{size(facts['disk']['free_bytes'])} free in {facts['disk']['folder']}"),
        ("cache", _cache(facts["cache"])),
        ("imported", _imported(facts["imported"])),
        *(
            [("engine auto", choice["text"]) for choice in facts["engines"]]
            or [("engine auto", "no model measured yet")]
        ),
        (
            "versions",
            ", ".join(f"{name} {version or 'missing'}" for name, version in facts["versions"].items()),
        ),
    ]
    print_table(rows)
    for problem in facts["problems"]:
        say(f"problem: {problem}")
    if not facts["problems"]:
        say("no problems found")


def _cache(facts: dict[str, Any]) -> str:
    models = f"{facts['files']} converted model{'' if facts['files'] == 1 else 's'}"
    return f"{models}, {size(facts['bytes'])} of at most {size(facts['bound_bytes'])} in {facts['folder']}"


def _imported(facts: dict[str, Any]) -> str:
    models = f"{facts['models']} model{'' if facts['models'] == 1 else 's'} of GGUF files"
    return f"{models}, {size(facts['bytes'])} in {facts['folder']}; it may be deleted at any time"

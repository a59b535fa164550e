"""One trial of a sweep: `smidgen train` as a child process.

A process of its own gives its memory back, and one that the system ends for want of memory ends alone.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.pipeline.events import EVENTS_FILE, StepEvent, Work

POLL_SECONDS = 0.3
NO_MEMORY = re.compile(
    r"out of memory|(unable|failed|attempting|cannot) to allocate|cannot allocate|bad_alloc|MemoryError",
    re.IGNORECASE,
)
"""What Python, C++, MLX and CUDA say when memory runs out."""
KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a child process ended.

    Attributes:
        fault: why it failed, one sentence; empty if it did not.
        out_of_memory: whether it failed for want of memory.
        peak_bytes: largest resident memory of the process.
        seconds: wall-clock time.
    """

    fault: str
    out_of_memory: bool
    peak_bytes: int
    seconds: float


def train_trial(recipe: Path, runs: Path, log: Path, *, share: float, label: str) -> Work[Ended]:
    """Train a recipe in a child process up to a share of its steps, passing on its steps.

    Args:
        recipe: the recipe's file, named like the recipe.
        runs: parent of the run folders.
        log: what the process prints is appended to it.
        share: share of the steps after which it pauses; 1 for all.
        label: names the trial in the events.
    """
    events, started = runs / recipe.stem / EVENTS_FILE, time.monotonic()
    seen = events.stat().st_size if events.exists() else 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begins = output.tell()
        process = subprocess.Popen(_command(recipe, runs, share), stdout=subprocess.DEVNULL, stderr=output)
    try:
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            time.sleep(POLL_SECONDS)
            rows, seen = _appended(events, seen)
            yield from _steps(rows, label)
        code = process.returncode = os.waitstatus_to_exitcode(ended[1])
    finally:
        if process.returncode is None:
            process.terminate()
            process.wait()
    said = log.read_bytes()[begins:].decode(errors="replace")
    fault = _fault(code, said)
    return Ended(
        fault,
        code == KILLED or bool(NO_MEMORY.search(fault)),
        ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        time.monotonic() - started,
    )


def _command(recipe: Path, runs: Path, share: float) -> list[str]:
    pause = [] if share >= 1 else ["--stop-at", f"{share:g}"]
    return [sys.executable, "-m", "smidgen", "train", str(recipe), "--runs", str(runs), *pause]


def _appended(file: Path, seen: int) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a growing JSONL file after `seen` bytes, and how many bytes are seen now."""
    if not file.exists():
        return [], seen
    with file.open("rb") as stream:
        stream.seek(seen)
        whole, newline, _ = stream.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], seen + len(whole) + len(newline)


def _steps(rows: list[dict[str, Any]], label: str) -> Iterator[StepEvent]:
    """Yield the training steps among the events of a child."""
    for row in rows:
        if row["kind"] == "step" and row["stage"] == "train" and row["is_new"]:
            values: Mapping[str, float] = row["values"]
            yield StepEvent(label, row["step"], row["total"], tokens=row["tokens"], values=values)


def _fault(code: int, said: str) -> str:
    """Return why a process failed, as it said itself; empty if it did not fail."""
    if code == 0:
        return ""
    if code == KILLED:
        return "the system ended the process, as it does when memory runs out"
    errors = re.findall(r"^error: (.+)$", said, re.MULTILINE)
    return errors[-1] if errors else f"the process ended with the code {code} and said nothing"

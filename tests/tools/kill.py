"""Kill a run at random moments, resume it, and compare what it left with an uninterrupted run, bit for bit.

    python tests/tools/kill.py RECIPE [--times 20] [--command train] [--seed 0] [--keep FOLDER]

Works with any recipe. One kill of four comes at a random moment of the seconds that an uninterrupted run
takes, the others within a random step of those that are left. An attempt that ends before its kill is
compared, its folder is removed, and the next one starts anew, until there were so many kills; then the last
one ends.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from smidgen.files import read_jsonl

PASSING_FILES = ("provenance.json", "events.jsonl", "report.html", "tracking.json", ".lock")
PASSING_FOLDERS = ("stages", "wandb", "tensorboard")
"""What tells of the clock and of attempts, not of what was asked."""
PASSING_KEYS = frozenset(
    {
        "seconds",
        "created",
        "command",
        "speed",
        "tokens_per_second",
        "stages",
        "cost",
        "git_revision",
        "timing",
    }
)


class Report(NamedTuple):
    """How a series of kills went.

    Attributes:
        kills: for each kill, the last step that was logged before it.
        runs: runs that were brought to their end and compared.
        steps: steps of a whole run.
        differences: files that differ from those of the uninterrupted run, with their run.
    """

    kills: list[int]
    runs: int
    steps: int
    differences: list[str]


def kill_and_compare(
    recipe: Path, folder: Path, *, times: int, seed: int = 0, command: str = "train"
) -> Report:
    """Run a recipe once, then again and again with `times` kills in all, and compare every run that ends."""
    whole, broken = folder / "whole", folder / "broken"
    started = time.monotonic()
    process = _start(recipe, whole, command)
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run of {recipe} failed with exit code {process.returncode}")
    seconds, steps = time.monotonic() - started, len(_metrics(whole))
    expected = outputs(whole)
    assert expected, f"{recipe} left nothing to compare"
    random, kills, runs, differences = Random(seed), [], 0, []
    while len(kills) < times or broken.exists():
        started, process = time.monotonic(), _start(recipe, broken, command)
        if len(kills) == times:
            process.wait()
        elif len(kills) % 4 == 0:
            _wait(process, random.uniform(0, seconds))
        else:
            done = len(_metrics(broken))
            _wait_for_step(process, broken, random.randint(min(done + 1, steps), steps))
            _wait(process, random.uniform(0, seconds / 10 / steps))
        if process.poll() is None:
            process.kill()
            process.wait()
            kills.append(len(_metrics(broken)))
            _say(f"kill {len(kills)} of {times}, after step {kills[-1]}")
            continue
        seconds = min(seconds, time.monotonic() - started)  # the machine may have been busy before
        runs += 1
        if process.returncode != 0:
            differences.append(f"run {runs}: exit code {process.returncode}")
        found = outputs(broken)
        names = sorted({*expected, *found})
        unequal = [name for name in names if expected.get(name) != found.get(name)]
        differences += [f"run {runs}: {name}" for name in unequal]
        _say(f"run {runs} ended: {len(unequal)} of {len(names)} files differ")
        if differences:  # it stays for whoever looks
            break
        shutil.rmtree(broken)
    return Report(kills, runs, steps, differences)


def outputs(runs: Path) -> dict[str, Any]:
    """Return the content of every file of a runs folder that should not depend on when it was made."""
    return {
        path.relative_to(runs).as_posix(): _lasting_content(path, runs)
        for path in sorted(runs.rglob("*"))
        if path.is_file()
        and path.name not in PASSING_FILES
        and not {*PASSING_FOLDERS} & {*path.relative_to(runs).parts}
    }


def _lasting_content(path: Path, runs: Path) -> Any:
    if path.suffix == ".safetensors":  # the order of the arrays in a file is not part of the result
        return arrays_of(path)
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8").replace(str(runs), "RUNS")
    return [lasting(json.loads(part)) for part in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def arrays_of(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Return the dtype, shape and bytes of every array of a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def lasting(value: Any) -> Any:
    """Return a JSON value without the keys that tell of the clock."""
    if isinstance(value, dict):
        return {key: lasting(part) for key, part in value.items() if key not in PASSING_KEYS}
    return [lasting(part) for part in value] if isinstance(value, list) else value


def _start(recipe: Path, runs: Path, command: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "smidgen", command, str(recipe), "--runs", str(runs)]
    with (runs.parent / f"{runs.name}.log").open("ab") as log:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a process, but no longer than some seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _wait_for_step(process: subprocess.Popen[bytes], runs: Path, step: int) -> None:
    """Wait until a step is in `metrics.jsonl` that was not there, or the process has ended."""
    before = {row["step"] for row in _metrics(runs)}
    while process.poll() is None and step not in {row["step"] for row in _metrics(runs)} - before:
        time.sleep(0.005)


def _metrics(runs: Path) -> list[dict[str, Any]]:
    return [row for path in runs.glob("*/metrics.jsonl") for row in read_jsonl(path)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=("train", "run"), default="train")
    parser.add_argument("--keep", type=Path, help="folder for the runs; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = kill_and_compare(
            given.recipe, folder, times=given.times, seed=given.seed, command=given.command
        )
    print(json.dumps(report._asdict(), indent=2))
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())

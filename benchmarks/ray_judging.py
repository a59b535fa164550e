"""Judging on two Ray workers, of which one is killed, and then the command too: is every row there once?

    python benchmarks/ray_judging.py --pairs 20000 --model replay
    python benchmarks/ray_judging.py --pairs 20000 --model smidgen:nano

Pairs of the generated world are judged in both orders by `smidgen judge`, once in one process and once with
`--ray --workers 2`. There, a worker is killed with -9 once `--kill-worker` of the judgements are written, and
the command itself at `--kill-driver`; the same command then goes on. Judgements must be those of one process,
each once, and the files of verdicts equal byte for byte. `replay` answers from a recording made here. What
happened is printed and saved to `benchmarks/results/ray_judging-<model>-<machine>.json`.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from _common import versions, write_results

TIMES = ("timing", "session", "elapsed")
"""What may differ between a judgement of one process and of several."""
WORKER = "ray::MapWorker"
POLL = 0.02


def write_pairs(folder: Path, number: int) -> Path:
    """Write pairs of the world, and a recording with a verdict for each order of each."""
    from smidgen.files import write_jsonl
    from smidgen.tasks import JudgeTask

    rows = JudgeTask().world_rows("test", number, seed=0)
    draw = random.Random(0)
    write_jsonl(folder / "pairs.jsonl", rows)
    said = (
        {"id": row["id"], "order": order, "text": f"[[{draw.choice('AB')}]]"}
        for row in rows
        for order in ("ab", "ba")
    )
    write_jsonl(folder / "said.jsonl", said)
    return folder / "pairs.jsonl"


def command(pairs: Path, out: Path, given: argparse.Namespace, *more: str) -> list[str]:
    """Return the command that judges."""
    model = str(pairs.with_name("said.jsonl")) if given.model == "replay" else given.model
    asked = ["--template", "verdict", "--max-tokens", str(given.max_tokens)]
    engine = [] if given.model == "replay" else ["--engine", "mlx"]
    smidgen = [sys.executable, "-m", "smidgen", "judge", str(pairs), "--out", str(out), "--model", model]
    return [*smidgen, *asked, *engine, *more, "--json"]


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Return the workers that hold an engine."""
    found = []
    for process in driver.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(WORKER):
                found.append(process)
        except psutil.Error:
            continue
    return found


def lines_of(path: Path) -> int:
    """Return the number of judgements written so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(path: Path, number: float, running: subprocess.Popen[str]) -> int:
    """Wait until that many judgements are written, or the command has ended."""
    while (written := lines_of(path)) < number and running.poll() is None:
        time.sleep(POLL)
    return written


def killed_run(arguments: Sequence[str], out: Path, total: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run the command, kill a worker and then the command, and run it again to the end."""
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=sys.stderr, text=True)
    driver = psutil.Process(running.pid)
    at_worker = wait_for(out, given.kill_worker * total, running)
    before = workers_of(driver)
    before[0].kill()
    at_driver = wait_for(out, given.kill_driver * total, running)
    after = workers_of(driver)
    everything = driver.children(recursive=True)
    running.kill()
    running.wait()
    gone, alive = psutil.wait_procs(everything, timeout=60)
    started = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return {
        "worker_killed_at": at_worker,
        "workers_before": len(before),
        "new_workers": len({one.pid for one in after} - {one.pid for one in before}),
        "command_killed_at": at_driver,
        "processes_ended_with_it": len(gone),
        "processes_left_by_it": len(alive),
        "seconds_of_last_command": time.perf_counter() - started,
        "result": json.loads(done.stdout),
    }


def read_judgements(path: Path) -> list[dict[str, Any]]:
    """Read judgements without their times, by id."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        ({k: v for k, v in row.items() if k not in TIMES} for row in rows), key=lambda row: row["id"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--model", default="replay")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--kill-worker", type=float, default=0.3)
    parser.add_argument("--kill-driver", type=float, default=0.6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pairs, total = write_pairs(folder, given.pairs), 2 * given.pairs
        one, shared = folder / "one.jsonl", folder / "shared.jsonl"
        started = time.perf_counter()
        subprocess.run(command(pairs, one, given), check=True, stdout=subprocess.DEVNULL)
        alone = time.perf_counter() - started
        ray = command(pairs, shared, given, "--ray", "--workers", "2")
        found = killed_run(ray, shared, total, given)
        expected, judged = read_judgements(one), read_judgements(shared)
        ids = [row["id"] for row in judged]
        verdicts = [path.with_name(f"{path.stem}.pairs.jsonl").read_bytes() for path in (one, shared)]
        result = found.pop("result")
    results = {
        "model": given.model,
        "pairs": given.pairs,
        "judgements": total,
        "written": len(ids),
        "lost": total - len(set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "differing_judgements": sum(a != b for a, b in zip(expected, judged, strict=False)),
        "same_verdicts": verdicts[0] == verdicts[1],
        "seconds_in_one_process": alone,
        **found,
        "verdicts": result["verdicts"],
        "versions": versions(["ray", "pyarrow", "mlx", "smidgen"]),
    }
    print(json.dumps(results, indent=1))
    print(write_results(f"ray_judging-{given.model.rpartition(':')[2]}", results), file=sys.stderr)
    if (
        results["lost"]
        or results["doubled"]
        or results["differing_judgements"]
        or not results["same_verdicts"]
    ):
        raise SystemExit("rows were lost, doubled or changed")


if __name__ == "__main__":
    main()

"""Training speed: smidgen, mlx-lm as shipped, mlx-lm on our BLAS, torch with transformers.

    python benchmarks/train.py --torch-python /path/to/python/with/torch

Every contender starts from the same weights and takes the same AdamW steps on the same rows, in a separate
process; two thirds of each row are prompt and excluded from the loss. Their losses are compared step by step.
Contenders take turns for a few rounds, so that other load on the machine affects all of them equally. Steps
are timed without warm-up and loading. Medians, ratios, the machine's load and the measuring conditions are
saved to `benchmarks/results/train-<machine>.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _common import add_torch_python, imports, peak_memory_bytes, run, versions, write_results

LEARNING_RATE, BETAS, EPS = 1e-3, (0.9, 0.95), 1e-8
LOSS_TOLERANCE = 0.01
"""Largest relative difference of two contenders' losses in a step, due to different summation orders."""


@dataclass(frozen=True)
class Case:
    """A model shape and a batch shape."""

    name: str
    shape: dict[str, int]
    batch_size: int
    length: int = 256

    @property
    def tokens(self) -> int:
        """Number of tokens per step."""
        return self.batch_size * self.length


CASES = {
    case.name: case
    for case in (
        Case("bundled", {}, 16),
        Case(
            "wider",
            {
                "hidden_size": 256,
                "num_hidden_layers": 6,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "intermediate_size": 768,
                "vocab_size": 4096,
            },
            8,
        ),
    )
}


# ------------------------------------------------------------------------------------- in a separate process


def make(folder: Path, case: Case) -> None:
    """Write the weights and the rows that every contender starts from."""
    import numpy as np

    from smidgen.backend import mx
    from smidgen.config import ArchitectureConfig
    from smidgen.models.graph import create, named_arrays

    architecture = ArchitectureConfig(**case.shape)  # type: ignore[arg-type]
    model, config = create(architecture, seed=0)
    mx.save_safetensors(
        str(folder / "model.safetensors"), named_arrays(model.parameters()), metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)
    rows = random.integers(0, architecture.vocab_size, (case.batch_size, case.length + 1), np.int32)
    np.save(folder / "rows.npy", rows)


def prompt_length(case: Case) -> int:
    """Return the number of prompt tokens in a row."""
    return 2 * case.length // 3


def smidgen(folder: Path, case: Case) -> Iterator[tuple[float, float]]:
    """Yield seconds and loss of each step of smidgen's loop."""
    import numpy as np

    from smidgen.config import ArchitectureConfig, SftConfig
    from smidgen.models.graph import create
    from smidgen.training.batches import RowBatches, TrainRow
    from smidgen.training.loop import train
    from smidgen.training.objectives.likelihood import Likelihood

    model, _ = create(ArchitectureConfig(**case.shape), seed=0)  # type: ignore[arg-type]
    mask = np.arange(case.length + 1) >= prompt_length(case)
    rows = [TrainRow(row, mask) for row in np.load(folder / "rows.npy")]
    config = SftConfig(
        batch_size=case.batch_size, learning_rate=LEARNING_RATE, schedule="constant", warmup=0.0, betas=BETAS,
        eps=EPS, gradient_clip=0.0, validate_every=0, checkpoint_every=0,
    )  # fmt: skip
    batches = RowBatches(rows, batch_size=case.batch_size, epochs=1e6)
    for result in train(model, Likelihood(), batches, config):
        yield result.seconds, result.loss


def mlx_lm(folder: Path, case: Case) -> Iterator[tuple[float, float]]:
    """Yield the same of mlx-lm's trainer, as shipped."""
    import mlx.optimizers
    import numpy as np
    from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, train
    from mlx_lm.utils import load_model

    class Report(TrainingCallback):
        def __init__(self) -> None:
            self.steps: list[tuple[float, float]] = []

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            self.steps.append((1 / train_info["iterations_per_second"], train_info["train_loss"]))

    model, _ = load_model(folder)
    optimizer = mlx.optimizers.AdamW(
        LEARNING_RATE, betas=list(BETAS), eps=EPS, weight_decay=0.0, bias_correction=True
    )
    rows = [(row.tolist(), prompt_length(case)) for row in np.load(folder / "rows.npy")]
    report = Report()
    arguments = TrainingArgs(
        batch_size=case.batch_size, iters=int(os.environ["STEPS"]), steps_per_report=1, steps_per_save=10**9,
        max_seq_length=case.length + 1, adapter_file=str(folder / "trained.safetensors"),
    )  # fmt: skip
    train(model, optimizer, rows, args=arguments, training_callback=report)
    yield from report.steps


def mlx_lm_fast(folder: Path, case: Case) -> Iterator[tuple[float, float]]:
    """Yield the same of mlx-lm's trainer on smidgen's BLAS for MLX."""
    from smidgen import backend

    assert backend.blas().fast, backend.blas().problem
    yield from mlx_lm(folder, case)


def torch(folder: Path, case: Case) -> Iterator[tuple[float, float]]:
    """Yield the same of a plain loop with transformers and torch's fused AdamW."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True
    )
    rows = torch.from_numpy(np.load(folder / "rows.npy")).long()
    inputs, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[:, : prompt_length(case) - 1] = -100  # ignored by cross_entropy
    while True:
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        yield time.perf_counter() - start, loss.item()


CONTENDERS: dict[str, Callable[[Path, Case], Iterator[tuple[float, float]]]] = {
    "smidgen": smidgen,
    "mlx-lm": mlx_lm,
    "mlx-lm, our BLAS": mlx_lm_fast,
    "torch + transformers": torch,
}
PACKAGES = {
    "smidgen": ("mlx", "scipy-openblas32", "numpy"),
    "mlx-lm": ("mlx", "mlx-lm"),
    "mlx-lm, our BLAS": ("mlx", "mlx-lm", "scipy-openblas32"),
    "torch + transformers": ("torch", "transformers"),
}


def child(contender: str, folder: Path, case: Case, steps: int) -> None:
    """Run the steps of one contender and print the measurements as JSON, after its own output."""
    os.environ["STEPS"] = str(steps)
    taken = [step for step, _ in zip(CONTENDERS[contender](folder, case), range(steps), strict=False)]
    seconds, losses = zip(*taken, strict=True)
    report = {"seconds": seconds, "losses": losses, "peak": peak_memory_bytes()}
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES[contender])}))


# ------------------------------------------------------------------------------------------------ comparison


def take_turn(contender: str, folder: Path, case: Case, steps: int, python: str) -> dict[str, Any]:
    """Run the steps of one contender in a separate process."""
    arguments = ["--child", contender, "--folder", str(folder), "--cases", case.name, "--steps", str(steps)]
    return run(__file__, arguments, python=python, what=f"{contender} on {case.name}")


def compare(case: Case, arguments: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """Let the contenders take turns on one case."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", "make", "--folder", folder, "--cases", case.name]
        subprocess.run(command, check=True)
        for turn in range(arguments.rounds):
            for name, python in pythons.items():
                slow = name == "mlx-lm" and "mlx-lm, our BLAS" in pythons
                if slow and turn:
                    continue
                warm_up, steps = (1, arguments.slow_steps) if slow else (arguments.warm_up, arguments.steps)
                print(f"{case.name}, round {turn + 1}: {name} …", file=sys.stderr)
                result = take_turn(name, Path(folder), case, warm_up + steps, python)
                runs[name].append(result | {"measured": result["seconds"][warm_up:]})
    return summary(case, runs)


def summary(case: Case, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians over all measured steps of all rounds, and the ratio of our rate to each."""
    rows = {}
    for name, turns in runs.items():
        seconds = statistics.median([step for turn in turns for step in turn["measured"]])
        rows[name] = {
            "tokens_per_second": case.tokens / seconds,
            "step_seconds": seconds,
            "best_step_seconds": min(step for turn in turns for step in turn["measured"]),
            "round_medians": [statistics.median(turn["measured"]) for turn in turns],
            "steps": sum(len(turn["measured"]) for turn in turns),
            "peak_memory_bytes": statistics.median([turn["peak"] for turn in turns]),
            "losses": turns[0]["losses"],
            "load": [turn["load"] for turn in turns],
            "versions": turns[0]["versions"],
        }
    ours = rows["smidgen"]
    for row in rows.values():
        pairs = list(zip(row["losses"], ours["losses"], strict=False))
        row["ratio"] = ours["tokens_per_second"] / row["tokens_per_second"]
        row["loss_difference"] = max(abs(theirs / our - 1) for theirs, our in pairs)
    return {"case": asdict(case), "contenders": rows}


def show(result: dict[str, Any]) -> None:
    """Print one case as a table."""
    case = result["case"]
    print(f"\n{case['name']}: {case['batch_size']} x {case['length']} tokens, a third of them trained on")
    print(f"{'':22}{'tokens/s':>10}{'s/step':>9}{'peak MB':>9}{'smidgen is':>12}{'load':>6}{'losses':>9}")
    for name, row in result["contenders"].items():
        load = max(value for turn in row["load"] for value in turn)
        agree = "agree" if row["loss_difference"] <= LOSS_TOLERANCE else f"{row['loss_difference']:.1%}"
        print(
            f"{name:22}{row['tokens_per_second']:10,.0f}{row['step_seconds']:9.3f}"
            f"{row['peak_memory_bytes'] / 1e6:9.0f}{row['ratio']:11.2f}x{load:6.1f}{agree:>9}"
        )


def pythons_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the contenders that can run here, each with its interpreter."""
    names = list(CONTENDERS) if sys.platform == "linux" else [n for n in CONTENDERS if "BLAS" not in n]
    pythons = {name: sys.executable for name in names} | {"torch + transformers": arguments.torch_python}
    if not imports(arguments.torch_python, ("torch", "transformers")):
        del pythons["torch + transformers"]
    if arguments.slow_steps == 0 and "mlx-lm, our BLAS" in pythons:
        del pythons["mlx-lm"]
    return pythons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=10, help="measured steps per round")
    parser.add_argument("--warm-up", type=int, default=3, help="warm-up steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--slow-steps", type=int, default=3, help="measured steps of mlx-lm as shipped; 0 leaves it out"
    )
    add_torch_python(parser)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "make":
        make(arguments.folder, CASES[arguments.cases[0]])
        return
    if arguments.child:
        child(arguments.child, arguments.folder, CASES[arguments.cases[0]], arguments.steps)
        return
    pythons = pythons_of(arguments)
    results = [compare(CASES[name], arguments, pythons) for name in arguments.cases]
    for result in results:
        show(result)
    path = write_results("train", results)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()

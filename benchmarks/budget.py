"""Memory that `smidgen plan` predicts for trainings, and the peaks that they have.

    python benchmarks/budget.py

Each setting is trained for a few steps in a process of its own by `smidgen train`, from a recipe on generated
rows; its peak is the process's (VmHWM). SmolLM2-135M has its real weights (`make real`), the shape of
Qwen3-0.6B random ones. Both figures and their ratio are saved to `benchmarks/results/budget-<machine>.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import peak_memory_bytes, run, write_results

ROOT = Path(__file__).parents[1]
LENGTH = 512
LORA: dict[str, Any] = {"lora": {}}
SMOLLM, QWEN, QUANTIZED = "smidgen:smollm2", "Qwen3-0.6B", "SmolLM2-135M in 4 bits"
SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bundled, every weight": ("smidgen:nano", 26, {"batch_size": 16}),
    "bundled, LoRA": ("smidgen:nano", 50, {"batch_size": 32, **LORA}),
    "SmolLM2-135M, LoRA": (SMOLLM, 3, {"batch_size": 2, **LORA}),
    "SmolLM2-135M, LoRA in the last 8 blocks": (
        SMOLLM, 3, {"batch_size": 4, "epochs": 2.0, "lora": {"num_layers": 8}},
    ),
    "SmolLM2-135M, LoRA, checkpointing": (
        SMOLLM, 3, {"batch_size": 4, "gradient_checkpointing": True, **LORA},
    ),
    "SmolLM2-135M, every weight": (SMOLLM, 3, {"batch_size": 2}),
    "SmolLM2-135M in 4 bits, LoRA": (QUANTIZED, 3, {"batch_size": 2, **LORA}),
    "Qwen3-0.6B shape, LoRA": (QWEN, 3, {"batch_size": 3, **LORA}),
    "Qwen3-0.6B shape, LoRA, checkpointing": (
        QWEN, 2, {"batch_size": 2, "gradient_checkpointing": True, **LORA},
    ),
}  # fmt: skip
"""For each setting the base model, the generated rows and `[train]`."""


def recipe_of(setting: str, models: Path) -> dict[str, Any]:
    """Return the recipe of a setting."""
    base, rows, train = SETTINGS[setting]
    known = {QWEN: str(models / "qwen3"), QUANTIZED: str(models / "quantized")}
    return {
        "name": "budget",
        "task": "judge",
        "model": {"base": known.get(base, base)},
        "data": {"train_limit": rows, "validation_limit": 1, "test_limit": 1},
        "train": {"max_length": LENGTH, "validate_every": 0, **train},
    }


def child(setting: str, models: Path) -> None:
    """Train one setting and print its peak as JSON."""
    from smidgen.config import parse_recipe
    from smidgen.pipeline import RunContext, run_recipe
    from smidgen.runs import Run

    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(recipe_of(setting, models), source=setting)
        context = RunContext(recipe, Run(Path(folder) / "run"))
        for _ in run_recipe(context, only=("data", "train")):
            pass
    print("\n" + json.dumps({"peak_memory_bytes": peak_memory_bytes()}))


def predicted(setting: str, models: Path) -> dict[str, Any]:
    """Return the predicted peak and its parts."""
    from smidgen.config import parse_recipe
    from smidgen.pipeline import RunContext
    from smidgen.pipeline.budgets import Budgets
    from smidgen.runs import Run

    recipe = parse_recipe(recipe_of(setting, models), source=setting)
    budgets = Budgets(RunContext(recipe, Run(models / "none")))
    budget, batches = budgets.training().budget, budgets.batches
    moment = max(budget.moments, key=lambda name: sum(budget.moments[name].values()))
    return {
        "predicted_bytes": budget.peak,
        "peak_moment": moment,
        "parts": budget.moments[moment],
        "largest_batch": batches.largest._asdict(),
    }


def make_models(models: Path, settings: list[str]) -> None:
    """Write the models that are not installed."""
    bases = {SETTINGS[setting][0] for setting in settings}
    if QWEN in bases:
        tool = ROOT / "tests/tools/real_shapes.py"
        subprocess.run([sys.executable, tool, QWEN, models / "qwen3"], check=True)
    if QUANTIZED in bases:
        command = [sys.executable, "-m", "smidgen", "quantize", SMOLLM, "--out", models / "quantized"]
        subprocess.run([*command, "--bits", "4"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), arguments.settings)
        for setting in arguments.settings:
            expected = predicted(setting, Path(folder))
            measured = run(__file__, ["--child", setting, "--folder", folder], what=setting)
            peak, ratio = (
                expected["predicted_bytes"],
                expected["predicted_bytes"] / measured["peak_memory_bytes"],
            )
            rows[setting] = expected | measured | {"ratio": ratio}
            print(
                f"{setting:42}{peak / 1e6:8,.0f}{measured['peak_memory_bytes'] / 1e6:8,.0f} MB{ratio:7.2f}  "
                f"{expected['peak_moment']}"
            )
    print(f"\nwritten to {write_results('budget', rows)}")


if __name__ == "__main__":
    main()

"""What the report shows of a training on rewards: curves, and the best and the worst answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.runs import Run

ROLLOUTS = "rollouts.jsonl"
"""The best and the worst answer of every step."""
CURVES = (
    "reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "clip_ratio", "completions/mean_length",
    "completions/clipped_ratio", "engine_gap",
)  # fmt: skip
SHOWN = 3
"""Steps whose best and worst answers are shown: the first, one in the middle and the last."""


def rollout_entry(run: Run, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entry of `report.json`; empty if the training was not on rewards."""
    metrics = {step["step"]: step.get("metrics", {}) for step in steps}
    if not any("reward" in found for found in metrics.values()):
        return {}
    parts = sorted({
        name for found in metrics.values() for name in found
        if name.startswith("rewards/") and name.endswith("/mean")
    })  # fmt: skip
    curves = {
        name.removeprefix("rewards/").removesuffix("/mean"): [
            {"step": step, "value": found[name]} for step, found in metrics.items() if name in found
        ]
        for name in (*CURVES[:1], *parts, *CURVES[1:])
    }
    rows = run.read_jsonl(ROLLOUTS)
    numbers = sorted({row["step"] for row in rows})
    chosen = (
        {numbers[round(i * (len(numbers) - 1) / (SHOWN - 1))] for i in range(SHOWN)} if numbers else set()
    )
    return {"rollouts": {"curves": curves, "answers": [row for row in rows if row["step"] in chosen]}}

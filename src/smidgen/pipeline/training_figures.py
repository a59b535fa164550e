"""The figures of a training that its progress shows: smoothed loss, validation loss, their gap, the best."""

from collections.abc import Mapping
from typing import Any

from smidgen.figures.step_axes import SMOOTHED_SHARE

REWARDED = {
    "reward": "reward",
    "reward_std": "spread",
    "frac_reward_zero_std": "flat groups",
    "kl": "KL",
    "clip_ratio": "clipped",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut off",
}
"""Figures of a training on rewards, and how they are called in the terminal."""


class TrainingFigures:
    """The latest figures of a training, from the rows of `metrics.jsonl` in order."""

    def __init__(self, num_steps: int, *, by_metric: bool = False) -> None:
        self._weight = 2 / (1 + max(1, num_steps // SMOOTHED_SHARE))
        self._key = "metric" if by_metric else "validation_loss"
        self._sign = -1 if by_metric else 1
        self._loss: float | None = None
        self._best: float | None = None

    def add(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Return the figures that a step changes; `loss` is an exponential mean over the last steps."""
        loss: float = row["loss"]
        smooth = loss if self._loss is None else self._loss + self._weight * (loss - self._loss)
        self._loss, shown = smooth, {"loss": smooth, **_rewarded(row.get("metrics", {}))}
        if (validation := row["validation_loss"]) is not None:
            shown |= {"validation": validation, "gap": validation - smooth}
        if (metric := row.get("metric")) is not None:
            shown["metric"] = metric
        value = row.get(self._key)
        if value is not None and (self._best is None or self._sign * value < self._best):
            self._best = self._sign * value
            shown["best step"] = row["step"]
        return shown


def _rewarded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a training on rewards shows besides; empty for other trainings."""
    parts = {
        name.removeprefix("rewards/").removesuffix("/mean").rpartition(":")[2]: value
        for name, value in metrics.items()
        if name.startswith("rewards/") and name.endswith("/mean")
    }
    return {shown: metrics[name] for name, shown in REWARDED.items() if name in metrics} | parts

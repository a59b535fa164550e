"""The training on rewards in the report: what was rewarded and how it went."""

from collections.abc import Mapping
from typing import Any

from smidgen.figures.formatting import finite, rows_at, table_at
from smidgen.figures.reward_curves import reward_curve

NAMES = {
    "reward": "Reward",
    "reward_std": "Spread of the reward (standard deviation)",
    "parsed": "Share of answers that can be read",
    "frac_reward_zero_std": "Share of groups without variance",
    "kl": "Divergence (nats per token)",
    "entropy": "Entropy (nats per token, estimated)",
    "clip_ratio": "Share of clipped tokens",
    "completions/mean_length": "Length of an answer (tokens)",
    "completions/clipped_ratio": "Share of answers cut off",
    "engine_gap": "Difference of log-probabilities in training and at sampling (nats)",
}
STILL = 1e-9
"""Curves that move less than this have nothing to show."""


def rollout_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the formatted content of the section."""
    found = table_at(report, "training", "rollouts")
    return {"reward_curves": _curves(table_at(found, "curves")), "rollouts": _answers(found)}


def _curves(curves: Mapping[str, Any]) -> list[dict[str, Any]]:
    figures, rewards = [], None
    for name in curves:
        pairs = [(finite(row.get("step")), finite(row.get("value"))) for row in rows_at(curves, name)]
        points = sorted((step, value) for step, value in pairs if step is not None and value is not None)
        values = [value for _, value in points]
        if not values or max(values) - min(values) < STILL or values == rewards:
            continue
        rewards = values if name == "reward" else rewards  # a part that is all of it is shown once
        title = NAMES.get(name, f"Part: {name}")
        svg = reward_curve(title, points, (points[0][0], points[-1][0]))
        if svg:
            figures.append({"name": title, "svg": svg, "last": f"{values[-1]:.4g}"})
    return figures


def _answers(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the best and the worst answers of some steps."""
    return [
        {
            "step": row.get("step"),
            "which": str(row.get("which")),
            "reward": f"{finite(row.get('reward')) or 0.0:.3g}",
            "parts": ", ".join(f"{name} {value:.3g}" for name, value in (row.get("parts") or {}).items()),
            "text": str(row.get("text")),
        }
        for row in rows_at(found, "answers")
    ]

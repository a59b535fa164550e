"""The trackers by name, and the names of what they get."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from smidgen.config.track_table import TrackerName
from smidgen.errors import ConfigError, WorkError
from smidgen.tracking.mlflow import MLflow
from smidgen.tracking.tensorboard import TensorBoard
from smidgen.tracking.tracked import TrackedRun, Tracker
from smidgen.tracking.weights_and_biases import WeightsAndBiases

PROJECT = "smidgen"
TRACKERS: Mapping[TrackerName, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_trackers(names: Iterable[TrackerName], asked: str = "track.to contains") -> None:
    """Check that trackers are installed, before any work is done.

    Args:
        names: the trackers.
        asked: how they were asked for, for the message.

    Raises:
        ConfigError: the package of one is missing.
    """
    for name in names:
        try:
            import_module(name)
        except ImportError:
            raise ConfigError(
                f"{asked} {name}, but the package {name} is not installed; install it with "
                f"`pip install 'smidgen[{name}]'`"
            ) from None


def step_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tracker gets of a line of `metrics.jsonl`: `train/loss`, `validation/loss` and so on."""
    found = {
        f"train/{name}": row[name]
        for name in ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "trained_tokens")
    }
    found["train/tokens_per_second"] = row["tokens"] / row["seconds"] if row["seconds"] else None
    found["validation/loss"] = row["validation_loss"]
    for name, value in row.get("metrics", {}).items():
        group, _, rest = name.partition("_")
        found[f"validation/{rest}" if group == "validation" else f"train/{name}"] = value
    return {name: float(value) for name, value in found.items() if value is not None}


def evaluation_values(evaluation: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return what a tracker gets of an evaluation: each metric and baseline with its interval."""
    baselines = {f"baseline_{name}": metric for name, metric in evaluation["baselines"].items()}
    return {
        prefix + (name if bound == "value" else f"{name}_{bound}"): metric[bound]
        for name, metric in (evaluation["metrics"] | baselines).items()
        for bound in ("value", "low", "high")
        if metric[bound] is not None
    }


def track(name: TrackerName, evaluation: Mapping[str, Any]) -> None:
    """Log one evaluation as a run of its own.

    Args:
        name: the tracker to log to.
        evaluation: the evaluation as JSON.

    Raises:
        WorkError: the tracker failed.
    """
    facts = {name: evaluation[name] for name in ("task", "version", "variant", "model", "data", "n")}
    run = TrackedRun(f"evaluate {facts['task']}", PROJECT, Path("."), facts, kind="evaluate")
    try:
        tracker = TRACKERS[name](run)
        tracker.summarise(evaluation_values(evaluation))
        tracker.close()
    except Exception as error:  # each tracker raises its own classes of errors
        raise WorkError(f"logging to {name} failed: {type(error).__name__}: {error}") from error

"""Logging of metrics to an experiment tracker: Weights & Biases or MLflow.

Both are optional dependencies with their own settings (`WANDB_MODE`, `MLFLOW_TRACKING_URI`).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from smidgen.errors import ConfigError, WorkError

Tracker = Literal["wandb", "mlflow"]
PROJECT = "smidgen"


def check_tracker(tracker: Tracker | None) -> None:
    """Check that a tracker is installed, before any work is done."""
    if tracker is not None:
        _client(tracker)


def track(tracker: Tracker, evaluation: Mapping[str, Any]) -> None:
    """Log one evaluation as one run: its parameters, and each metric with its interval.

    Args:
        tracker: the tracker to log to.
        evaluation: the evaluation as JSON.

    Raises:
        ConfigError: the tracker is not installed.
        WorkError: the tracker failed.
    """
    client = _client(tracker)
    facts = {name: evaluation[name] for name in ("task", "version", "variant", "model", "data", "n")}
    numbers = {
        name if bound == "value" else f"{name}_{bound}": metric[bound]
        for name, metric in (evaluation["metrics"] | _named("baseline", evaluation["baselines"])).items()
        for bound in ("value", "low", "high")
        if metric[bound] is not None
    }
    try:
        if tracker == "wandb":
            with client.init(project=PROJECT, job_type="evaluate", config=facts) as run:
                run.summary.update(numbers)
        else:
            client.set_experiment(PROJECT)
            with client.start_run():
                client.log_params(facts)
                client.log_metrics(numbers)
    except Exception as error:  # each tracker raises its own classes of errors
        raise WorkError(f"logging to {tracker} failed: {type(error).__name__}: {error}") from error


def _client(tracker: Tracker) -> Any:
    try:
        return import_module(tracker)
    except ImportError:
        raise ConfigError(
            f"--track {tracker} needs the package {tracker}; install it with `pip install {tracker}`"
        ) from None


def _named(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": metric for name, metric in metrics.items()}

"""Metrics for an experiment tracker that a team already has: Weights & Biases or MLflow.

Both are optional. Where they write is their own setting (`WANDB_MODE`, `MLFLOW_TRACKING_URI`).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from smidgen.errors import ConfigError, WorkError

Tracker = Literal["wandb", "mlflow"]
PROJECT = "smidgen"


def check_tracker(tracker: Tracker | None) -> None:
    """Refuse a tracker that is not installed, before any work is done."""
    if tracker is not None:
        _client(tracker)


def track(tracker: Tracker, evaluation: Mapping[str, Any]) -> None:
    """Log one evaluation as one run: what was evaluated, and each metric with its interval.

    Args:
        tracker: where to.
        evaluation: as JSON.

    Raises:
        ConfigError: the tracker is not installed.
        WorkError: it failed; the evaluation itself is not touched.
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
    except Exception as error:  # each tracker has a tree of errors of its own
        raise WorkError(f"{tracker} did not take the metrics: {type(error).__name__}: {error}") from error


def _client(tracker: Tracker) -> Any:
    try:
        return import_module(tracker)
    except ImportError:
        raise ConfigError(
            f"--track {tracker} needs the package {tracker}; install it with `pip install {tracker}`"
        ) from None


def _named(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": metric for name, metric in metrics.items()}

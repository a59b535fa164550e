"""MLflow: one run of an experiment, at the tracking server or database that MLflow is set to."""

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from smidgen.tracking.tracked import Logged, TrackedRun

MARKER = "train/loss"
"""A figure that every step has."""
MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000
"""Limits of one request, and of the characters of a parameter."""


class MLflow:
    """One run at MLflow."""

    def __init__(self, run: TrackedRun) -> None:
        client = import_module("mlflow").MlflowClient()
        self._entities: Any = import_module("mlflow.entities")
        self._client = client
        if run.id is not None:
            self.id = run.id
            client.update_run(self.id, status="RUNNING")
            self.step = max((point.step for point in client.get_metric_history(self.id, MARKER)), default=0)
            return
        experiment = client.get_experiment_by_name(run.project)
        number = experiment.experiment_id if experiment else client.create_experiment(run.project)
        self.id, self.step = client.create_run(number, run_name=run.name).info.run_id, 0
        params = [self._entities.Param(name, str(value)[:LONGEST_PARAM]) for name, value in _flat(run.config)]
        for start in range(0, len(params), MOST_PARAMS):
            client.log_batch(self.id, params=params[start : start + MOST_PARAMS])

    def log(self, rows: Sequence[Logged]) -> None:
        """Log the figures of further steps."""
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(name, value, now, row.step)
            for row in rows
            for name, value in row.values.items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self.id, metrics=metrics[start : start + MOST_METRICS])
        self.step = max([self.step, *(row.step for row in rows)])

    def summarise(self, values: Mapping[str, float]) -> None:
        """Log figures of the whole run as points of its last step."""
        self.log([Logged(self.step, values)])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self.id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested tables under names with dots."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

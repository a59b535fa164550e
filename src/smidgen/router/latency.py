"""How long decisions take: percentiles of the time to an outcome, with the cold start apart and included."""

import threading
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from smidgen.router.job import Outcome

KEPT = 100_000
"""Latest outcomes of a task of which percentiles are taken; counts are of all."""
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Latencies:
    """The outcomes of a router so far; thread-safe.

    Attributes:
        cold_start: seconds until the router was ready: the model loaded and the prefixes computed.
    """

    def __init__(self, cold_start: float = 0.0):
        self.cold_start = cold_start
        self._seconds: dict[str, deque[float]] = {}
        self._statuses: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def record(self, outcome: Outcome) -> None:
        """Count an outcome within the budget, unless it was decided without asking the model."""
        if outcome.status == "decided" and not outcome.attempts:
            return
        with self._lock:
            self._seconds.setdefault(outcome.task, deque(maxlen=KEPT)).append(outcome.seconds)
            self._statuses.setdefault(outcome.task, Counter())[outcome.status] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the counts and percentiles of every task and of all together.

        Deferred and failed questions count with the time until that was said. `with_cold_start` are the
        percentiles if the first question had waited for the start.
        """
        with self._lock:
            seconds = {task: list(values) for task, values in self._seconds.items()}
            statuses = {task: dict(counts) for task, counts in self._statuses.items()}
        every = [value for values in seconds.values() for value in values]
        including = [every[0] + self.cold_start, *every[1:]] if every else []
        return {
            "cold_start": self.cold_start,
            "tasks": {task: {**statuses[task], **percentiles(values)} for task, values in seconds.items()},
            "all": {
                **sum((Counter(counts) for counts in statuses.values()), Counter()),
                **percentiles(every),
                "with_cold_start": percentiles(including),
            },
        }


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return percentiles that were measured, not interpolated; empty for no values."""
    values = list(seconds)
    if not values:
        return {}
    found = np.quantile(values, list(SHARES.values()), method="inverted_cdf")
    return dict(zip(SHARES, found.tolist(), strict=True))

"""Confidence intervals (Wilson and cluster bootstrap) and paired tests.

The Wilson interval (1927) is used for rates of independent units. If units share a prompt, whole clusters are
resampled, since two answers to one prompt are not independent. Two models are compared on the same resamples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri

from smidgen.tasks.measures import Measure, Metric

RESAMPLES = 2000  # the bounds of a 95 % interval move by less than a tenth of its width from seed to seed
CONFIDENCE = 0.95

_MAX_DRAWS = 2_000_000  # clusters drawn per step of resampling, to bound memory

Estimator = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval; all values None if there were no units.

    Attributes:
        value: value of the metric.
        low: lower bound of the interval.
        high: upper bound of the interval.
        n: number of units.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return the four numbers as a JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class McNemar(NamedTuple):
    """The exact McNemar test of two models on the same units.

    Attributes:
        only_first: units on which the first model did better.
        only_second: units on which the second model did better.
        p_value: two-sided; 1.0 if the models never differ.
    """

    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, n: int) -> Measured:
    """Return a rate of independent trials with its Wilson interval."""
    if n == 0:
        return Measured(None, None, None, 0)
    rate, z = successes / n, float(ndtri(0.5 + 0.5 * CONFIDENCE))
    whole = 2 * (n + z**2)
    middle, reach = (2 * n * rate + z**2) / whole, z / whole * math.sqrt(4 * n * rate * (1 - rate) + z**2)
    low, high = 0.0 if successes == 0 else middle - reach, 1.0 if successes == n else middle + reach
    return Measured(rate, low, high, n)


def measure(metric: Metric, *, seed: int = 0) -> Measured:
    """Return a metric with its interval.

    The interval is Wilson's for a rate of independent units, otherwise a bootstrap over clusters. If all
    units agree, all resamples are equal, and Wilson's interval over the clusters is used instead. A single
    cluster has no interval.

    Args:
        metric: the values of units, or a statistic over them.
        seed: seed of the bootstrap.
    """
    if isinstance(metric, Measure) and metric.absolute:
        return _absolute(measure(replace(metric, absolute=False), seed=seed))
    n, clusters = len(metric.clusters), sorted(set(metric.clusters))
    if n == 0:
        return Measured(None, None, None, 0)
    if isinstance(metric, Measure) and _wilson_applies(metric, len(clusters)):
        interval = wilson(round(sum(metric.values) / n * len(clusters)), len(clusters))
        return Measured(interval.value, interval.low, interval.high, n)
    estimate = _estimator(metric, clusters)
    value = float(estimate(np.ones((1, len(clusters))))[0])
    replicates = _replicates([estimate], len(clusters), seed)[0]
    return _bootstrap_interval(value, replicates, len(clusters), n)


def paired_difference(first: Metric, second: Metric, *, seed: int = 0) -> Measured:
    """Return the difference of a metric between two models on the same clusters.

    Every resample draws the same clusters for both models, so that the difficulty of a row cancels out.

    Returns:
        first - second with its interval; `n` is the number of clusters.
    """
    clusters = sorted({*first.clusters, *second.clusters})
    if not first.clusters or not second.clusters:
        return Measured(None, None, None, 0)
    estimates = [_estimator(first, clusters), _estimator(second, clusters)]
    everything = np.ones((1, len(clusters)))
    value = float(estimates[0](everything)[0] - estimates[1](everything)[0])
    replicates = _replicates(estimates, len(clusters), seed)
    return _bootstrap_interval(value, replicates[0] - replicates[1], len(clusters), len(clusters))


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """Test whether two models differ on the same units.

    For scores of 0 and 1 this is McNemar's exact test, for sums of clusters the sign test.

    Args:
        first: score of each unit with the first model.
        second: score of the same units with the second model.
    """
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    # twice the tail of the smaller count, of heads of a fair coin
    p_value = min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0
    return McNemar(only_first, only_second, p_value)


def _absolute(signed: Measured) -> Measured:
    """Return the absolute value of a signed metric; an interval across zero gets the lower bound zero.

    The absolute value itself cannot be resampled: near zero, the resamples are almost never below the value.
    """
    value, low, high = signed.value, signed.low, signed.high
    if value is None or low is None or high is None:
        return replace(signed, value=None if value is None else abs(value))
    ends = sorted((abs(low), abs(high)))
    return Measured(abs(value), 0.0 if low <= 0 <= high else ends[0], ends[1], signed.n)


def _wilson_applies(metric: Measure, num_clusters: int) -> bool:
    """Whether the metric is a rate of independent units, or of units that all agree."""
    values = set(metric.values)
    return (
        not metric.signed
        and values <= {0.0, 1.0}
        and (len(metric.values) == num_clusters or len(values) == 1)
    )


def _estimator(metric: Metric, clusters: Sequence[str]) -> Estimator:
    """Return the metric as a function of the multiplicity of each cluster: (R, C) → (R,)."""
    position = {cluster: index for index, cluster in enumerate(clusters)}
    units = np.array([position[cluster] for cluster in metric.clusters])
    if isinstance(metric, Measure):
        sums = np.bincount(units, np.asarray(metric.values, dtype=np.float64), len(clusters))
        counts = np.bincount(units, minlength=len(clusters)).astype(np.float64)

        def ratio(multiplicities: NDArray[np.float64]) -> NDArray[np.float64]:
            totals = multiplicities @ counts
            means = np.divide(
                multiplicities @ sums, totals, out=np.full_like(totals, np.nan), where=totals > 0
            )
            return np.abs(means) if metric.absolute else means

        return ratio

    def statistic(multiplicities: NDArray[np.float64]) -> NDArray[np.float64]:
        # kept, since few clusters have few different resamples: six have 462
        value = cache(lambda row: metric.function(np.frombuffer(row)[units]))
        return np.array([value(row.tobytes()) for row in multiplicities])

    return statistic


def _replicates(estimates: Sequence[Estimator], num_clusters: int, seed: int) -> list[NDArray[np.float64]]:
    """Return the values of each estimator on the same `RESAMPLES` draws of clusters with replacement."""
    random = np.random.default_rng(seed)
    at_once = max(1, _MAX_DRAWS // num_clusters)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in estimates]
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = random.integers(0, num_clusters, size=(rows, num_clusters))
        # Each resample gets its own range of cluster numbers, so that one bincount counts all of them.
        drawn += np.arange(rows)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters)
        multiplicities = counts.reshape(rows, num_clusters).astype(np.float64)
        for part, estimate in zip(parts, estimates, strict=True):
            part.append(estimate(multiplicities))
    return [np.concatenate(part) for part in parts]


def _bootstrap_interval(value: float, replicates: NDArray[np.float64], num_clusters: int, n: int) -> Measured:
    """Return the bias-corrected percentile interval (Efron 1981) of the replicates.

    The macro F1 of resampled rows is biased downwards, since resampling loses rows of rare classes; a plain
    percentile interval would be too low by the same amount. Replicates that are not finite are dropped.
    """
    if not np.isfinite(value):
        return Measured(None, None, None, n)
    replicates = replicates[np.isfinite(replicates)]
    if num_clusters < 2 or not replicates.size:
        return Measured(value, None, None, n)
    below = (np.mean(replicates < value) + np.mean(replicates <= value)) / 2
    # Clipped, since ndtri is infinite at 0 and 1.
    bias = ndtri(np.clip(below, 1 / replicates.size, 1 - 1 / replicates.size))
    tail = ndtri((1 - CONFIDENCE) / 2)
    low, high = np.quantile(replicates, ndtr([2 * bias + tail, 2 * bias - tail]))
    return Measured(value, float(low), float(high), n)

"""Intervals: Wilson for a rate of independent units, a cluster bootstrap for the rest, and paired tests.

Wilson (1927) is used where every unit stands alone; where units share a prompt, whole clusters are resampled,
since two answers about one prompt are less than two pieces of evidence. Two models are compared on the same
resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from smidgen.tasks.task import Measure, Metric

RESAMPLES = 2000  # the bounds of a 95 % interval move by less than a tenth of its width from seed to seed
CONFIDENCE = 0.95

_DRAWS_AT_ONCE = 2_000_000

Estimator = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval; all None where there was nothing to measure.

    Attributes:
        value: the metric.
        low: lower bound.
        high: upper bound.
        n: how many units it was measured on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """The four numbers as a JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class McNemar(NamedTuple):
    """The exact McNemar test of two models on the same units.

    Attributes:
        only_first: units on which the first model did better.
        only_second: units on which the second model did better.
        p_value: two-sided; 1.0 where the models never differ.
    """

    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, n: int) -> Measured:
    """A rate of independent trials with its Wilson interval."""
    if n == 0:
        return Measured(None, None, None, 0)
    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Measured(successes / n, float(interval.low), float(interval.high), n)


def measure(metric: Metric, *, seed: int = 0) -> Measured:
    """A metric with its interval.

    Wilson for a rate of independent units, else a bootstrap over clusters. Where every unit agrees,
    resampling knows nothing of what was not seen, and Wilson over the clusters takes its place. One cluster
    has no interval.

    Args:
        metric: the values of units, or a statistic over them.
        seed: of the bootstrap.
    """
    if isinstance(metric, Measure) and metric.absolute:
        return _folded(measure(replace(metric, absolute=False), seed=seed))
    n, clusters = len(metric.clusters), sorted(set(metric.clusters))
    if n == 0:
        return Measured(None, None, None, 0)
    if isinstance(metric, Measure) and _wilson_applies(metric, len(clusters)):
        interval = wilson(round(sum(metric.values) / n * len(clusters)), len(clusters))
        return Measured(interval.value, interval.low, interval.high, n)
    estimate = _estimator(metric, clusters)
    value = float(estimate(np.ones((1, len(clusters))))[0])
    replicates = _replicates([estimate], len(clusters), seed)[0]
    return _measured(value, replicates, len(clusters), n)


def paired_difference(first: Metric, second: Metric, *, seed: int = 0) -> Measured:
    """By how much a metric of one model exceeds that of another on the same clusters.

    Every resample draws the same clusters for both, so what makes a row hard for both cancels out.

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
    return _measured(value, replicates[0] - replicates[1], len(clusters), len(clusters))


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """Do two models differ in which of the same units they get right?

    On zeros and ones this is McNemar's test in its exact form; on the sums of clusters, the sign test.

    Args:
        first: what each unit scored with the first model.
        second: what the same units scored with the second.
    """
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p_value)


def _folded(signed: Measured) -> Measured:
    """The absolute value of a signed metric: an interval across zero reaches down to zero.

    Resampling the absolute value itself would not do: near zero it is never below what was found.
    """
    value, low, high = signed.value, signed.low, signed.high
    if value is None or low is None or high is None:
        return replace(signed, value=None if value is None else abs(value))
    ends = sorted((abs(low), abs(high)))
    return Measured(abs(value), 0.0 if low <= 0 <= high else ends[0], ends[1], signed.n)


def _wilson_applies(metric: Measure, num_clusters: int) -> bool:
    """Whether the metric is a rate of units that stand alone, or that all agree."""
    values = set(metric.values)
    return values <= {0.0, 1.0} and (len(metric.values) == num_clusters or len(values) == 1)


def _estimator(metric: Metric, clusters: Sequence[str]) -> Estimator:
    """The metric as a function of how often each cluster counts: (R, C) → (R,)."""
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
    return lambda multiplicities: np.array([metric.function(row[units]) for row in multiplicities])


def _replicates(estimates: Sequence[Estimator], num_clusters: int, seed: int) -> list[NDArray[np.float64]]:
    """The value of each estimator on the same `RESAMPLES` draws of clusters with replacement."""
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // num_clusters)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in estimates]
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = random.integers(0, num_clusters, size=(rows, num_clusters))
        drawn += np.arange(rows)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters)
        multiplicities = counts.reshape(rows, num_clusters).astype(np.float64)
        for part, estimate in zip(parts, estimates, strict=True):
            part.append(estimate(multiplicities))
    return [np.concatenate(part) for part in parts]


def _measured(value: float, replicates: NDArray[np.float64], num_clusters: int, n: int) -> Measured:
    """The bias-corrected percentile interval (Efron 1981) of the replicates.

    A macro F1 of resampled rows is lower than that of the rows, since resampling loses rows of rare classes;
    a plain percentile interval would hang too low by as much. Resamples without a value are left out.
    """
    if not np.isfinite(value):
        return Measured(None, None, None, n)
    replicates = replicates[np.isfinite(replicates)]
    if num_clusters < 2 or not replicates.size:
        return Measured(value, None, None, n)
    below = (np.mean(replicates < value) + np.mean(replicates <= value)) / 2
    bias = ndtri(np.clip(below, 1 / replicates.size, 1 - 1 / replicates.size))
    tail = ndtri((1 - CONFIDENCE) / 2)
    low, high = np.quantile(replicates, ndtr([2 * bias + tail, 2 * bias - tail]))
    return Measured(value, float(low), float(high), n)

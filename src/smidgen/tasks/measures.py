"""Metrics of evaluation records, from whose units their intervals are computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measure:
    """A metric that is the mean of one value per unit.

    Attributes:
        values: one number per unit, 0 or 1 if the metric is a rate.
        clusters: the cluster of each unit, such as its prompt; units of one cluster are not independent.
        absolute: whether the metric is the absolute value of the mean.
        signed: whether the values are differences, so that 0 and 1 among them are no rate.
    """

    values: Sequence[float]
    clusters: Sequence[str]
    absolute: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.clusters), (len(self.values), len(self.clusters))


@dataclass(frozen=True)
class Statistic:
    """A metric that is not a mean, such as a macro F1.

    Attributes:
        function: weights (units,) float64 → the metric, where a unit of weight k counts as k equal units;
            NaN if the metric is undefined.
        clusters: as in `Measure`, one per unit.
    """

    function: Callable[[NDArray[np.float64]], float]
    clusters: Sequence[str]


Metric = Measure | Statistic

"""Sums over the batches of a step or of a validation, in one process or in several."""

from collections.abc import Mapping
from typing import Any

from smidgen.backend import mx
from smidgen.training.objectives import Mean
from smidgen.training.process_group import ProcessGroup


class Sums:
    """The sum of the losses, those of the metrics, and the divisors of metrics that are means of parts."""

    def __init__(self) -> None:
        self.loss = 0.0
        self._totals: dict[str, float] = {}
        self._divisors: dict[str, float] = {}

    def add(self, loss: float, metrics: Mapping[str, mx.array | Mean]) -> None:
        """Add the loss and the metrics of a batch."""
        totals = {name: value.total if isinstance(value, Mean) else value for name, value in metrics.items()}
        divisors = {name: value.weight for name, value in metrics.items() if isinstance(value, Mean)}
        self._add(loss, totals, divisors)

    def over(self, group: ProcessGroup, *, counts: bool) -> "Sums":
        """Return the sums of all processes; those of this one count only if it was not idle."""
        if group.size == 1:
            return self
        whole = Sums()
        for part in group.told_by_all([self.loss, self._totals, self._divisors] if counts else None):
            if part is not None:
                whole._add(*part)
        return whole

    def means(self, weight: float) -> dict[str, float]:
        """Return the means of the metrics; `weight` is the divisor of those without one of their own."""
        return {name: total / self._divisors.get(name, weight) for name, total in self._totals.items()}

    def _add(self, loss: float, totals: Mapping[str, Any], divisors: Mapping[str, Any]) -> None:
        self.loss += loss
        for kept, more in ((self._totals, totals), (self._divisors, divisors)):
            for name, value in more.items():
                kept[name] = kept.get(name, 0.0) + float(value)

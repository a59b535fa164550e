"""What a task is: prompt → parse → score, and what its scores add up to.

A task never sees an engine. The same prompt, parser and metrics are therefore used on live weights, on an
exported artefact and on a recording, and training can take `score` as a reward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from smidgen.data.types import Completion, Record, Sample, Score


@dataclass(frozen=True)
class Measure:
    """A metric that is the mean of one value per unit.

    Attributes:
        values: one number per unit, 0 or 1 where the metric is a rate.
        clusters: for each unit, what it shares with others (a prompt); units of one cluster are not
            independent.
        absolute: whether the metric is the absolute value of the mean.
    """

    values: Sequence[float]
    clusters: Sequence[str]
    absolute: bool = False

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.clusters), (len(self.values), len(self.clusters))


@dataclass(frozen=True)
class Statistic:
    """A metric that is not a mean, such as a macro F1.

    Attributes:
        function: weights (units,) float64 → the metric, where a unit of weight k counts as k equal units;
            NaN where the metric is undefined.
        clusters: as in `Measure`, one for each unit.
    """

    function: Callable[[NDArray[np.float64]], float]
    clusters: Sequence[str]


Metric = Measure | Statistic


class Task(Protocol):
    """The seam between evaluation, training and what is asked of a model."""

    name: str
    """Its key in `TASKS`."""
    version: int
    """Goes up when the prompt, the parser or a metric changes: records of two versions are not mixed."""
    variant: str
    """What else decides prompt and parser, such as a template; empty where nothing does."""
    stop: tuple[str, ...]
    """Strings that end a completion and are cut off; empty where the end token does."""
    stop_after: tuple[str, ...]
    """Strings that end a completion and belong to it."""

    def prepare(self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows") -> Self:
        """The task, knowing what only rows can tell it, such as its labels; give it every row there is."""
        ...

    def samples(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        source: str = "rows",
        rejected: list[str] | None = None,
    ) -> list[Sample]:
        """What a model is asked.

        Args:
            rows: as `read_rows` gives them.
            source: names the rows in errors.
            rejected: takes what is wrong with each bad row; None refuses them all.
        """
        ...

    def training_samples(
        self, rows: Sequence[Mapping[str, Any]], *, source: str = "rows", seed: int = 0
    ) -> list[Sample]:
        """The same with targets."""
        ...

    def parse(self, text: str) -> Any:
        """The answer in a completion's text; raises `ParseError`."""
        ...

    def score(self, sample: Sample, completion: Completion) -> Score:
        """What a completion is worth; never raises `ParseError`."""
        ...

    def measures(self, records: Sequence[Record]) -> dict[str, Metric]:
        """The metrics by name, the most important first."""
        ...

    def baselines(self, samples: Sequence[Sample]) -> dict[str, Metric]:
        """The accuracy of judgement-free strategies on the same samples."""
        ...

    def details(self, records: Sequence[Record]) -> dict[str, Any]:
        """Counts that explain the metrics; JSON-serialisable."""
        ...

"""The interface of a task whose prompts show texts that may be manipulated, such as answers."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Protocol

from smidgen.data.types import Record, Sample
from smidgen.tasks.measures import Metric


class Attacks(Protocol):
    """Manipulations of a task's samples, and what they do to a model's answers."""

    trained_on: tuple[str, ...]
    """The families of manipulations that are in the training; the others are held out."""

    def samples(
        self, rows: Sequence[Mapping[str, Any]], number: int, *, source: str = "rows", seed: int = 0
    ) -> list[Sample]:
        """Samples of at most `number` items of the rows, manipulated; their ids differ from the task's own.

        Raises:
            ConfigError: the task's settings leave nothing to manipulate.
            DataError: the rows do.
        """
        ...

    def facts(self, records: Sequence[Record], attacked: Sequence[Record]) -> Mapping[str, Any]:
        """Facts for a report, metrics among them, from the records of the samples and of the attacked."""
        ...

    def can_flip(self, records: Sequence[Record]) -> set[Hashable]:
        """Names of the answers that are right without any attack."""
        ...

    def measures(
        self,
        records: Sequence[Record],
        attacked: Sequence[Record],
        trained_on: Sequence[str],
        among: Collection[Hashable],
    ) -> Mapping[str, Metric]:
        """The metrics in which two models are compared.

        Args:
            records: those of the samples.
            attacked: those of the attacked samples.
            trained_on: families that either model is trained on.
            among: the answers that flips are counted in: those that both models have right.
        """
        ...

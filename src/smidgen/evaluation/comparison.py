"""Paired comparison of two models on the same rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smidgen.data.types import Record
from smidgen.errors import DataError
from smidgen.evaluation.metrics import (
    McNemar,
    Measured,
    mcnemar,
    measure,
    paired_difference,
)
from smidgen.tasks.measures import Measure, Metric
from smidgen.tasks.task import Task


@dataclass(frozen=True)
class Comparison:
    """One metric of two models, compared.

    Attributes:
        first: the metric of the first model.
        second: the metric of the second model.
        difference: first - second with its paired interval; `n` is the number of clusters.
        test: McNemar's test over clusters; None if the models were not measured on the same units, or the
            metric is not a mean.
    """

    first: Measured
    second: Measured
    difference: Measured
    test: McNemar | None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            "difference": self.difference.to_json(),
            "n": self.difference.n,
            "only_first": self.test.only_first if self.test else None,
            "only_second": self.test.only_second if self.test else None,
            "p_value": self.test.p_value if self.test else None,
        }


def compare(
    task: Task,
    first: Sequence[Record],
    second: Sequence[Record],
    *,
    other: Task | None = None,
    same_prompts: bool = True,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two evaluations in every metric that both have, such as a trained model and its base.

    Args:
        task: the task of both evaluations.
        first: records of the first model.
        second: records of the second model, in any order.
        other: the task of the second evaluation, if it used another template.
        same_prompts: whether equal prompts are required, unless the template is another.
        seed: seed of the bootstrap.

    Raises:
        DataError: the evaluations have different samples.
    """
    by_id = {record.sample.id: record for record in second}
    same_template = other is None or other.variant == task.variant
    check_same_rows(first, second, same_words=same_prompts and same_template)
    others = (other or task).measures([by_id[record.sample.id] for record in first])
    return compare_metrics(task.measures(first), others, seed=seed)


def compare_resistance(
    tasks: tuple[Task, Task],
    first: tuple[Sequence[Record], Sequence[Record]],
    second: tuple[Sequence[Record], Sequence[Record]],
    *,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two models under the same attacks; none if a task has no attacks.

    Flips are counted among the answers that both have right without attacks, so that a model that knows more
    is not compared on answers that the other cannot lose.

    Args:
        tasks: of the two evaluations, with the same prompts. Families that either is trained on are not
            held out.
        first: records of the samples and of the attacked ones of the first model.
        second: those of the second model.
        seed: seed of the bootstrap.

    Raises:
        DataError: the evaluations have different samples or prompts.
    """
    attacks = [task.attacks for task in tasks if task.attacks is not None]
    if len(attacks) < 2:
        return {}
    check_same_rows(first[1], second[1], same_words=True)
    by_id = {record.sample.id: record for record in second[1]}
    second = second[0], [by_id[record.sample.id] for record in first[1]]
    trained_on = tuple(dict.fromkeys(family for one in attacks for family in one.trained_on))
    both = list(zip(attacks, (first, second), strict=True))
    among = set.intersection(*(one.can_flip(plain) for one, (plain, _) in both))
    measures = [one.measures(*found, trained_on, among) for one, found in both]
    return compare_metrics(*measures, seed=seed)


def compare_metrics(
    first: Mapping[str, Metric], second: Mapping[str, Metric], *, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two models in every metric that both have, measured on the same rows."""
    return {
        name: Comparison(
            measure(metric, seed=seed),
            measure(second[name], seed=seed),
            paired_difference(metric, second[name], seed=seed),
            _test(metric, second[name]),
        )
        for name, metric in first.items()
        if name in second
    }


def check_same_rows(first: Sequence[Record], second: Sequence[Record], *, same_words: bool) -> None:
    """Refuse records that cannot be paired.

    Raises:
        DataError: the samples, their labels, or with `same_words` their prompts differ.
    """
    ids, by_id = {record.sample.id for record in first}, {record.sample.id: record for record in second}
    if ids != set(by_id):
        odd = min(ids ^ set(by_id))
        raise DataError(
            f"the two evaluations answered different rows ({len(ids)} and {len(by_id)}, and only the "
            f"{'first' if odd in ids else 'second'} has '{odd}'); compare runs on the same data"
        )
    for record in first:
        sample, other = record.sample, by_id[record.sample.id].sample
        if (sample.metadata, sample.target) != (other.metadata, other.target):
            raise DataError(
                f"the two evaluations have different labels or answers for '{sample.id}'; "
                "compare runs on the same data"
            )
        if same_words and sample.messages != other.messages:
            raise DataError(
                f"the two evaluations have different prompts for '{record.sample.id}'; "
                "compare runs of the same task version on the same data"
            )


def _test(first: Metric, second: Metric) -> McNemar | None:
    """Return the paired test over clusters, if both models were measured on the same units."""
    if not (isinstance(first, Measure) and isinstance(second, Measure)):
        return None
    if Counter(first.clusters) != Counter(second.clusters):
        return None
    sums, others = _cluster_sums(first), _cluster_sums(second)
    return mcnemar(list(sums.values()), [others[cluster] for cluster in sums])


def _cluster_sums(metric: Measure) -> dict[str, float]:
    sums: dict[str, float] = {}
    for value, cluster in zip(metric.values, metric.clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return sums

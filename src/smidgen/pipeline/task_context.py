"""One task of a recipe with its rows and samples."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from smidgen.config import TaskConfig
from smidgen.data.types import Sample
from smidgen.errors import DataError, counted
from smidgen.pipeline.sources import (
    all_rows,
    named_by,
    refuse_shared_rows,
    source_hash,
    test_rows,
    training_rows,
)
from smidgen.tasks import Task, find_task
from smidgen.tasks.task import Row


@dataclass(frozen=True)
class TaskContext:
    """One task of a recipe with its rows.

    Attributes:
        config: the task's table of the recipe; its name is empty if the recipe has one task.
        targets: whether training needs written answers in the rows: not if it samples its own, and those of a
            teacher replace them.
    """

    config: TaskConfig
    targets: Literal["needed", "if given", "unused"] = "needed"

    @property
    def name(self) -> str:
        """The task's name in the recipe; empty if it is the only one."""
        return self.config.name

    def named(self, stage: str) -> str:
        """Return the name of a stage for this task."""
        return f"{stage}-{self.name}" if self.name else stage

    @cached_property
    def blank(self) -> Task:
        """The task before `prepare`, without knowledge of any rows."""
        return find_task(self.config.task, self.config.settings, source="[settings]")

    @cached_property
    def task(self) -> Task:
        """The task, prepared with all rows, so that it knows their labels, and with the training rows."""
        prepared = self.blank
        for path in self.paths:
            prepared = prepared.prepare(all_rows(path), source=path)
        return prepared.learn(self.train_rows, source=self.config.data.trained_on)

    @property
    def paths(self) -> list[str]:
        """The files of training and test rows, or `world`, each once."""
        data = self.config.data
        return list(dict.fromkeys((*(source.path for source in data.all_sources), data.test)))

    @cached_property
    def sources(self) -> dict[str, list[Row]]:
        """Training rows of each source, validation rows included; a single source has no name."""
        data = self.config.data
        found = {source.name: training_rows(self.blank, data, source) for source in data.all_sources}
        if len(found) > 1:
            return {name: named_by(name, rows) for name, rows in found.items()}
        (alone,) = found.values()
        return {"": alone}

    @property
    def train_rows(self) -> list[Row]:
        """Training rows of all sources, validation rows included."""
        return [row for rows in self.sources.values() for row in rows]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of each source in the training rows; empty unless there are several."""
        weights = {source.name: source.weight for source in self.config.data.all_sources}
        whole = sum(weights.values())
        return {name: weight / whole for name, weight in weights.items()} if len(weights) > 1 else {}

    @cached_property
    def test_rows(self) -> list[Row]:
        """Held-out rows."""
        data = self.config.data
        return test_rows(
            self.blank, data.test, splits=data.test_splits, limit=data.test_limit, seed=data.seed
        )

    @cached_property
    def test_samples(self) -> list[Sample]:
        """The samples of every evaluation."""
        return self.task.samples(self.test_rows, source=self.config.data.test)

    @cached_property
    def split_rows(self) -> dict[str, tuple[list[Row], list[Row]]]:
        """Training and validation rows of each source, in random order."""
        data, paths, found = self.config.data, self._source_paths, {}
        for name, all_of_it in self.sources.items():
            if len(all_of_it) < 2:
                raise DataError(
                    f"{paths[name]} has {counted(len(all_of_it), 'training row')}; expected at least 2, one "
                    "of them for validation"
                )
            rows = random.Random(f"validation/{data.seed}").sample(all_of_it, len(all_of_it))
            num_validation = min(data.validation_limit, max(1, round(len(rows) * data.validation_fraction)))
            found[name] = rows[num_validation:], rows[:num_validation]
        return found

    @cached_property
    def split_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Training and validation samples, split by row so that both orders of a pair stay together."""
        training, validation = (
            self.samples_of({name: parts[side] for name, parts in self.split_rows.items()}) for side in (0, 1)
        )
        return training, validation

    @cached_property
    def training_samples(self) -> list[Sample]:
        """The samples of all training rows with the targets of the rows, in the order of the rows."""
        return self.samples_of(self.sources)

    def samples_of(self, rows: Mapping[str, Sequence[Row]]) -> list[Sample]:
        """Return the samples of some rows of each source, which need not have the same format."""
        seed, paths = self.config.data.seed, self._source_paths

        def read(name: str, own: Sequence[Row]) -> list[Sample]:
            if self.targets != "unused":
                try:
                    return self.task.training_samples(own, source=paths[name], seed=seed)
                except DataError:
                    if self.targets == "needed":
                        raise
            return self.task.training_prompts(own, source=paths[name], seed=seed)

        return [_of_source(name, sample) for name, own in rows.items() for sample in read(name, own)]

    def validation_part(self, most: int) -> list[Sample]:
        """Return samples without targets of the first validation rows, of each source by its share."""
        rows = {name: validation for name, (_, validation) in self.split_rows.items()}
        places = sorted(
            ((index + 0.5) / self.shares.get(name, 1.0), name)
            for name, own in rows.items()
            for index in range(len(own))
        )
        counts = Counter(name for _, name in places[:most])
        return [
            _of_source(name, sample)
            for name, own in rows.items()
            if counts[name]
            for sample in self.task.samples(own[: counts[name]], source=self._source_paths[name])
        ]

    @property
    def _source_paths(self) -> dict[str, str]:
        """Where the rows of each source are from."""
        sources = self.config.data.all_sources
        return {name: source.path for name, source in zip(self.sources, sources, strict=True)}

    def check(self) -> None:
        """Read every row and refuse any that a later stage could not use."""
        _ = self.split_samples, self.test_samples
        refuse_shared_rows(self.config.data)

    def source_hashes(self) -> dict[str, str]:
        """Return the hash of each data file; generated rows are identified by their seed and the version."""
        sources = {*self.paths, *self.blank.files}
        return {source: source_hash(source) for source in sorted(sources)}


def _of_source(name: str, sample: Sample) -> Sample:
    """Return a sample of a source, whose name its id begins with, also if its format has another id."""
    is_named = not name or sample.id.startswith(f"{name}/")
    return replace(sample, id=sample.id if is_named else f"{name}/{sample.id}", source=name)

"""Shared state of the stages of one run: recipe, run folder, and the rows and samples of its tasks."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from smidgen.config import (
    AnyRecipe,
    AskedModelConfig,
    AskedTeacherConfig,
    DistillConfig,
    FinetuneConfig,
    GrpoConfig,
    LoraConfig,
    PretrainConfig,
    Prices,
    Recipe,
    SftConfig,
    TaskConfig,
    TeacherConfig,
)
from smidgen.data.types import Message, Preference, Sample, Sampling
from smidgen.errors import DataError, counted
from smidgen.files import read_jsonl
from smidgen.options import EngineOptions
from smidgen.pipeline.sources import (
    all_rows,
    named_by,
    refuse_shared_rows,
    source_hash,
    test_rows,
    training_rows,
)
from smidgen.runs import Run
from smidgen.tasks import Task, find_task
from smidgen.tasks.task import Row
from smidgen.training.process_group import ALONE, ProcessGroup

KEPT = Path("distilled/kept.jsonl")
"""The kept answers of a teacher, as training and validation samples; the folder has the name of the task."""


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
            return self.task.samples(own, source=paths[name])

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


@dataclass(frozen=True)
class RunContext:
    """One recipe in its run folder."""

    recipe: AnyRecipe
    run: Run
    prices: Prices = field(default_factory=Prices)
    train_share: float = 1.0
    """Share of the training steps after which the training pauses; the next run goes on from there."""
    from_checkpoint: bool = False
    """Whether an unfinished training goes on from its checkpoint although its learning rate has changed."""
    group: ProcessGroup = ALONE
    """The processes of the training."""

    @cached_property
    def tasks(self) -> tuple[TaskContext, ...]:
        """The recipe's tasks; empty for pretraining."""
        train = self.recipe.train
        own = "unused" if isinstance(train, GrpoConfig) else "needed"
        targets = "if given" if isinstance(train, DistillConfig) else own
        return tuple(TaskContext(config, targets) for config in self.recipe.all_tasks)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each source in the training rows; empty unless several are mixed."""
        return self.tasks[0].shares if len(self.tasks) == 1 else {}

    @property
    def specialist(self) -> Recipe:
        """The recipe of a specialist, which has a base model and evaluations."""
        assert isinstance(self.recipe, Recipe)
        return self.recipe

    @property
    def lora(self) -> LoraConfig | None:
        """Adapter settings; None if every weight is trained."""
        return self.recipe.train.lora if isinstance(self.recipe.train, FinetuneConfig) else None

    @property
    def logit_teacher(self) -> TeacherConfig | None:
        """The teacher whose probabilities are learnt; None if only the text is."""
        settings = self.recipe.train
        return settings.teacher if isinstance(settings, SftConfig | PretrainConfig) else None

    @property
    def sampling(self) -> Sampling:
        """Sampling settings of every evaluation."""
        settings = self.specialist.evaluate
        return Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, seed=settings.seed)

    @property
    def teacher(self) -> AskedTeacherConfig:
        """The teacher of a distillation."""
        assert self.recipe.teacher is not None
        return self.recipe.teacher

    @property
    def teacher_engine(self) -> EngineOptions:
        """Engine options of the teacher."""
        return asked_engine(self.teacher)

    @property
    def best(self) -> Path:
        """Folder of the trained adapter or model."""
        return self.run.path("best")

    @property
    def awaits_answers(self) -> bool:
        """Whether the rows have no answers to train on before the teacher has given them."""
        return self.recipe.teacher is not None and any(one.target is None for one in self.training_samples)

    @property
    def training_samples(self) -> list[Sample]:
        """The training samples of all tasks: with the targets of the rows, or the kept answers of a teacher.

        Before a teacher has answered, as in a plan, they have the targets of the rows.
        """
        return self._trained_on("train", 0)

    @property
    def validation_samples(self) -> list[Sample]:
        """The validation samples of all tasks."""
        return self._trained_on("validation", 1)

    def _trained_on(self, split: str, side: int) -> list[Sample]:
        found: list[Sample] = []
        for task in self.tasks:
            kept = self.run.path(f"{task.named(KEPT.parent.name)}/{KEPT.name}")
            if self.recipe.teacher is not None and kept.exists():
                found += (_sample(row) for row in read_jsonl(kept) if row["split"] == split)
            else:
                found += task.split_samples[side]
        return found

    @property
    def preferences(self) -> tuple[list[Preference], list[Preference]]:
        """The training and validation samples of all tasks, each with an answer that is worse.

        Raises:
            ConfigError: a task has no worse answers.
        """
        training, validation = (
            [task.task.preference(sample) for task in self.tasks for sample in task.split_samples[part]]
            for part in (0, 1)
        )
        return training, validation

    def engine(self, model: str, *, adapter: Path | None = None, kind: str = "auto") -> EngineOptions:
        """Return the engine options for a model of this run."""
        evaluate = self.specialist.evaluate
        drafted = kind != "llama"  # which gives one token a pass
        return EngineOptions(
            model=model,
            adapter=adapter,
            engine=kind,  # type: ignore[arg-type]
            thinking=self.specialist.model.thinking,
            batch_size=evaluate.batch_size,
            decode=evaluate.decode if drafted else "ar",
            draft_model=evaluate.draft_model if drafted else None,
        )

    @property
    def base_engine(self) -> EngineOptions:
        """Engine options of the model before the training: the base, with the adapter that it starts from."""
        start = self.lora and self.lora.start
        adapter = Path(start).expanduser() if start else None
        return self.engine(self.specialist.model.base, adapter=adapter)

    @property
    def trained(self) -> tuple[str, Path | None]:
        """The trained model: the base and the trained adapter, or a full model and None."""
        if self.lora is not None:
            return self.specialist.model.base, self.best
        return str(self.best), None

    @property
    def trained_engine(self) -> EngineOptions:
        """Engine options of the trained model."""
        model, adapter = self.trained
        return self.engine(model, adapter=adapter)


def _of_source(name: str, sample: Sample) -> Sample:
    """Return a sample of a source, whose name its id begins with, also if its format has another id."""
    is_named = not name or sample.id.startswith(f"{name}/")
    return replace(sample, id=sample.id if is_named else f"{name}/{sample.id}", source=name)


def _sample(row: Mapping[str, Any]) -> Sample:
    """Read a sample that was written as JSON."""
    messages = tuple(Message(**message) for message in row["messages"])
    return Sample(row["id"], messages, row["target"], row["metadata"])


def asked_engine(asked: AskedModelConfig) -> EngineOptions:
    """Return the engine options of a model that a recipe asks."""
    return EngineOptions(
        model=asked.model,
        engine=asked.engine,
        model_name=asked.model_name,
        api_key_env=asked.api_key_env,
        timeout=asked.timeout,
        adapter=None if asked.adapter is None else Path(asked.adapter).expanduser(),
        batch_size=asked.batch_size,
    )

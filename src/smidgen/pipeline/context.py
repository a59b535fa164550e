"""Shared state of the stages of one run: recipe, run folder, and the rows and samples of its tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
    TeacherConfig,
)
from smidgen.data.types import Message, Preference, Sample, Sampling
from smidgen.files import read_jsonl
from smidgen.options import EngineOptions, Workers
from smidgen.pipeline.task_context import TaskContext
from smidgen.runs import Run
from smidgen.training.process_group import ALONE, ProcessGroup

KEPT = Path("distilled/kept.jsonl")
"""The kept answers of a teacher, as training and validation samples; the folder has the name of the task."""


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
    workers: Workers | None = None
    """Workers that share the requests to the teacher; one engine in this process if None."""

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
        return replace(asked_engine(self.teacher), workers=self.workers)

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

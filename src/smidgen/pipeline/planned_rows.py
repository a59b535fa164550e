"""The rows of a recipe, their batches and the prompts, read once for the forecasts of all its changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from smidgen.config import GrpoConfig
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Sample
from smidgen.errors import DataError
from smidgen.inference.prefixes import common_prefix
from smidgen.models.budget import Batch
from smidgen.pipeline.asking import Asked, Asking, asked_samples
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.training_rows import (
    Parts,
    RowSettings,
    rows_of,
    samples_of,
    shuffled,
)
from smidgen.training.batches import TrainBatch, all_steps
from smidgen.training.jacobi import BlockBatch
from smidgen.training.objectives.preference import PairBatch
from smidgen.training.training_plan import TrainingPlan, plan_training

ASSUMED_PROMPT = 512
"""Tokens of an evaluation's prompt, and of each worked example before it, if the rows cannot be read."""


class Prompts(NamedTuple):
    """The prompts of an evaluation, counted by the tokenizer of the base.

    Attributes:
        number: number of prompts.
        longest: tokens of the longest.
        tokens: tokens of all; None if the rows cannot be read.
        shared: tokens of the beginning that all share.
        answer: mean tokens of a right answer, its end token included; None if the rows have none.
        given: tokens of the longest answer that is given and scored; 0 if answers are generated.
    """

    number: int
    longest: int
    tokens: int | None = None
    shared: int = 0
    answer: float | None = None
    given: int = 0


@dataclass
class PlannedRows:
    """What the budgets of changed recipes share, since neither the base nor the data are changed.

    Attributes:
        folder: folder of the base.
        samples: training and validation samples, or why they cannot be read.
        rows: training and validation rows by the settings that they depend on, or why they cannot be
            trained on.
        drawn: figures of all steps and the different batches, by the settings that they depend on.
        asked: prompts, by task, number of worked examples and number of attacked items.
    """

    folder: Path | None = None
    samples: Parts | DataError | None = None
    rows: dict[tuple[Any, ...], Parts | DataError] = field(default_factory=dict)
    drawn: dict[tuple[Any, ...], tuple[TrainingPlan, set[Batch]]] = field(default_factory=dict)
    asked: dict[tuple[str, int, int | None], Prompts] = field(default_factory=dict)

    def samples_of(self, context: RunContext) -> Parts | DataError:
        """Return the training and validation samples, or why they cannot be read."""
        if self.samples is None:
            try:
                self.samples = samples_of(context)
            except DataError as error:
                self.samples = error
        return self.samples

    def rows_of(self, context: RunContext, samples: Parts, folder: Path) -> Parts:
        """Return the training and validation rows or pairs of rows, cut to `max_length`.

        Raises:
            DataError: a sample cannot be trained on.
        """
        settings = context.recipe.train
        assert isinstance(settings, RowSettings)
        key = _cut(settings)
        if key not in self.rows:
            tokenizer, thinking = load_tokenizer(folder), context.specialist.model.thinking
            try:
                training, validation = rows_of(samples, tokenizer, settings, thinking=thinking)
                self.rows[key] = training.rows, validation.rows
            except DataError as error:
                self.rows[key] = error
        rows = self.rows[key]
        if isinstance(rows, DataError):
            raise rows
        return rows

    def answers_of_prompt(self, context: RunContext) -> int:
        """Return the fewest answers to one prompt in a step, whose groups may have several prompts."""
        settings = context.recipe.train
        assert isinstance(settings, GrpoConfig)
        groups = [next(iter(task.task.reward_groups(task.split_samples[0]))) for task in context.tasks]
        return settings.num_generations // max(map(len, groups))

    def prompt_lengths(self, context: RunContext, samples: Parts, folder: Path) -> list[int]:
        """Return the number of tokens of each training prompt."""
        tokenizer, thinking = load_tokenizer(folder), context.specialist.model.thinking
        return [len(tokenizer.render_prompt(one.messages, thinking=thinking)) for one in samples[0]]

    def drawn_of(
        self, context: RunContext, settings: RowSettings, rows: Sequence[Any], capacity: int | None
    ) -> tuple[TrainingPlan, set[Batch]]:
        """Draw all batches; return the figures of all steps, and the different batches."""
        size = settings.batch_size, settings.gradient_accumulation, capacity
        drawing = *_cut(settings), *size, settings.epochs, settings.seed
        if drawing not in self.drawn:
            source, different = shuffled(rows, settings, capacity, context.shares), set[Batch]()

            def noted() -> Iterator[TrainBatch | PairBatch | BlockBatch]:
                for batch in all_steps(source):
                    different.add(_batch(batch))
                    yield batch

            self.drawn[drawing] = plan_training(rows, source, noted()), different
        return self.drawn[drawing]

    def prompts_of(self, context: RunContext, task: TaskContext, asking: Asking, folder: Path) -> Prompts:
        """Return the prompts of an evaluation, each after its worked examples, and the attacked ones."""
        key = task.name, asking.examples, asking.attacked
        if key not in self.asked:
            try:
                plain = Asking(examples=asking.examples, attacked=asking.attacked)
                asked = asked_samples(context, task, plain)
                found = [*asked.samples, *asked.attacked] if isinstance(asked, Asked) else None
                samples = found or task.test_samples
                self.asked[key] = _prompts(samples, task, load_tokenizer(folder))
            except DataError:
                longest = ASSUMED_PROMPT * (1 + asking.examples)
                self.asked[key] = Prompts(context.specialist.evaluate.batch_size, longest)
        return self.asked[key]


def _prompts(samples: Sequence[Sample], task: TaskContext, tokenizer: Tokenizer) -> Prompts:
    rendered = [tokenizer.render_prompt(sample.messages) for sample in samples]
    # the rows of an evaluation may have labels without a text that would be the answer
    answered = [sample.target for sample in samples if sample.target is not None] or [
        sample.target for sample in task.training_samples if sample.target is not None
    ]
    return Prompts(
        len(rendered),
        max(map(len, rendered)),
        sum(map(len, rendered)),
        len(common_prefix(min(rendered), max(rendered))),
        fmean(1 + len(tokenizer.encode(target)) for target in answered) if answered else None,
        max(len(tokenizer.encode(sample.target or "")) for sample in samples),
    )


def _cut(settings: RowSettings) -> tuple[Any, ...]:
    """Return the settings that rows depend on."""
    return (
        settings.method,
        settings.max_length,
        getattr(settings, "mask", None),
        getattr(settings, "num_guesses", 1),
    )


def _batch(batch: TrainBatch | PairBatch | BlockBatch) -> Batch:
    if not isinstance(batch, TrainBatch):
        batch = batch.answers
    rows, length = batch.inputs.shape
    longest = length if batch.segment_ids is None or batch.spans is None else int(batch.spans[:, 1].max())
    return Batch(rows, length, batch.trained_tokens, longest, batch.visible is not None)

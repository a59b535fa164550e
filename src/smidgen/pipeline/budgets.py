"""Memory and disk of every stage of a recipe, from its settings, the model's `config.json` and its rows.

No weight is read. If the rows cannot be read, every row is taken to have `max_length` tokens, all trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from smidgen.backend import blas, device
from smidgen.config import (
    DEFAULT_BITS,
    DEFAULT_GROUP_SIZE,
    AnyRecipe,
    DpoConfig,
    PretrainRecipe,
    Recipe,
    TopTeacherConfig,
)
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ConfigError, DataError
from smidgen.inference.choice import SMALL
from smidgen.inference.cpu_forward import LARGEST
from smidgen.models.budget import (
    Batch,
    Budget,
    Decoding,
    Place,
    Training,
    decoding_budget,
    process_parts,
    step_bytes,
    training_budget,
)
from smidgen.models.graph import huggingface_config
from smidgen.models.load import describe, read_config
from smidgen.models.quantization import Setting
from smidgen.models.shape import Shape, shape_of
from smidgen.options import EngineOptions
from smidgen.pipeline.context import RunContext, TaskContext
from smidgen.pipeline.training_job import PLAIN_SHARE
from smidgen.pipeline.training_rows import RowSettings, rows_of_pairs, rows_of_samples, shuffled, texts_of
from smidgen.training.batches import LENGTH_STEP, TrainBatch, TrainingPlan, plan_training
from smidgen.training.checkpoint import KEEP
from smidgen.training.hidden import MASKED_ROW, ONE_ROW
from smidgen.training.objectives.preference import PairBatch
from smidgen.training.pretrain import num_steps
from smidgen.training.row_cache import row_key

ASSUMED_PROMPT = 512
"""Tokens of an evaluation's prompt if the rows cannot be read."""
LONGEST = 8
"""Prompts with the most characters, of which the one with the most tokens is looked for."""


@dataclass(frozen=True)
class StageBudget:
    """Memory of a stage, and the bytes that it leaves in the run folder or the cache."""

    budget: Budget
    disk: int = 0


@dataclass(frozen=True)
class Batches:
    """The batches of a training, as far as they are known before it.

    Attributes:
        largest: the batch that takes the most memory.
        plan: exact figures of all steps; None for a document stream or rows that cannot be read.
        tokens: tokens of all steps; None if unknown.
        trained_tokens: those in the loss.
        state_tokens: tokens of the different rows, whose states a cache would hold.
        stored_tokens: those of them in the loss, whose targets a cache would hold.
        unread: why the rows cannot be read; empty if they can.
    """

    largest: Batch
    plan: TrainingPlan | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    state_tokens: int = 0
    stored_tokens: int = 0
    unread: str = ""


@dataclass
class Kept:
    """What the budgets of changed recipes share: rows by `max_length`, batches by their size, and prompts."""

    rows: dict[int, tuple[Sequence[Any], Sequence[Any]]] = field(default_factory=dict)
    drawn: dict[tuple[int, int, int], tuple[TrainingPlan, frozenset[Batch]]] = field(default_factory=dict)
    asked: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Budgets:
    """The budgets of one recipe on one device, each computed on first use."""

    context: RunContext
    place: Place = field(default_factory=lambda: Place(device().kind, max(1, blas().threads)))
    four_bits: bool = False
    """Whether the base is taken to be quantised to 4 bits beforehand."""
    _kept: Kept = field(default_factory=Kept)

    def changed(self, recipe: AnyRecipe, *, four_bits: bool = False) -> "Budgets":
        """Return the budgets of a changed recipe, which share the rows that were read."""
        return Budgets(replace(self.context, recipe=recipe), self.place, four_bits, self._kept)

    @cached_property
    def folder(self) -> Path | None:
        """Folder of the base model's configuration and tokenizer; None for a new model."""
        recipe = self.context.recipe
        return describe(recipe.model.base) if isinstance(recipe, Recipe) else None

    @cached_property
    def shape(self) -> Shape:
        """Shape of the model.

        Raises:
            ConfigError: rows may be longer than the context of the model.
        """
        recipe = self.context.recipe
        if isinstance(recipe, PretrainRecipe):
            return shape_of(huggingface_config(recipe.model.architecture), "[model.architecture]")
        assert self.folder is not None
        config = read_config(self.folder)
        if recipe.train.max_length > (config.get("max_position_embeddings") or recipe.train.max_length):
            raise ConfigError(
                f"train.max_length is {recipe.train.max_length}, but the context of {recipe.model.base} has "
                f"{config['max_position_embeddings']} tokens; lower it"
            )
        if self.four_bits:
            config = config | {"quantization": Setting(DEFAULT_BITS, DEFAULT_GROUP_SIZE)._asdict()}
        return shape_of(config, str(self.folder / "config.json"))

    @cached_property
    def teacher_shape(self) -> Shape | None:
        """Shape of the teacher; None if there is none."""
        if (config := self.context.teacher) is None:
            return None
        folder = describe(config.model)
        return shape_of(read_config(folder), str(folder / "config.json"))

    @property
    def tokenizer_bytes(self) -> int:
        """Size of `tokenizer.json`; 0 for a new model, whose tokenizer is small."""
        return (self.folder / "tokenizer.json").stat().st_size if self.folder else 0

    @cached_property
    def plain(self) -> bool:
        """Whether a quantised base is dequantised for training."""
        small = 4 * self.shape.quantized_parameters < PLAIN_SHARE * device().memory_bytes
        return self.place.kind == "cpu" and small

    @cached_property
    def batches(self) -> Batches:
        """The batches of the training."""
        recipe = self.context.recipe
        settings = recipe.train
        rows, positions = settings.batch_size, LENGTH_STEP * -(-settings.max_length // LENGTH_STEP)
        rows *= 2 if isinstance(settings, DpoConfig) else 1
        full = Batch(rows, positions, rows * settings.max_length)
        if isinstance(recipe, PretrainRecipe):
            steps = num_steps(recipe.train)
            tokens = steps * full.trained * settings.gradient_accumulation
            return Batches(full, tokens=tokens, trained_tokens=tokens)
        assert isinstance(settings, RowSettings)
        try:
            training, validation = self._read(settings)
        except DataError as error:
            return Batches(full, unread=str(error))
        plan, drawn = self._drawn(settings, training)
        largest = max(drawn, key=lambda batch: step_bytes(self._training(batch)))
        different = {row_key(row, trained=True): row for row in texts_of([*training, *validation])}.values()
        return Batches(
            largest,
            plan,
            plan.tokens,
            plan.trained_tokens,
            sum({row_key(row): len(row) - 1 for row in different}.values()),
            sum(row.trained_tokens for row in different),
        )

    def _drawn(self, settings: RowSettings, rows: Sequence[Any]) -> tuple[TrainingPlan, frozenset[Batch]]:
        """Draw all batches; return the figures of all steps, and the different batches."""
        source = shuffled(rows, settings, self._capacity(settings))
        drawing = settings.max_length, settings.batch_size, settings.gradient_accumulation
        if drawing not in self._kept.drawn:
            plan = plan_training(rows, source)
            batches = (_batch(batch) for _ in range(source.num_steps) for batch in source.next_step())
            self._kept.drawn[drawing] = plan, frozenset(batches)
        return self._kept.drawn[drawing]

    def _read(self, settings: RowSettings) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return the training and validation rows or pairs of rows, cut to `max_length`."""
        assert self.folder is not None
        if settings.max_length not in self._kept.rows:
            tokenizer = load_tokenizer(self.folder)
            if isinstance(settings, DpoConfig):
                found = [part.pairs for part in rows_of_pairs(self.context, tokenizer, settings)]
            else:
                found = [part.rows for part in rows_of_samples(self.context, tokenizer, settings)]
            self._kept.rows[settings.max_length] = found[0], found[1]
        return self._kept.rows[settings.max_length]

    def _capacity(self, settings: RowSettings) -> int | None:
        """Return the tokens of a row of packed texts, as `training.hidden.packed_length` does."""
        layered = self.shape.layered and (self.teacher_shape is None or self.teacher_shape.layered)
        if not (settings.packing and layered):
            return None
        fused = self.place.kind == "cpu" and not (settings.lora and settings.lora.dropout)
        return ONE_ROW if fused else MASKED_ROW

    def _training(self, batch: Batch) -> Training:
        return Training(
            self.shape,
            self.context.recipe.train,
            batch,
            self.place,
            plain=self.plain,
            tokenizer_bytes=self.tokenizer_bytes,
            from_file=isinstance(self.context.recipe, Recipe),
            teacher=self.teacher_shape,
        )

    @cached_property
    def largest_step(self) -> Training:
        """The training with its largest batch."""
        return self._training(self.batches.largest)

    @property
    def state_bytes(self) -> int:
        """Bytes of the cached states of frozen blocks; 0 if they are not cached."""
        training, settings = self.largest_step, self.context.recipe.train
        frozen = training.trained_blocks < self.shape.layers and self.shape.layered
        if not (isinstance(settings, RowSettings) and frozen and settings.epochs > 1):
            return 0
        if settings.trunk_cache == "off":
            return 0
        item = 2 if settings.trunk_cache == "float16" else 4
        size = self.batches.state_tokens * self.shape.width * item
        return size if size <= settings.trunk_cache_gb * 1e9 else 0

    @property
    def target_bytes(self) -> int:
        """Bytes of a teacher's most probable tokens on disk; 0 if they are not kept."""
        config = self.context.teacher
        if not isinstance(config, TopTeacherConfig) or config.top_k is None:
            return 0
        size = self.batches.stored_tokens * (8 * min(config.top_k, self.shape.vocabulary) + 4)
        return size if size <= config.top_k_gb * 1e9 else 0

    def reading(self) -> StageBudget:
        """Return the budget of a stage that loads no model."""
        parts = process_parts(cpu=self.place.kind == "cpu", tokenizer_bytes=self.tokenizer_bytes)
        return StageBudget(Budget({"reading": parts}))

    def training(self) -> StageBudget:
        """Return the budget of the training stage."""
        training = self.largest_step
        states, targets = self.state_bytes, self.target_bytes
        budget = training_budget(training)
        trained = self.shape.trainable(training.lora) * (4 if training.lora else self.place.item)
        kept = KEEP * 3 * trained if self.context.recipe.train.checkpoint_every else 0
        mapped = states + targets if self.place.kind == "cpu" else 0
        return StageBudget(replace(budget, mapped=mapped), trained + kept + states + targets)

    def evaluation(self, task: TaskContext, options: EngineOptions, *, scores: bool = False) -> StageBudget:
        """Return the budget of an evaluation; an upper bound for a quantised model and for llama.cpp.

        Which engine `auto` takes on a CPU is measured when it is opened; beyond `LARGEST` it is llama.cpp.
        """
        cpu, parameters = self.place.kind == "cpu", self.shape.parameters
        open_choice = options.engine == "auto" and cpu and parameters >= SMALL and not scores
        halves = options.engine == "llama" or (open_choice and parameters > LARGEST)
        item = 2 if halves else self.place.item
        decoding = Decoding(
            self.shape,
            rows=min(options.batch_size, self._prompts(task)[0]),
            prompt=self._prompts(task)[1],
            answer=self.context.specialist.evaluate.max_tokens,
            item=item,
            cpu=cpu,
            weights=parameters * item,
            tokenizer_bytes=self.tokenizer_bytes,
        )
        return StageBudget(decoding_budget(decoding), parameters * item if open_choice else 0)

    def _prompts(self, task: TaskContext) -> tuple[int, int]:
        """Return the number of prompts of an evaluation and the tokens of the longest."""
        assert self.folder is not None
        if task.name not in self._kept.asked:
            try:
                samples = task.test_samples
            except DataError:
                return self.context.specialist.evaluate.batch_size, ASSUMED_PROMPT
            texts = sorted((sample.messages for sample in samples), key=_characters, reverse=True)
            tokenizer = load_tokenizer(self.folder)
            longest = max(len(tokenizer.render_prompt(messages)) for messages in texts[:LONGEST])
            self._kept.asked[task.name] = len(samples), longest
        return self._kept.asked[task.name]

    def copying(self, disk: int) -> StageBudget:
        """Return the budget of writing a copy of the model, whose tensors may all exist twice."""
        weights = self.shape.bytes(self.place.item, plain=True)
        parts = process_parts(cpu=self.place.kind == "cpu", tokenizer_bytes=self.tokenizer_bytes)
        return StageBudget(Budget({"copying": parts | {"weights": weights, "copy": weights}}), disk)


def _batch(batch: TrainBatch | PairBatch) -> Batch:
    batch = batch.answers if isinstance(batch, PairBatch) else batch
    rows, length = batch.inputs.shape
    longest = length if batch.segment_ids is None or batch.spans is None else int(batch.spans[:, 1].max())
    return Batch(rows, length, batch.trained_tokens, longest)


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)

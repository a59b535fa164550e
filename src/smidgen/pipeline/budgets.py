"""Memory and disk of every stage of a recipe, from its settings, the model's `config.json` and its rows.

No weight is read. If the rows cannot be read, every row is taken to have `max_length` tokens, all trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from smidgen.backend import blas, device
from smidgen.config import (
    DEFAULT_BITS,
    DEFAULT_GROUP_SIZE,
    AnyRecipe,
    DpoConfig,
    FinetuneConfig,
    GrpoConfig,
    JacobiConfig,
    PretrainRecipe,
    TopTeacherConfig,
)
from smidgen.errors import DataError
from smidgen.files import is_url
from smidgen.inference.choice import weights_fit
from smidgen.inference.cpu_forward import LARGEST
from smidgen.inference.scoring import LOGIT_ROWS
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
from smidgen.pipeline.asking import PLAIN, Asking
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.planned_batches import Batches, answer_batches
from smidgen.pipeline.planned_rows import PlannedRows, Prompts
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.training_job import check_length, fits_dequantized
from smidgen.pipeline.training_rows import RowSettings, texts_of
from smidgen.training.batches import LENGTH_STEP
from smidgen.training.checkpoint import KEEP
from smidgen.training.hidden import MASKED_ROW, ONE_ROW
from smidgen.training.pretrain import num_steps
from smidgen.training.row_cache import row_key

READ = ("task", "settings", "tasks", "model", "data", "teacher")
"""Tables of a recipe that its rows and prompts depend on."""


@dataclass(frozen=True)
class StageBudget:
    """Memory of a stage, and the bytes that it leaves in the run folder or the cache."""

    budget: Budget
    disk: int = 0


@dataclass
class Budgets:
    """The budgets of one recipe on one device, each computed on first use."""

    context: RunContext
    place: Place = field(default_factory=lambda: Place(device().kind, max(1, blas().threads)))
    four_bits: bool = False
    """Whether the base is taken to be quantised to 4 bits beforehand."""
    _kept: PlannedRows = field(default_factory=PlannedRows)

    def changed(self, recipe: AnyRecipe, *, four_bits: bool = False) -> "Budgets":
        """Return the budgets of a changed recipe, which share what was read if it is the same."""
        before = self.context.recipe
        same = all(getattr(before, name, None) == getattr(recipe, name, None) for name in READ)
        kept = self._kept if same else PlannedRows()
        return Budgets(replace(self.context, recipe=recipe), self.place, four_bits, kept)

    @property
    def folder(self) -> Path | None:
        """Folder of the base model's configuration and tokenizer; None for a new model."""
        base = self.context.recipe.model.base
        if self._kept.folder is None and base is not None:
            self._kept.folder = describe(base)
        return self._kept.folder

    @cached_property
    def shape(self) -> Shape:
        """Shape of the model.

        Raises:
            ConfigError: rows may be longer than the context of the model.
        """
        recipe = self.context.recipe
        if isinstance(recipe, PretrainRecipe) and recipe.model.architecture is not None:
            return shape_of(huggingface_config(recipe.model.architecture), "[model.architecture]")
        assert self.folder is not None and recipe.model.base is not None
        config = read_config(self.folder)
        check_length(recipe.train.max_length, config, recipe.model.base)
        if self.four_bits:
            config = config | {"quantization": Setting(DEFAULT_BITS, DEFAULT_GROUP_SIZE)._asdict()}
        return shape_of(config, str(self.folder / "config.json"))

    @cached_property
    def teacher_shape(self) -> Shape | None:
        """Shape of the teacher; None if there is none."""
        if (config := self.context.logit_teacher) is None:
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
        return self.place.kind == "cpu" and fits_dequantized(self.shape.quantized_parameters)

    @cached_property
    def batches(self) -> Batches:
        """The batches of the training.

        Raises:
            DataError: the rows can be read but not be trained on, such as answers beyond `max_length`.
        """
        recipe = self.context.recipe
        settings = recipe.train
        rows, positions = settings.batch_size, LENGTH_STEP * -(-settings.max_length // LENGTH_STEP)
        rows *= 2 if isinstance(settings, DpoConfig) else 1
        # guesses, and what is right
        positions *= 1 + settings.num_guesses if isinstance(settings, JacobiConfig) else 1
        masked = isinstance(settings, JacobiConfig)
        full = Batch(rows, positions, rows * settings.max_length, masked=masked)
        if isinstance(recipe, PretrainRecipe):
            steps = num_steps(recipe.train)
            tokens = steps * full.trained * settings.gradient_accumulation
            return Batches(full, tokens=tokens, trained_tokens=tokens)
        if isinstance(settings, GrpoConfig):
            samples = self._kept.samples_of(self.context)
            if isinstance(samples, DataError):
                return answer_batches(settings, unread=str(samples))
            assert self.folder is not None
            lengths = self._kept.prompt_lengths(self.context, samples, self.folder)
            sharing = self._kept.answers_of_prompt(self.context) if self.shape.layered else 1
            return answer_batches(settings, lengths, sharing=sharing)
        assert isinstance(settings, RowSettings)
        samples = self._kept.samples_of(self.context)
        if isinstance(samples, DataError):
            return Batches(full, unread=str(samples))
        assert self.folder is not None
        training, validation = self._kept.rows_of(self.context, samples, self.folder)
        plan, drawn = self._kept.drawn_of(self.context, settings, training, self._capacity(settings))
        largest = max(drawn, key=lambda batch: step_bytes(self._training(batch)))
        different = {row_key(row, trained=True): row for row in texts_of([*training, *validation])}.values()
        return Batches(
            largest,
            plan,
            plan.tokens,
            plan.trained_tokens,
            sum({row_key(row): len(row) - 1 for row in different}.values()),
            sum(row.trained_tokens for row in different),
            sum(len(row) - 1 for row in texts_of(validation)),
        )

    def _capacity(self, settings: RowSettings) -> int | None:
        """Return the tokens of a row of packed texts, as `training.hidden.packed_length` does."""
        layered = self.shape.layered and (self.teacher_shape is None or self.teacher_shape.layered)
        if not (layered and getattr(settings, "packing", False)):
            return None
        return ONE_ROW if self.place.kind == "cpu" else MASKED_ROW

    def _training(self, batch: Batch) -> Training:
        return Training(
            self.shape,
            self.context.recipe.train,
            batch,
            self.place,
            plain=self.plain,
            tokenizer_bytes=self.tokenizer_bytes,
            from_file=self.folder is not None,
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
        config = self.context.logit_teacher
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
        if isinstance(training.settings, FinetuneConfig) and training.settings.metric_every:
            options = replace(self.context.base_engine, engine="mlx")
            measuring = self._measuring(budget.moments["step"], options)
            budget = Budget({**budget.moments, "measuring": measuring})
        if isinstance(settings := training.settings, GrpoConfig):
            options = replace(self.context.base_engine, engine="mlx", batch_size=settings.rollout_batch_size)
            asking = Asking(max_tokens=settings.max_completion_length)
            sampling = self._measuring(budget.moments["step"], options, asking)
            budget = Budget({**budget.moments, "sampling": sampling})
        trained = self.shape.trainable(training.lora) * (4 if training.lora else self.place.item)
        kept = KEEP * 3 * trained if self.context.recipe.train.checkpoint_every else 0
        mapped = states + targets if self.place.kind == "cpu" else 0
        return StageBudget(replace(budget, mapped=mapped), trained + kept + states + targets)

    def _measuring(
        self, step: Mapping[str, int], options: EngineOptions, asking: Asking = PLAIN
    ) -> dict[str, int]:
        """Return the parts while the model answers in a training: what that keeps, and the answers."""
        found = [
            self.evaluation(task, options, asking).budget.moments["decoding"] for task in self.context.tasks
        ]
        answers = dict(max(found, key=lambda parts: sum(parts.values())))
        copied = self.place.kind == "cpu" and self.shape.parameters <= LARGEST
        kept = ("process", "freed", "weights", "adapter", "optimizer")
        return {
            **{name: step[name] for name in kept if name in step},
            "copied weights": answers["weights"] if copied else 0,
            **{name: answers[name] for name in ("kv cache", "logits", "activations")},
        }

    def evaluation(
        self, task: TaskContext, options: EngineOptions, asking: Asking = PLAIN, *, scores: bool = False
    ) -> StageBudget:
        """Return the budget of an evaluation; an upper bound for a quantised model and for llama.cpp."""
        decoding = self.decoding(task, options, asking, scores=scores)
        converts = options.engine == "auto" and decoding.cpu and not scores
        return StageBudget(decoding_budget(decoding), decoding.weights if converts else 0)

    def decoding(
        self, task: TaskContext, options: EngineOptions, asking: Asking = PLAIN, *, scores: bool = False
    ) -> Decoding:
        """Return the model as it answers in an evaluation.

        Which engine `auto` takes on a CPU is measured when it is opened, among those that fit into memory.
        """
        cpu, parameters = self.place.kind == "cpu", self.shape.parameters
        measured = options.engine == "auto" and cpu and not scores
        halves = options.engine == "llama" or (measured and not weights_fit(4 * parameters))
        item = 2 if halves else self.place.item
        prompts = self.prompts(task, asking)
        rows, given = min(options.batch_size, prompts.number), prompts.given
        return Decoding(
            self.shape,
            rows=rows,
            prompt=prompts.longest + given,
            answer=0 if given else self.context.specialist.evaluate.max_tokens,
            item=item,
            cpu=cpu,
            weights=parameters * item,
            tokenizer_bytes=self.tokenizer_bytes,
            logits=max(1 + given, min(rows * (1 + given), LOGIT_ROWS)),
        )

    def prompts(self, task: TaskContext, asking: Asking) -> Prompts:
        """Return the prompts of an evaluation."""
        assert self.folder is not None
        return self._kept.prompts_of(self.context, task, asking, self.folder)

    def asked(self, task: TaskContext, options: EngineOptions, max_tokens: int) -> StageBudget:
        """Return the budget of another model that is asked; that of reading rows if it runs elsewhere."""
        other = self.of_model(options, max_tokens)
        return self.reading() if other is None else other.evaluation(task, options)

    def of_model(self, options: EngineOptions, max_tokens: int) -> "Budgets | None":
        """Return the budgets of the recipe with another base; None if that runs elsewhere or not at all."""
        if is_url(options.model) or options.model.endswith(".jsonl"):
            return None
        recipe = self.context.specialist
        update = {
            "model": recipe.model.model_copy(update={"base": options.model}),
            "evaluate": recipe.evaluate.model_copy(update={"max_tokens": max_tokens}),
            # it need not hold the rows that the student is trained on
            "train": recipe.train.model_copy(update={"max_length": 1}),
        }
        return self.changed(recipe.model_copy(update=update))

    def copying(self, disk: int) -> StageBudget:
        """Return the budget of writing a copy of the model, whose tensors may all exist twice."""
        weights = self.shape.bytes(self.place.item, plain=True)
        parts = process_parts(cpu=self.place.kind == "cpu", tokenizer_bytes=self.tokenizer_bytes)
        return StageBudget(Budget({"copying": parts | {"weights": weights, "copy": weights}}), disk)

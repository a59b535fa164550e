"""What each training method needs before its first step: a model, its batches, and a way to save it.

A method is one entry of `METHODS`. The training stage, the planner's probe and `smidgen train` are shared by
all methods.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp

from smidgen.backend import mx, nn
from smidgen.config import PretrainRecipe, SftConfig
from smidgen.data.corpus import curriculum, documents, tokenizer_documents
from smidgen.data.templates import load_tokenizer
from smidgen.data.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, train_tokenizer
from smidgen.files import atomic_folder
from smidgen.models.graph import create
from smidgen.models.lora import add_lora
from smidgen.models.save import save_model
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.preference_job import prepare_preferences
from smidgen.pipeline.training_job import (
    TrainingJob,
    load_for_training,
    load_teacher,
    teacher_caches,
    trunk_caches,
)
from smidgen.pipeline.training_rows import rows_of_samples, shuffled
from smidgen.training.batches import fixed_batches, plan_training
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.objectives.distillation import Distillation
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.pretrain import PackedBatches, fast_encoder, packed_rows
from smidgen.training.sft import saver
from smidgen.training.teacher import Teacher

TOKENIZER = "tokenizer"
TOKENIZER_DOCUMENTS = 20_000
"""Training documents of a tokenizer: 4 MB of text, in which every word of the world occurs many times."""


def prepare_training(context: RunContext) -> TrainingJob:
    """Build the training job of the recipe's method; no step has run yet."""
    return METHODS[context.recipe.train.method](context)


def _prepare_sft(context: RunContext) -> TrainingJob:
    """Supervised fine-tuning of a loaded model, with or without an adapter."""
    settings = context.recipe.train
    assert isinstance(settings, SftConfig)
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    teacher = settings.teacher and load_teacher(settings.teacher, loaded.tokenizer, settings.max_length)
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    training, validation = rows_of_samples(context, loaded.tokenizer, settings)
    trunk = frozen_trunk(loaded.model)
    capacity = _capacity(loaded.model, teacher) if settings.packing else None
    rows = [*training.rows, *validation.rows]
    batches = shuffled(training.rows, settings, capacity)
    return TrainingJob(
        loaded.model,
        learnt_from(teacher, BodyPass(settings.dropout, settings.gradient_checkpointing, trunk)),
        batches,
        fixed_batches(validation.rows, settings.batch_size, capacity=capacity),
        saver(loaded, settings),
        plan_training(training.rows, batches),
        training.cut_rows,
        (
            *trunk_caches(trunk, loaded.model, rows, settings, settings.epochs),
            *teacher_caches(teacher, rows, settings.teacher),
        ),
    )


def learnt_from(teacher: Teacher | None, how: BodyPass | None = None) -> Likelihood | Distillation:
    """Return the objective on rows of text: its likelihood, or a teacher's probabilities besides."""
    how = how or BodyPass()
    return Likelihood(how) if teacher is None else Distillation(teacher, how)


def _capacity(model: nn.Module, teacher: Teacher | None) -> int | None:
    """Return the maximum tokens of a row of packed texts; None if a model does not allow packing."""
    capacities = [packed_length(one) for one in (model, teacher and teacher.model) if one is not None]
    return None if None in capacities else min(filter(None, capacities))


def _prepare_pretraining(context: RunContext) -> TrainingJob:
    """Pretraining of a randomly initialised model on the world's text."""
    recipe = context.recipe
    assert isinstance(recipe, PretrainRecipe)
    settings = recipe.train
    folder = context.run.path(TOKENIZER)
    if not folder.exists():  # a plan measures before any stage has run, and must not write to the run folder
        folder = Path(mkdtemp(prefix="smidgen-plan-")) / TOKENIZER
        make_tokenizer(recipe, folder)
    encode, separator = fast_encoder(folder / "tokenizer.json")
    model, config = create(recipe.model.architecture, settings.seed)
    config |= _end_tokens(folder)
    seed = recipe.data.seed
    validation = packed_rows(
        lambda start: documents(seed + 1, start),
        encode,
        separator,
        count=recipe.data.validation_limit,
        max_length=settings.max_length,
    )
    tokenizer = load_tokenizer(folder)
    teacher = settings.teacher and load_teacher(settings.teacher, tokenizer, settings.max_length)
    return TrainingJob(
        model,
        learnt_from(teacher),
        PackedBatches(lambda start: curriculum(seed, start), encode, separator, settings),
        fixed_batches(validation, settings.batch_size),
        lambda path: save_model(path, model, config, folder, dtype=mx.bfloat16),
    )


METHODS: Mapping[str, Callable[[RunContext], TrainingJob]] = {
    "sft": _prepare_sft,
    "dpo": prepare_preferences,
    "pretrain": _prepare_pretraining,
}


def make_tokenizer(recipe: PretrainRecipe, folder: Path) -> None:
    """Train the tokenizer of a pretraining recipe and write it to a folder."""
    texts = tokenizer_documents(recipe.data.seed, TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(texts, recipe.model.architecture.vocab_size)
    with atomic_folder(folder, replace=True) as partial:
        save_tokenizer(tokenizer, partial, context=recipe.model.architecture.max_position_embeddings)


def _end_tokens(folder: Path) -> dict[str, int | None]:
    """Return the special token ids of `config.json`, from the tokenizer in `folder`."""
    tokenizer = load_tokenizer(folder)
    (end,), (padding,) = tokenizer.encode(TURN_END), tokenizer.encode(END_OF_TEXT)
    return {"bos_token_id": None, "eos_token_id": end, "pad_token_id": padding}

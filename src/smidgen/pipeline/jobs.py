"""What each training method needs before its first step: a model, its batches, and a way to save it.

A method is one entry of `METHODS`. The training stage, the planner's probe and `smidgen train` are shared by
all methods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from smidgen.backend import device, mx, nn
from smidgen.config import PretrainRecipe, SftConfig
from smidgen.data.corpus import curriculum, documents, tokenizer_documents
from smidgen.data.templates import load_tokenizer
from smidgen.data.tokenizer import END_OF_TEXT, TURN_END, save_tokenizer, train_tokenizer
from smidgen.errors import ConfigError
from smidgen.files import atomic_folder
from smidgen.models.graph import create
from smidgen.models.load import load
from smidgen.models.lora import add_lora, dequantize, dequantized_bytes
from smidgen.models.save import save_model
from smidgen.pipeline.context import RunContext
from smidgen.training.batches import (
    BatchSource,
    RowBatches,
    StepBatch,
    TrainingPlan,
    TrainRow,
    fixed_batches,
    plan_training,
)
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.objectives import Objective
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.pretrain import PackedBatches, fast_encoder, packed_rows
from smidgen.training.process_group import divided
from smidgen.training.sft import saver, sft_rows
from smidgen.training.trunk import Trunk, TrunkStates

TOKENIZER = "tokenizer"
PLAIN_SHARE = 0.25
"""Share of the memory that the weights of a dequantised base may take."""
TOKENIZER_DOCUMENTS = 20_000
"""Training documents of a tokenizer: 4 MB of text, in which every word of the world occurs many times."""


@dataclass(frozen=True)
class TrainingJob:
    """A training that is ready to start.

    Attributes:
        model: the model whose trainable parameters are updated.
        objective: the loss to minimise.
        batches: source of every step's batches.
        validation: the fixed validation set.
        save: writes the model to a folder, which it creates.
        plan: exact figures of all steps, where the rows are known beforehand.
        cut_rows: training rows that lost context to fit; None for a document stream.
        states: the cache of a frozen trunk; None if it is not worth having one.
    """

    model: nn.Module
    objective: Objective[Any]
    batches: BatchSource[Any]
    validation: Sequence[StepBatch]
    save: Callable[[Path], None]
    plan: TrainingPlan | None = None
    cut_rows: int | None = None
    states: TrunkStates | None = None


def prepare_training(context: RunContext) -> TrainingJob:
    """Build the training job of the recipe's method; no step has run yet.

    With several processes, a step is cut into more and smaller batches, of the same rows.
    """
    settings = context.recipe.train
    if context.group.size > 1:
        size, passes = divided(settings.batch_size, settings.gradient_accumulation, context.group.size)
        cut = settings.model_copy(update={"batch_size": size, "gradient_accumulation": passes})
        context = replace(context, recipe=context.recipe.model_copy(update={"train": cut}))
    return METHODS[settings.method](context)


def _prepare_sft(context: RunContext) -> TrainingJob:
    """Supervised fine-tuning of a loaded model, with or without an adapter."""
    settings, thinking = context.recipe.train, context.specialist.model.thinking
    assert isinstance(settings, SftConfig)
    loaded = load(context.specialist.model.base)
    context_length = loaded.config.get("max_position_embeddings") or settings.max_length
    if settings.max_length > context_length:
        raise ConfigError(
            f"train.max_length is {settings.max_length}, but the context of {loaded.name} has "
            f"{context_length} tokens; lower it"
        )
    if device().kind == "cpu":  # on a GPU, quantised products are as fast
        _dequantize_if_small(loaded.model)
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    training, validation = (
        sft_rows(samples, loaded.tokenizer, settings, thinking=thinking)
        for samples in (context.training_samples, context.validation_samples)
    )
    trunk = frozen_trunk(loaded.model)
    capacity = packed_length(loaded.model) if settings.packing else None
    batches = RowBatches(
        training.rows,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs,
        seed=settings.seed,
        capacity=capacity,
    )
    return TrainingJob(
        loaded.model,
        Likelihood(BodyPass(settings.dropout, settings.gradient_checkpointing, trunk)),
        batches,
        fixed_batches(validation.rows, settings.batch_size, capacity=capacity),
        saver(loaded, settings),
        plan_training(training.rows, batches),
        training.cut_rows,
        _states_of(trunk, loaded.model, [*training.rows, *validation.rows], settings),
    )


def _dequantize_if_small(model: nn.Module) -> None:
    """Dequantise a quantised base once, unless the memory is needed; its blocks are then dequantised in turn.

    The weights that are computed with are the same, so the adapter fits the quantised base.
    """
    if dequantized_bytes(model) < PLAIN_SHARE * device().memory_bytes:
        dequantize(model, mx.float32, to_read=True)


def _states_of(
    trunk: Trunk | None, model: nn.Module, rows: Sequence[TrainRow], settings: SftConfig
) -> TrunkStates | None:
    """Return the cache of a trunk's states; None if it is off, useless or too large."""
    if trunk is None or settings.trunk_cache == "off" or settings.epochs <= 1:
        return None
    states = TrunkStates(trunk, model, rows, settings.trunk_cache)
    return states if states.num_bytes <= settings.trunk_cache_gb * 1e9 else None


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
    return TrainingJob(
        model,
        Likelihood(),
        PackedBatches(lambda start: curriculum(seed, start), encode, separator, settings),
        fixed_batches(validation, settings.batch_size),
        lambda path: save_model(path, model, config, folder, dtype=mx.bfloat16),
    )


METHODS: Mapping[str, Callable[[RunContext], TrainingJob]] = {
    "sft": _prepare_sft,
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

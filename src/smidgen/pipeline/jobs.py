"""What each training method needs before its first step: a model, its batches, and a way to save it.

A method is one entry of `METHODS`. The training stage, the planner's probe and `smidgen train` are shared by
all methods.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from smidgen.backend import mx, nn
from smidgen.config import WORLD, PretrainRecipe, SftConfig
from smidgen.data.documents import Survey
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.tokenizer import save_tokenizer, train_tokenizer
from smidgen.errors import ConfigError
from smidgen.files import atomic_folder, read_json
from smidgen.models.architectures import ModelConfigJson
from smidgen.models.graph import create
from smidgen.models.licence import mark_own
from smidgen.models.load import describe, load
from smidgen.models.lora import add_lora
from smidgen.models.save import copy_tokenizer, save_model, stored_dtype
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.corpus import Corpus, file_of
from smidgen.pipeline.events import StepEvent, Work, result_of
from smidgen.pipeline.grpo_job import prepare_grpo
from smidgen.pipeline.jacobi_job import prepare_jacobi
from smidgen.pipeline.preference_job import prepare_preferences
from smidgen.pipeline.training_job import (
    TrainingJob,
    check_length,
    load_for_training,
    load_teacher,
    teacher_caches,
    trunk_caches,
)
from smidgen.pipeline.training_rows import mixed_as, rows_of, samples_of, shuffled
from smidgen.training.batches import TrainRow, fixed_batches
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.objectives.distillation import Distillation
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.pretrain import Encode, PackedBatches, fast_encoder, validation_rows, weighted
from smidgen.training.process_group import divided
from smidgen.training.sft import saver
from smidgen.training.teacher import Teacher
from smidgen.training.training_plan import plan_training

TOKENIZER, SOURCES = "tokenizer", "data/sources.json"


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
    settings = context.recipe.train
    assert isinstance(settings, SftConfig)
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    teacher = settings.teacher and load_teacher(settings.teacher, loaded.tokenizer, settings.max_length)
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    parts, thinking = samples_of(context), context.specialist.model.thinking
    training, validation = rows_of(parts, loaded.tokenizer, settings, thinking=thinking)
    trunk = frozen_trunk(loaded.model)
    capacity = _capacity(loaded.model, teacher) if settings.packing else None
    rows = [*training.rows, *validation.rows]
    shares = context.shares
    batches = shuffled(training.rows, settings, capacity, shares)
    held_out = mixed_as(training.rows, validation.rows, shares) if shares else validation.rows
    return TrainingJob(
        loaded.model,
        learnt_from(teacher, BodyPass(settings.dropout, settings.gradient_checkpointing, trunk)),
        batches,
        fixed_batches(held_out, settings.batch_size, capacity=capacity),
        saver(loaded, settings),
        plan_training(training.rows, batches),
        training.cut_rows,
        (
            *trunk_caches(trunk, loaded.model, rows, settings, settings.epochs),
            *teacher_caches(teacher, rows, settings.teacher),
        ),
        loaded,
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
    """Pretraining of a new model, or of one that exists, on a mix of texts."""
    recipe = context.recipe
    assert isinstance(recipe, PretrainRecipe)
    settings = recipe.train
    folder = context.run.path(TOKENIZER)
    if folder.exists():
        corpus = Corpus(
            recipe, {name: Survey(**found) for name, found in read_json(context.run.path(SOURCES)).items()}
        )
    else:  # a plan measures before any stage has run, and must not write to the run folder
        folder = Path(mkdtemp(prefix="smidgen-plan-")) / TOKENIZER
        corpus = Corpus(recipe, result_of(survey_sources(recipe)))
        make_tokenizer(corpus, folder)
    tokenizer = load_tokenizer(folder)
    model, config, dtype = _model_to_pretrain(recipe, tokenizer)
    encode, separator = fast_encoder(folder / "tokenizer.json")
    teacher = settings.teacher and load_teacher(settings.teacher, tokenizer, settings.max_length)
    return TrainingJob(
        model,
        learnt_from(teacher),
        PackedBatches(corpus.training_sources(), corpus.mix, encode, separator, settings),
        fixed_batches(_held_out_rows(corpus, encode, separator), settings.batch_size),
        lambda path: save_model(path, model, config, folder, dtype=dtype),
    )


def _model_to_pretrain(
    recipe: PretrainRecipe, tokenizer: Tokenizer
) -> tuple[nn.Module, ModelConfigJson, mx.Dtype]:
    """Return the model, its `config.json`, and the dtype that it is stored in."""
    if recipe.model.architecture is not None:
        model, config = create(recipe.model.architecture, recipe.train.seed)
        return model, config | _special_tokens(tokenizer), mx.bfloat16
    assert recipe.model.base is not None
    loaded = load(recipe.model.base)
    check_length(recipe.train.max_length, loaded.config, loaded.name)
    if loaded.config.get("quantization"):
        raise ConfigError(
            f"{loaded.name} is quantised, and pretraining trains every weight; give its unquantised original"
        )
    return loaded.model, loaded.config, stored_dtype(loaded.path)


def _held_out_rows(corpus: Corpus, encode: Encode, separator: int) -> list[TrainRow]:
    """Return the validation rows; those of several sources together have the mean loss of the mix."""
    recipe, configs = corpus.recipe, corpus.configs
    rows = {
        source.name: validation_rows(
            corpus.held_out(source),
            encode,
            separator,
            recipe.train,
            count=recipe.data.validation_limit,
            name=source.name if len(configs) > 1 else "",
        )
        for source in configs
    }
    if len(rows) > 1:
        return weighted(rows, corpus.shares)
    (alone,) = rows.values()
    return alone


METHODS: Mapping[str, Callable[[RunContext], TrainingJob]] = {
    "sft": _prepare_sft,
    "distill": _prepare_sft,
    "dpo": prepare_preferences,
    "grpo": prepare_grpo,
    "jacobi": prepare_jacobi,
    "pretrain": _prepare_pretraining,
}


def survey_sources(recipe: PretrainRecipe) -> Work[dict[str, Survey]]:
    """Read every file of a pretraining recipe once; return what was found by the name of the source."""
    surveys = {}
    for source in recipe.data.all_sources:
        if source.path == WORLD:
            continue
        counts = file_of(source).survey(recipe.data.validation_fraction)
        try:
            while True:
                yield StepEvent("data", next(counts))
        except StopIteration as end:
            surveys[source.name] = end.value
    return surveys


def make_tokenizer(corpus: Corpus, folder: Path) -> None:
    """Write the tokenizer of a pretraining recipe to a folder: that of a model that exists, or a new one.

    Raises:
        ConfigError: a new model has fewer rows in its embedding than the tokenizer has tokens.
        ModelError: the model whose tokenizer it is cannot be found.
    """
    model = corpus.recipe.model
    with atomic_folder(folder, replace=True) as partial:
        if (existing := model.base or model.tokenizer) is not None:
            copy_tokenizer(describe(existing), partial)
            if model.architecture is not None:
                _check_vocabulary(model.tokenizer, load_tokenizer(partial), model.architecture.vocab_size)
            return
        assert model.architecture is not None
        texts = corpus.tokenizer_texts(model.architecture.vocab_size)
        tokenizer = train_tokenizer(texts, model.architecture.vocab_size)
        save_tokenizer(tokenizer, partial, context=model.architecture.max_position_embeddings)
        mark_own(partial)  # the model's folder gets it with the tokenizer


def _check_vocabulary(name: str | None, tokenizer: Tokenizer, rows: int) -> None:
    """Refuse an existing tokenizer with more tokens than a new model has rows in its embedding."""
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the tokenizer of {name} has {tokenizer.vocab_size:,} tokens, but vocab_size in "
            f"[model.architecture] is {rows:,}; set it to at least {tokenizer.vocab_size}"
        )


def _special_tokens(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Return the special token ids of a new model's `config.json`."""
    bos = tokenizer.opening[0] if tokenizer.opening else None
    return {"bos_token_id": bos, **tokenizer.special_token_ids("eos", "pad")}

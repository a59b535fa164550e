"""A training that is ready to start, and what the methods that start from a base model share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.backend import device, mx, nn
from smidgen.config import FinetuneConfig, TeacherConfig, TopTeacherConfig
from smidgen.data.templates import Tokenizer
from smidgen.data.types import StepResult
from smidgen.errors import ConfigError
from smidgen.models.architectures import ModelConfigJson
from smidgen.models.graph import quantized_parameters
from smidgen.models.load import LoadedModel, load
from smidgen.models.lora import dequantize
from smidgen.training.batches import BatchSource, StepBatch, TrainRow
from smidgen.training.objectives import Objective
from smidgen.training.row_cache import PendingCache
from smidgen.training.teacher import Teacher
from smidgen.training.training_plan import TrainingPlan
from smidgen.training.trunk import Trunk, trunk_states

PLAIN_SHARE = 0.25
"""Share of the memory that the weights of a dequantised base may take."""


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
        caches: what is computed once per row and then read.
        loaded: the model with its tokenizer, if it can answer the task's prompts while it is trained.
        begin: called before the first step of a run of the training stage, with whether it goes on from a
            checkpoint (`resumed`); returns a sentence or nothing, or raises `WorkError`.
        watch: called after every step; returns what is worth telling, or raises `WorkError`.
    """

    model: nn.Module
    objective: Objective[Any]
    batches: BatchSource[Any]
    validation: Sequence[StepBatch]
    save: Callable[[Path], None]
    plan: TrainingPlan | None = None
    cut_rows: int | None = None
    caches: tuple[PendingCache, ...] = ()
    loaded: LoadedModel | None = None
    begin: Callable[..., str] | None = None
    watch: Callable[[StepResult], Sequence[str]] | None = None


def check_length(max_length: int, config: ModelConfigJson, name: str) -> None:
    """Refuse rows that may be longer than the context of a model.

    Raises:
        ConfigError: they may be.
    """
    context_length = config.get("max_position_embeddings") or max_length
    if max_length > context_length:
        raise ConfigError(
            f"train.max_length is {max_length}, but the context of {name} has {context_length} tokens; "
            "lower it"
        )


def fits_dequantized(parameters: int) -> bool:
    """Whether a base's quantised parameters are few enough to be dequantised once, not block by block."""
    return 4 * parameters < PLAIN_SHARE * device().memory_bytes


def load_for_training(name: str, max_length: int, *, adapter: Path | None = None) -> LoadedModel:
    """Load a base model or a teacher for rows of `max_length` tokens.

    On a CPU, a quantised model is dequantised once, unless the memory is needed; its blocks are then
    dequantised in turn. The weights that are computed with are the same, so an adapter fits the quantised
    base.

    Raises:
        ConfigError: rows may be longer than the context of the model.
        ModelError: as in `load`.
    """
    loaded = load(name, adapter=adapter)
    check_length(max_length, loaded.config, loaded.name)
    # On a GPU, quantised products are as fast.
    if device().kind == "cpu" and fits_dequantized(quantized_parameters(loaded.model)):
        dequantize(loaded.model, mx.float32, to_read=True)
    return loaded


def load_teacher(config: TeacherConfig, tokenizer: Tokenizer, max_length: int) -> Teacher:
    """Load the teacher of a recipe.

    Args:
        config: the table `[train.teacher]`.
        tokenizer: that of the model to train.
        max_length: maximum tokens of a row.

    Raises:
        ConfigError: the teacher has another vocabulary, or its context is too short.
        ModelError: it cannot be loaded.
    """
    adapter = None if config.adapter is None else Path(config.adapter)
    loaded = load_for_training(config.model, max_length, adapter=adapter)
    refuse_other_vocabulary(config.model, loaded.tokenizer, tokenizer)
    return Teacher(loaded.model, config, words=tokenizer.vocab_size)


def refuse_other_vocabulary(name: str, teacher: Tokenizer, student: Tokenizer) -> None:
    """Refuse a teacher whose tokens are not those of the student.

    Raises:
        ConfigError: names a token that differs.
    """
    theirs, ours = teacher.vocabulary, student.vocabulary
    if theirs == ours:
        return
    token = min(theirs.items() ^ ours.items())[0]
    raise ConfigError(
        f"the teacher {name} has {len(theirs)} tokens and the model to train {len(ours)}, and "
        f"{token!r} is {theirs.get(token, 'missing')} there and {ours.get(token, 'missing')} here; logit "
        "distillation needs the same vocabulary, so choose a teacher with the same tokenizer"
    )


def trunk_caches(
    trunk: Trunk | None, model: nn.Module, rows: Sequence[TrainRow], settings: FinetuneConfig, epochs: float
) -> tuple[PendingCache, ...]:
    """Return the cache of a trunk's states; none if it is off, useless or too large."""
    if trunk is None or settings.trunk_cache == "off" or epochs <= 1:
        return ()
    states = trunk_states(trunk, model, rows, settings.trunk_cache)
    return (states,) if states.num_bytes <= settings.trunk_cache_gb * 1e9 else ()


def teacher_caches(
    teacher: Teacher | None, rows: Sequence[TrainRow], config: TopTeacherConfig | None
) -> tuple[PendingCache, ...]:
    """Return the cache of a teacher's most probable tokens; none if all are learnt or it is too large."""
    if teacher is None or teacher.top_k is None or config is None:
        return ()
    pending = teacher.pending(rows)
    return (pending,) if pending.num_bytes <= config.top_k_gb * 1e9 else ()

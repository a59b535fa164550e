"""Jacobi forcing on the trajectories of the base."""

from functools import partial

from smidgen.config import JacobiConfig
from smidgen.errors import ConfigError
from smidgen.models.lora import add_lora
from smidgen.models.shape import LAYERED_KINDS
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.training_job import TrainingJob, load_for_training
from smidgen.pipeline.training_rows import noise_of, rows_of, samples_of, shuffled
from smidgen.training.batches import sorted_batches
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.jacobi import block_batch
from smidgen.training.objectives.consistency import Consistency
from smidgen.training.sft import saver
from smidgen.training.training_plan import plan_training


def prepare_jacobi(context: RunContext) -> TrainingJob:
    """Training on the states of the base's own answers, with or without an adapter.

    Raises:
        ConfigError: the architecture takes no mask.
    """
    settings = context.recipe.train
    assert isinstance(settings, JacobiConfig)
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    if packed_length(loaded.model) is None:
        raise ConfigError(
            f'method = "jacobi" cannot train a {loaded.config.get("model_type")}; expected one of '
            f"{', '.join(LAYERED_KINDS)}"
        )
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    parts, thinking = samples_of(context), context.specialist.model.thinking
    training, validation = rows_of(parts, loaded.tokenizer, settings, thinking=thinking)
    how = BodyPass(recompute=settings.gradient_checkpointing, trunk=frozen_trunk(loaded.model))
    batches = shuffled(training.rows, settings, None)
    collate = partial(block_batch, noise=noise_of(settings), epoch=0)
    return TrainingJob(
        loaded.model,
        Consistency(settings.ar_weight, settings.temperature, how),
        batches,
        sorted_batches(validation.rows, collate, settings.batch_size),
        saver(loaded, settings),
        plan_training(training.rows, batches),
        training.cut_rows,
        loaded=loaded,
    )

"""Preference training of an adapter on the pairs of the recipe's tasks."""

from smidgen.config import DpoConfig
from smidgen.models.lora import add_lora, save_adapter, without_adapter
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.training_job import TrainingJob, load_for_training, trunk_caches
from smidgen.pipeline.training_rows import collate_of, rows_of, samples_of, shuffled, texts_of
from smidgen.training.batches import sorted_batches
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.objectives.preference import DirectPreference, Reference
from smidgen.training.training_plan import plan_training


def prepare_preferences(context: RunContext) -> TrainingJob:
    """Direct preference optimisation against the base."""
    settings = context.recipe.train
    assert isinstance(settings, DpoConfig) and settings.lora is not None
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    add_lora(loaded.model, settings.lora, settings.seed)
    parts, thinking = samples_of(context), context.specialist.model.thinking
    training, validation = rows_of(parts, loaded.tokenizer, settings, thinking=thinking)
    how = BodyPass(recompute=settings.gradient_checkpointing, trunk=frozen_trunk(loaded.model))
    reference = Reference(without_adapter(loaded.model), how)
    capacity = packed_length(loaded.model) if settings.packing else None
    batches = shuffled(training.rows, settings, capacity)
    pairs = [*training.rows, *validation.rows]
    lora = settings.lora
    return TrainingJob(
        loaded.model,
        DirectPreference(reference, settings.beta, settings.loss, settings.label_smoothing, how),
        batches,
        sorted_batches(validation.rows, collate_of(settings, capacity), settings.batch_size),
        lambda path: save_adapter(path, loaded.model, lora),
        plan_training(training.rows, batches),
        training.cut_rows,
        (
            *trunk_caches(how.trunk, loaded.model, [*texts_of(pairs)], settings, settings.epochs),
            reference.pending(pairs),
        ),
        loaded,
    )

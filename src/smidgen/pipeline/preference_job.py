"""Preference training of an adapter on the pairs of the recipe's tasks."""

from functools import partial

from smidgen.config import DpoConfig
from smidgen.models.lora import add_lora, save_adapter, without_adapter
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.training_job import TrainingJob, load_for_training, trunk_caches
from smidgen.training.batches import ShuffledBatches, collated, plan_training, sorted_batches
from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
from smidgen.training.objectives.preference import DirectPreference, Reference, pair_batch
from smidgen.training.preferences import pair_rows


def prepare_preferences(context: RunContext) -> TrainingJob:
    """Direct preference optimisation against the base."""
    settings, thinking = context.recipe.train, context.specialist.model.thinking
    assert isinstance(settings, DpoConfig) and settings.lora is not None
    loaded = load_for_training(context.specialist.model.base, settings.max_length)
    add_lora(loaded.model, settings.lora, settings.seed)
    training, validation = (
        pair_rows(pairs, loaded.tokenizer, settings, thinking=thinking)
        for pairs in context.preferences
    )
    how = BodyPass(recompute=settings.gradient_checkpointing, trunk=frozen_trunk(loaded.model))
    reference = Reference(without_adapter(loaded.model), how)
    capacity = packed_length(loaded.model) if settings.packing else None
    collate = partial(pair_batch, collate=collated(capacity))
    batches = ShuffledBatches(
        training.pairs,
        collate,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    pairs = [*training.pairs, *validation.pairs]
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    lora = settings.lora
    return TrainingJob(
        loaded.model,
        DirectPreference(reference, settings.beta, settings.loss, settings.label_smoothing, how),
        batches,
        sorted_batches(validation.pairs, collate, settings.batch_size),
        lambda path: save_adapter(path, loaded.model, lora),
        plan_training(training.pairs, batches),
        training.cut_rows,
        (*trunk_caches(how.trunk, loaded.model, rows, settings, settings.epochs), reference.pending(pairs)),
    )

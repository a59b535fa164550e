"""A budget follows the recipe and its rows, and what --fit suggests fits."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.backend import Rates
from smidgen.config import parse_recipe
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError, DataError
from smidgen.models.budget import Place, training_budget
from smidgen.pipeline import RunContext, stages_of, training_rows
from smidgen.pipeline import budgets as budgets_file
from smidgen.pipeline.asking import Asked, Asking, asked_samples
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.fitting import fit
from smidgen.pipeline.forecast import forecast, refuse_misfit, stage_needs
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.planned_rows import PlannedRows, Prompts
from smidgen.pipeline.probes import Probes
from smidgen.runs import Run

SHAPE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
PRETRAIN = {
    "name": "made",
    "model": {"architecture": {**SHAPE, "head_dim": 32, "intermediate_size": 64, "vocab_size": 320}},
    "data": {"validation_limit": 2},
    "train": {"method": "pretrain", "total_tokens": 4_000, "batch_size": 2, "max_length": 64},
}

DPO = {"method": "dpo", "max_length": 256, "lora": {"rank": 4}}
PREFERENCES = {
    "name": "preferring",
    "task": "preference",
    "data": {"train_limit": 12, "validation_limit": 2, "test_limit": 2},
}


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a device that nothing else is using."""
    monkeypatch.setattr("smidgen.pipeline.times.measure_rates", lambda repeats: Rates(1e10, 1e10))


def budgets(tmp_path: Path, table: dict[str, Any] | None = None, **train: Any) -> Budgets:
    judge = {
        "name": "planned",
        "task": "judge",
        "data": {"train_limit": 12, "validation_limit": 2, "test_limit": 2},
        "train": {"batch_size": 8, "max_length": 384, **train},
        "evaluate": {"batch_size": 2, "max_tokens": 8},
        "quantize": {"bits": 4},
        "export": {} if "lora" in train else {"formats": ["fused", "gguf"]},
    }
    recipe = parse_recipe(table or judge, source="test")
    return Budgets(RunContext(recipe, Run(tmp_path / "run")))


def test_every_stage_has_a_budget_and_nothing_is_written(tmp_path: Path):
    planned = budgets(tmp_path, lora={"rank": 4})
    stages = stage_needs(planned)
    assert [stage.name for stage in stages] == [stage.name for stage in stages_of(planned.context)]
    assert all(stage.peak_bytes >= stage.needed_bytes > 1e6 for stage in stages)
    disk = {stage.name: stage.disk_bytes for stage in stages}
    assert disk["train"] == 4 * planned.shape.trainable(planned.context.lora) * (1 + 2 * 3)
    assert disk["export-peft"] < disk["quantize"] < disk["export-gguf-q8_0"] < disk["export-fused"]
    assert not (tmp_path / "run").exists()


def test_the_batches_are_those_of_the_training(tmp_path: Path):
    planned = budgets(tmp_path, epochs=2.0, lora={"rank": 4, "num_layers": 2})
    job = prepare_training(planned.context)
    drawn = [batch for _ in range(job.batches.num_steps) for batch in job.batches.next_step()]
    largest = planned.batches.largest
    assert (largest.rows, largest.length) in {batch.inputs.shape for batch in drawn}
    assert largest.positions == max(batch.inputs.size for batch in drawn)
    assert planned.batches.plan == job.plan
    (states,) = job.caches
    assert planned.state_bytes == states.num_bytes


def test_the_pairs_and_caches_are_those_of_the_training(tmp_path: Path):
    planned = budgets(tmp_path, {**PREFERENCES, "train": {**DPO, "batch_size": 3}})
    job = prepare_training(planned.context)
    drawn = [batch for _ in range(job.batches.num_steps) for batch in job.batches.next_step()]
    largest = planned.batches.largest
    assert (largest.rows, largest.length) in {batch.inputs.shape for batch in drawn}
    assert planned.batches.plan == job.plan
    assert sum(batch.answers.tokens for batch in drawn) == planned.batches.tokens
    assert all(len(batch.answers.rows) == 2 * len(batch.chosen) for batch in drawn)


def test_a_teacher_has_its_memory_disk_and_time(tmp_path: Path):
    teacher = {"model": "smidgen:nano", "top_k": 8}
    alone, taught = budgets(tmp_path, epochs=2.0), budgets(tmp_path, epochs=2.0, teacher=teacher)
    job = prepare_training(taught.context)
    (stored,) = job.caches
    assert (taught.target_bytes, alone.target_bytes) == (stored.num_bytes, 0)
    assert taught.training().disk == alone.training().disk + stored.num_bytes
    weights = taught.training().budget.moments["loading"]
    assert (
        weights["teacher"] == weights["weights"] and "teacher" not in alone.training().budget.moments["step"]
    )
    assert training_budget(taught.largest_step).needed > training_budget(alone.largest_step).needed
    small = budgets(tmp_path, epochs=2.0, teacher={**teacher, "top_k_gb": 1e-9})
    assert small.target_bytes == 0 and prepare_training(small.context).caches == ()


def test_reading_targets_takes_less_time_than_asking_the_teacher(tmp_path: Path):
    teacher = {"model": "smidgen:nano"}
    seconds = [
        forecast(budgets(tmp_path, epochs=4.0, **train), available=10**10).time.seconds
        for train in ({}, {"teacher": {**teacher, "top_k": 8}}, {"teacher": teacher})
    ]
    assert seconds == sorted(seconds) and len(set(seconds)) == 3
    pairs = [
        forecast(
            budgets(tmp_path, {**PREFERENCES, "train": {**DPO, "epochs": epochs}}), available=10**10
        ).time
        for epochs in (1.0, 2.0)
    ]
    assert pairs[0].seconds < pairs[1].seconds < 2 * pairs[0].seconds, (
        "the reference is read in the second epoch"
    )


def test_rows_that_cannot_be_read_are_taken_to_be_full(tmp_path: Path):
    table = {
        "name": "planned",
        "task": "judge",
        "data": {"train": str(tmp_path / "none.jsonl"), "test": str(tmp_path / "none.jsonl")},
        "train": {"batch_size": 4, "max_length": 300},
    }
    planned = budgets(tmp_path, table)
    assert planned.batches.largest.positions == 4 * 320 and planned.batches.largest.trained == 4 * 300
    expected = forecast(planned, available=10**10, rate=1000.0)
    assert expected.time is None and "cannot be read" in expected.notes[0]
    needed = {stage.name: stage.needed_bytes for stage in expected.stages}
    assert needed["base_examples"] > needed["before"]


def test_pretraining_has_a_budget_too(tmp_path: Path):
    planned = budgets(tmp_path, PRETRAIN)
    assert planned.batches.largest.positions == 2 * 64
    expected = forecast(planned, available=10**10, rate=100.0)
    assert expected.time is not None and expected.time.seconds == pytest.approx(4096 / 100)
    assert [stage.name for stage in expected.stages] == ["data", "train", "report"]


def test_time_and_cost_follow_the_rate(tmp_path: Path):
    planned = budgets(tmp_path, lora={"rank": 4})
    slow, fast = (forecast(planned, available=10**10, rate=rate).time for rate in (100.0, 200.0))
    assert slow is not None and fast is not None
    assert slow.seconds == pytest.approx(2 * fast.seconds) and slow.cost == pytest.approx(
        slow.seconds / 3600 * 0.1
    )
    measured = forecast(planned, available=10**10).time
    assert measured is not None and measured.tokens_per_second > 0


def test_a_recipe_that_fits_is_left_alone(tmp_path: Path):
    assert fit(budgets(tmp_path), 10**10).changes == {}


@pytest.mark.parametrize("table", ["train", "train.lora", "evaluate"])
def test_the_smallest_change_that_fits_is_found(tmp_path: Path, table: str):
    """Each kind of change is enough if a little less memory is there than the recipe takes."""
    planned = budgets(tmp_path, lora={"rank": 4})
    if table == "train":
        available = training_budget(planned.largest_step).needed - 1
    elif table == "evaluate":
        available = max(stage.needed_bytes for stage in stage_needs(planned)) - 1
        if available < training_budget(planned.largest_step).needed:
            pytest.skip("the training takes more than the evaluations")
    else:
        smallest = {"batch_size": 1, "gradient_accumulation": 8, "gradient_checkpointing": True}
        train = planned.context.recipe.train.model_copy(update=smallest)
        recipe = planned.context.recipe.model_copy(update={"train": train})
        available = training_budget(planned.changed(recipe).largest_step).needed - 1
    found = fit(planned, available)
    assert (table in found.changes and f"[{table}]" in found.toml and found.notes) or table == "evaluate"
    assert all(stage.needed_bytes <= available for stage in stage_needs(found.budgets))
    old, new = planned.context.recipe.train, found.budgets.context.recipe.train
    assert old.batch_size == new.batch_size * new.gradient_accumulation
    assert new.max_length == old.max_length


def test_on_a_gpu_a_base_in_4_bits_is_suggested(tmp_path: Path):
    planned = budgets(tmp_path, batch_size=1, gradient_checkpointing=True, lora={"rank": 4})
    on_gpu = Budgets(planned.context, Place("metal"))
    found = fit(on_gpu, training_budget(on_gpu.largest_step).needed - 1)
    assert found.changes == {"model": {"base": "BASE-4bit"}} and "smidgen quantize" in found.notes[0]
    assert found.budgets.shape.quantized_parameters > 0
    assert "not measured" in forecast(on_gpu, available=10**10, rate=1.0).notes[0]


SMALL_STEPS = {"batch_size": 1, "gradient_checkpointing": True}


def test_rows_are_shortened_last_and_it_is_said(tmp_path: Path):
    planned = budgets(tmp_path, **SMALL_STEPS, max_length=512)
    found = fit(planned, training_budget(planned.largest_step).needed - 1)
    assert found.changes == {"train": {"max_length": 256}}
    assert "as a last resort" in found.notes[-1]
    job = prepare_training(found.budgets.context)
    assert job.plan == found.budgets.batches.plan


def test_what_changes_the_rows_or_their_batches_is_read_again(tmp_path: Path):
    planned = budgets(tmp_path, epochs=1.0)
    recipe, steps = planned.context.recipe, planned.batches.plan.steps
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 3.0})})
    assert planned.changed(longer).batches.plan.steps == 3 * steps
    fewer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_limit": 4})})
    assert planned.changed(fewer).batches.plan.rows < planned.batches.plan.rows


def test_a_length_at_which_training_is_refused_is_not_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The answers have up to 102 tokens, so 64 are not offered, and every length is tried once."""
    lengths, described = [], []
    make_rows, describe = training_rows.sft_rows, budgets_file.describe

    def noted_rows(samples: Any, tokenizer: Any, settings: Any, **options: Any) -> Any:
        lengths.append(settings.max_length)
        return make_rows(samples, tokenizer, settings, **options)

    def noted_name(name: str) -> Path:
        described.append(name)
        return describe(name)

    monkeypatch.setattr(training_rows, "sft_rows", noted_rows)
    monkeypatch.setattr(budgets_file, "describe", noted_name)
    planned = budgets(tmp_path, **SMALL_STEPS, max_length=512)
    shortest = budgets(tmp_path, **SMALL_STEPS, max_length=128)
    smallest = training_budget(shortest.largest_step).needed
    del lengths[:], described[:]
    with pytest.raises(ConfigError, match=f"with the smallest settings it needs {smallest // 10**6} MB"):
        fit(planned, smallest - 10**6)
    assert lengths == [512, 512, 64, 128, 128]  # training and validation rows, or the fault
    assert described == ["smidgen:nano"]
    assert fit(planned, smallest).changes == {"train": {"max_length": 128}}


def test_rows_that_cannot_be_trained_on_are_refused(tmp_path: Path):
    planned = budgets(tmp_path, max_length=64)
    for refused in (lambda: fit(planned, 10**10), lambda: forecast(planned, available=10**10, rate=1.0)):
        with pytest.raises(DataError, match="22 of 22 samples cannot be trained on"):
            refused()


def test_worked_examples_take_memory(tmp_path: Path):
    planned = budgets(tmp_path)
    task, tokenizer = planned.context.tasks[0], load_tokenizer(planned.folder or tmp_path)
    asked = asked_samples(planned.context, task, Asking(examples=3))
    assert isinstance(asked, Asked)
    longest = max(len(tokenizer.render_prompt(sample.messages)) for sample in asked.samples)

    def prompts(examples: int) -> Prompts:
        asking = Asking(examples=examples)
        return PlannedRows().prompts_of(planned.context, task, asking, planned.folder or tmp_path)

    assert prompts(3)[:2] == (len(asked.samples), longest)
    assert prompts(0).longest < longest / 2
    needed = {stage.name: stage.needed_bytes for stage in stage_needs(planned)}
    assert needed["base_examples"] > needed["base_constrained"] == needed["before"]


def test_what_never_fits_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"with the smallest settings it needs .*train an adapter"):
        fit(budgets(tmp_path), 10**8)
    with pytest.raises(ConfigError, match=r"needs .*100 MB may be used here; use a smaller base"):
        fit(budgets(tmp_path, lora={"rank": 4}), 10**8)


def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path):
    expected = forecast(budgets(tmp_path), available=10**8, rate=1.0)
    assert not expected.fits
    with pytest.raises(ConfigError, match=r"stage 'train' of planned needs .*, and 100 MB may be used"):
        refuse_misfit(expected)
    refuse_misfit(forecast(budgets(tmp_path), available=10**10, rate=1.0))


def test_rows_longer_than_the_context_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="max_length is 4096, but the context of smidgen:nano has 2048"):
        _ = budgets(tmp_path, max_length=4096).shape


@pytest.mark.slow
def test_steps_with_cached_states_are_measured_apart(tmp_path: Path):
    once, twice = (
        Probes(budgets(tmp_path, epochs=epochs, lora={"rank": 4, "num_layers": 1}).context)
        for epochs in (1.0, 2.0)
    )
    assert once.training.minutes > 0 and twice.training.minutes > 0
    job = prepare_training(twice.context)
    assert twice._share_after_first_epoch(job) == 0.5
    assert once._share_after_first_epoch(prepare_training(once.context)) == 0

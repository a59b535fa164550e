"""A teacher and preferences go through the stages, and what they are learnt from is told."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import parse_recipe
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ConfigError
from smidgen.files import read_json
from smidgen.models.adapter import read_adapter
from smidgen.pipeline import RunContext, run_recipe, stages_of
from smidgen.pipeline.events import result_of
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.runner import inputs_hash
from smidgen.runs import Run
from smidgen.training.loop import train
from smidgen.training.objectives.distillation import Distillation

DATA = {"train_limit": 6, "validation_limit": 2, "test_limit": 2}
LORA = {"rank": 2, "alpha": 4.0, "num_layers": 1, "rslora": True}
TRAIN = {"epochs": 2.0, "batch_size": 4, "max_length": 256, "lora": LORA}


def context_of(folder: Path, table: dict[str, Any]) -> RunContext:
    return RunContext(parse_recipe({"name": "tried", **table}, source="test"), Run(folder / "run"))


def trained(context: RunContext) -> dict[str, Any]:
    """Run data and training; return the training's entry of the report."""
    result_of(run_recipe(context, only=("data", "train")))
    assert not [name for name in ("trunk", "teacher", "reference") if context.run.path(name).exists()]
    (stage,) = [stage for stage in stages_of(context) if stage.name == "train"]
    return dict(stage.entry(context))


def test_an_adapter_is_taught(tmp_path: Path, tiny_model_dir: Path):
    shutil.copytree(tiny_model_dir, tmp_path / "teacher")
    table = {
        "task": "answers",
        "model": {"base": str(tiny_model_dir)},
        "data": DATA,
        "train": {**TRAIN, "teacher": {"model": str(tmp_path / "teacher"), "top_k": 7}},
    }
    context = context_of(tmp_path, table)
    entry = trained(context)
    assert entry["model"]["method"] == f"rsLoRA rank 2, alpha 4, taught by {tmp_path / 'teacher'}"
    last = context.run.read_jsonl("metrics.jsonl")[-1]["metrics"]
    assert {"hard_loss", "divergence", "validation_divergence"} <= last.keys()
    adapter = read_adapter(context.best)
    assert adapter.rslora and set(adapter.scales.values()) == {4.0 / 2**0.5}

    (stage,) = [stage for stage in stages_of(context) if stage.name == "train"]
    before = inputs_hash(context, stage)
    (tmp_path / "teacher" / "generation_config.json").write_text("{}")
    assert inputs_hash(context, stage) != before, "another teacher under the same name"


def test_an_adapter_learns_preferences(tmp_path: Path):
    context = context_of(tmp_path, {"task": "preference", "data": DATA, "train": {"method": "dpo", **TRAIN}})
    entry = trained(context)
    assert entry["model"]["method"] == "rsLoRA rank 2, alpha 4, on preferences"
    assert read_json(context.run.path("training.json"))["plan"]["rows"] == 5
    metrics = context.run.read_jsonl("metrics.jsonl")
    assert metrics[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert {"margin", "preferred", "validation_margin"} <= metrics[-1]["metrics"].keys()


def test_a_task_without_pairs_is_refused_before_anything_is_written(tmp_path: Path):
    context = context_of(tmp_path, {"task": "answers", "data": DATA, "train": {"method": "dpo", **TRAIN}})
    with pytest.raises(ConfigError, match=r"the task answers has no worse answers"):
        result_of(run_recipe(context, only=("data", "train")))
    assert not context.run.path("data").exists()


def test_a_new_model_is_taught_by_one_with_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.pipeline.corpus.TOKENIZER_DOCUMENTS", 300)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"head_dim": 16, "intermediate_size": 32, "vocab_size": 320}
    settings = {"method": "pretrain", "total_tokens": 256, "batch_size": 2, "max_length": 64}
    table = {"model": {"architecture": shape}, "data": {"validation_limit": 2}, "train": settings}
    prepare_training(context_of(tmp_path, table)).save(tmp_path / "larger")
    taught = {**table, "train": {**settings, "teacher": {"model": str(tmp_path / "larger")}}}
    job = prepare_training(context_of(tmp_path, taught))
    assert isinstance(job.objective, Distillation) and not job.caches
    recipe = context_of(tmp_path, taught).recipe
    results = list(train(job.model, job.objective, job.batches, recipe.train, validation=job.validation))
    assert len(results) == 2 and results[-1].metrics["divergence"] < 0.1
    other = {**table, "train": {**settings, "teacher": {"model": "smidgen:nano"}}}
    with pytest.raises(
        ConfigError, match=r"the teacher smidgen:nano has \d+ tokens and the model to train \d+"
    ):
        prepare_training(context_of(tmp_path, other))


@pytest.mark.slow
def test_a_new_model_gets_the_tokenizer_of_one_that_exists(tmp_path: Path, tiny_model_dir: Path):
    own = load_tokenizer(tiny_model_dir)
    table: dict[str, Any] = {
        "model": {"tokenizer": str(tiny_model_dir), "architecture": {"vocab_size": own.vocab_size + 8}},
        "train": {"method": "pretrain", "total_tokens": 64, "batch_size": 1, "max_length": 32},
    }
    context = context_of(tmp_path, table)
    trained(context)
    made = load_tokenizer(context.best)
    assert made.vocabulary == own.vocabulary
    config = read_json(context.best / "config.json")
    assert config["vocab_size"] == own.vocab_size + 8
    assert config["eos_token_id"] == own.special_token_ids("eos")["eos_token_id"]

    table["model"]["architecture"]["vocab_size"] = own.vocab_size - 1
    with pytest.raises(
        ConfigError, match=rf"has .* tokens, but vocab_size .*; set it to at least {own.vocab_size}"
    ):
        trained(context_of(tmp_path / "small", table))

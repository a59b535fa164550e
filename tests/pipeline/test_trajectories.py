"""A recipe that learns to guess: trajectories of the base are collected, and a model is trained on them."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.backend import Rates
from smidgen.config import JacobiConfig, parse_recipe
from smidgen.data.templates import load_tokenizer
from smidgen.data.trajectories import read_trajectories
from smidgen.data.types import Request, Sampling
from smidgen.errors import ConfigError, DataError
from smidgen.files import content_hash, read_json, sha256_file
from smidgen.inference.mlx import MlxEngine
from smidgen.models.adapter import read_adapter
from smidgen.models.load import load
from smidgen.pipeline import RunContext, run_recipe, stages_of
from smidgen.pipeline import trajectories as module
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.events import MessageEvent, StepEvent, result_of
from smidgen.pipeline.fitting import fit
from smidgen.pipeline.forecast import stage_needs
from smidgen.pipeline.jobs import prepare_training
from smidgen.pipeline.planning import plan_run
from smidgen.pipeline.times import Times
from smidgen.pipeline.trajectory_rows import block_rows
from smidgen.runs import Run
from smidgen.training.objectives.consistency import Consistency

DATA = {"train_limit": 12, "validation_fraction": 0.25, "test_limit": 2}
TRAIN = {
    "method": "jacobi",
    "batch_size": 2,
    "max_length": 192,
    "block_size": 4,
    "max_tokens": 10,
    "noise_window": 4,
    "epochs": 2.0,
    "learning_rate": 1e-3,
}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of few rows."""
    monkeypatch.setattr(module, "SHARD", 4)


def context_of(folder: Path, base: Path, **train: Any) -> RunContext:
    table = {"name": "guesses", "task": "answers", "model": {"base": str(base)}, "data": DATA}
    return RunContext(
        parse_recipe({**table, "train": {**TRAIN, **train}}, source="test"), Run(folder / "run")
    )


def shards(context: RunContext) -> dict[str, bytes]:
    folder = context.run.path("trajectories")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.jsonl"))}


def test_a_model_is_trained_on_its_own_trajectories(tmp_path: Path, tiny_model_dir: Path):
    context = context_of(tmp_path, tiny_model_dir)
    events = list(run_recipe(context, only=("train",)))
    said = [event.text for event in events if isinstance(event, MessageEvent)]
    assert any(
        text.startswith("collected 12 answers, ") and "of which a pass found 1." in text for text in said
    )
    steps = [event for event in events if isinstance(event, StepEvent) and event.stage == "trajectories"]
    assert steps[-1].step == steps[-1].total == 12

    # what was collected is what the engine says, prompts in the order of their lengths
    folder = context.run.path("trajectories")
    samples = {sample.id: sample for sample in context.training_samples}
    found = list(read_trajectories(folder / "train"))
    engine = MlxEngine(load(str(tiny_model_dir)))
    requests = [Request(samples[one.id], Sampling(max_tokens=10)) for one in found]
    said = {request.sample.id: completion for request, completion in engine.complete(requests)}
    assert {one.id: tuple(one.answer) for one in found} == {n: c.token_ids for n, c in said.items()}
    assert {one.id: one.is_finished for one in found} == {
        name: completion.finish_reason == "stop" for name, completion in said.items()
    }
    assert sorted(samples) == sorted(one.id for one in found)
    lengths = [len(one.prompt) for one in found]
    assert lengths == sorted(lengths)

    facts = read_json(folder / "facts.json")
    assert facts["answers"] == 12 and facts["block_size"] == 4
    assert [each["answers"] for each in facts["files"]] == [4, 4, 1, 3]
    assert all(sha256_file(folder / each["file"]) == each["sha256"] for each in facts["files"])

    metrics = context.run.read_jsonl("metrics.jsonl")
    assert len(metrics) == 10
    assert {"ar_loss", "divergence", "guess_loss"} <= metrics[-1]["metrics"].keys()
    assert metrics[-1]["metrics"]["validation_divergence"] >= 0
    (stage,) = [stage for stage in stages_of(context) if stage.name == "train"]
    assert dict(stage.entry(context))["model"]["method"] == "full fine-tuning, on Jacobi trajectories"
    assert read_json(context.run.path("training.json"))["plan"]["rows"] == 9


@pytest.mark.slow
def test_a_killed_collection_comes_to_the_same_files(tmp_path: Path, tiny_model_dir: Path):
    whole = context_of(tmp_path / "whole", tiny_model_dir)
    result_of(run_recipe(whole, only=("trajectories",)))
    killed = context_of(tmp_path / "killed", tiny_model_dir, lora={"rank": 2, "num_layers": 1})
    for event in (running := run_recipe(killed, only=("trajectories",))):
        if isinstance(event, StepEvent) and event.stage == "trajectories" and event.step == 6:
            running.close()  # in the middle of the second shard
    assert list(shards(killed)) == ["train/shard-00000.jsonl"]
    events = list(run_recipe(killed, only=("trajectories",)))
    new = [event for event in events if isinstance(event, StepEvent) and event.is_new]
    assert len(new) == 8  # not those of the first shard
    assert shards(killed) == shards(whole)
    facts = [read_json(context.run.path("trajectories/facts.json")) for context in (whole, killed)]
    assert facts[0] == facts[1]
    # an adapter in the last block learns on them
    result_of(run_recipe(killed, only=("train",)))
    assert read_adapter(killed.best).scales
    events = list(run_recipe(context_of(tmp_path / "killed", tiny_model_dir, ar_weight=1.0), only=("train",)))
    assert not [e for e in events if isinstance(e, StepEvent) and e.stage == "trajectories"]


def test_answers_of_many_blocks_may_be_left_out(tmp_path: Path, tiny_model_dir: Path):
    context = context_of(tmp_path, tiny_model_dir)
    settings = context.recipe.train
    assert isinstance(settings, JacobiConfig)
    tokenizer, samples = load_tokenizer(tiny_model_dir), context.training_samples

    def rows(most: int | None) -> list[int]:
        limited = settings.model_copy(update={"max_trajectory_count": most})
        found = block_rows(samples, tokenizer, limited, thinking=False)
        return [len(row.blocks) for row in found.rows]

    counts = rows(None)
    assert min(counts) < max(counts) == 3
    assert rows(2) == [count for count in counts if count <= 2]
    samples = [sample for sample, count in zip(samples, counts, strict=True) if count == 3]
    with pytest.raises(
        DataError, match=r"none of \d answers has at most 2 blocks of 4 tokens; raise train\.max"
    ):
        rows(2)


def test_prompts_without_room_are_refused_before_anything_is_written(tmp_path: Path, tiny_model_dir: Path):
    context = context_of(tmp_path, tiny_model_dir, max_length=12)
    with pytest.raises(
        DataError, match=r"none of 9 prompts leaves room for an answer within train\.max_length, 12: sample"
    ):
        result_of(run_recipe(context, only=("train",)))
    assert not context.run.path("data").exists()


def test_prompts_without_room_are_left_out_and_counted(tmp_path: Path, tiny_model_dir: Path):
    context = context_of(tmp_path, tiny_model_dir)
    tokenizer = load_tokenizer(tiny_model_dir)
    lengths = sorted(len(tokenizer.render_prompt(one.messages)) for one in context.training_samples)
    context = context_of(tmp_path, tiny_model_dir, max_length=lengths[-1])
    events = list(run_recipe(context, only=("train",)))
    said = [event.text for event in events if isinstance(event, MessageEvent)]
    assert any(
        f"no room for an answer within train.max_length, {lengths[-1]}: sample '" in text for text in said
    )
    facts = read_json(context.run.path("trajectories/facts.json"))
    assert facts["left_out"] >= lengths.count(lengths[-1]) and facts["answers"] + facts["left_out"] == 12
    assert read_json(context.run.path("training.json"))["plan"]["rows"] < 9


def test_an_architecture_without_a_mask_is_refused(tmp_path: Path, tiny_model_dir: Path, monkeypatch):
    monkeypatch.setattr("smidgen.pipeline.jacobi_job.packed_length", lambda model: None)
    with pytest.raises(ConfigError, match=r'method = "jacobi" cannot train a qwen3; expected one of'):
        prepare_training(context_of(tmp_path, tiny_model_dir))


def test_a_plan_before_the_collection_is_near_what_comes(tmp_path: Path, tiny_model_dir: Path, monkeypatch):
    context = context_of(tmp_path, tiny_model_dir)
    budgets = Budgets(context)
    needs = {stage.name: stage for stage in stage_needs(budgets)}
    assert needs["trajectories"].needed_bytes > 0 and needs["train"].needed_bytes > 0
    (decoding,) = [stage for stage in stages_of(context) if stage.name == "decoding"]
    parts = decoding.budget(budgets).budget.moments["decoding"]
    one = budgets.decoding(context.tasks[0], context.trained_engine)
    # each of three engines has copied the weights, and drafts have logits
    assert parts["weights"] == 4 * one.weights and parts["logits"] == 2 * 4 * 2 * 65 * 320
    times = Times(budgets, Rates(1e11, 3e10))
    seconds, answers = decoding.seconds(times), times.evaluation(context.tasks[0], context.trained_engine)
    assert seconds is not None and answers is not None and seconds > 2 * 3 * answers * 0.9
    planned = budgets.batches
    assert planned.plan is not None and planned.plan.rows == 9 and planned.plan.steps == 10
    assert fit(budgets, 1 << 40).changes == {}
    found = plan_run(context)
    assert {stage.name for stage in found.stages} >= {"trajectories", "train"}
    assert next(stage for stage in found.stages if stage.name == "trajectories").minutes > 0
    job = prepare_training(context)
    assert isinstance(job.objective, Consistency)
    result_of(run_recipe(context, only=("trajectories",)))
    after = Budgets(context_of(tmp_path, tiny_model_dir)).batches
    assert after.plan is not None and after.plan.rows == 9
    assert after.tokens != planned.tokens  # the model's own answers


@pytest.mark.slow
def test_ways_of_decoding_are_compared_in_the_report(tmp_path: Path, tiny_model_dir: Path):
    context = context_of(tmp_path, tiny_model_dir)
    result_of(run_recipe(context))
    found = read_json(context.run.path("decoding.json"))["batches"]
    assert found.keys() == {"1", "8"}
    for ways in found.values():
        assert ways.keys() == {"ar", "lookup", "jacobi"}
        for facts in ways.values():
            assert facts["same"] == facts["answers"] == 2
            assert facts["right"] == ways["ar"]["right"]
            assert facts["tokens"] == ways["ar"]["tokens"] > 0
        jacobi = ways["jacobi"]
        assert sum(int(n) * count for n, count in jacobi["committed"].items()) == jacobi["tokens"]
        assert jacobi["tokens_per_pass"] >= 1 and jacobi["speed_up"]["low"] <= jacobi["speed_up"]["high"]
    assert read_json(context.run.path("report.json"))["decoding"]["batches"] == found
    page = context.run.path("report.html").read_text(encoding="utf-8")
    assert "Several tokens a pass" in page and "One answer at a time" in page
    assert "The same answers" in page and "2 of 2" in page


@pytest.mark.slow
def test_a_second_round_learns_from_the_model_of_the_first(tmp_path: Path, tiny_model_dir: Path):
    first = context_of(tmp_path / "first", tiny_model_dir, learning_rate=1e-2)
    result_of(run_recipe(first, only=("train",)))
    second = context_of(tmp_path / "second", first.best, num_guesses=2)
    result_of(run_recipe(second, only=("train",)))
    facts = [read_json(one.run.path("trajectories/facts.json"))["model"]["sha256"] for one in (first, second)]
    assert facts == [content_hash(tiny_model_dir), content_hash(first.best)]
    samples = {sample.id: sample for sample in second.training_samples}
    found = list(read_trajectories(second.run.path("trajectories/train")))
    requests = [Request(samples[one.id], Sampling(max_tokens=10)) for one in found]
    said = {r.sample.id: c.token_ids for r, c in MlxEngine(load(str(first.best))).complete(requests)}
    assert {one.id: tuple(one.answer) for one in found} == said
    assert shards(first) != shards(second)


@pytest.mark.parametrize(
    ("train", "fault"),
    [
        ({"trunk_cache": "float16"}, "'trunk_cache' is for rows that are the same in every epoch"),
        ({"trunk_cache_gb": 2.0}, "'trunk_cache_gb' is for rows that are the same in every epoch"),
        ({"packing": True}, r"unknown key 'train\.packing'"),
        ({"block_size": 1}, "greater than 1"),
        ({"context": "some"}, "'clean', 'noisy' or 'window'"),
    ],
)
def test_settings_that_it_cannot_use_are_refused(tmp_path: Path, tiny_model_dir: Path, train, fault):
    with pytest.raises(ConfigError, match=fault):
        context_of(tmp_path, tiny_model_dir, **train)

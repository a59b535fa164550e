"""The metric of a model in training is that of an evaluation of it, and measuring it changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import parse_recipe
from smidgen.errors import ConfigError, Paused
from smidgen.evaluation.collect import evaluate
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load
from smidgen.pipeline import RunContext, run_recipe
from smidgen.pipeline.events import MessageEvent, StepEvent, result_of
from smidgen.pipeline.task_metric import metric_rows, metric_samples, task_metric
from smidgen.runs import Run

LABELS = ["yes", "no"]


def rows(first: int, last: int) -> str:
    return "".join(
        json.dumps({"text": f"question {number}?", "intent": LABELS[number % 2]}) + "\n"
        for number in range(first, last)
    )


def recipe(tmp_path: Path, **train: Any) -> dict[str, Any]:
    data, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    data.write_text(rows(0, 24))
    test.write_text(rows(24, 28))
    settings = {"batch_size": 4, "max_length": 128, "learning_rate": 1e-3, "checkpoint_every": 2, **train}
    return {
        "name": "tiny",
        "task": "intent",
        "model": {"base": "smidgen:nano"},
        "data": {"train": str(data), "test": str(test), "validation_fraction": 0.3},
        "train": {"lora": {"rank": 2}, **settings},
        "evaluate": {"max_tokens": 4, "temperature": 0.7},
    }


def context(tmp_path: Path, folder: str = "run", **train: Any) -> RunContext:
    return RunContext(parse_recipe(recipe(tmp_path, **train), source="test"), Run(tmp_path / folder))


def trained(found: RunContext) -> list[dict[str, Any]]:
    result_of(run_recipe(found, only=("data", "train")))
    return found.run.read_jsonl("metrics.jsonl")


def test_the_metric_is_that_of_an_evaluation_on_validation_rows(tmp_path: Path):
    found, loaded = context(tmp_path, metric_every=1, metric_rows=5), load("smidgen:nano")
    metric = task_metric(found, loaded)
    assert metric is not None and metric.every == 1 and not metric.decides
    (task,) = found.tasks
    samples = metric_samples(task, 5)
    assert len(samples) == metric_rows(found) == 5
    assert {sample.id for sample in samples} <= {sample.id for sample in task.split_samples[1]}
    assert metric_rows(context(tmp_path, metric_every=1)) == len(task.split_rows[""][1]) == 7
    sampling = found.sampling.__class__(max_tokens=4)
    result = evaluate(task.task, samples, MlxEngine(loaded), sampling, tmp_path / "r.jsonl", model="m")
    name, first = next(iter(result.metrics.items()))
    assert metric.measure() == {name: first.value} == metric.measure()


@pytest.mark.slow
def test_a_measured_run_is_the_same_run_bit_for_bit(tmp_path: Path):
    plain = trained(context(tmp_path, "plain", validate_every=2))
    measured = trained(context(tmp_path, "measured", validate_every=2, metric_every=2, metric_rows=3))
    assert [row["step"] for row in measured if "metric" in row] == [2, 4, 5]
    assert len(plain) == 5
    for one, other in zip(plain, measured, strict=True):
        names = ("loss", "grad_norm", "validation_loss")
        assert [one[name] for name in names] == [other[name] for name in names]


@pytest.mark.slow
def test_a_paused_run_goes_on_with_a_lower_rate_only_if_asked(tmp_path: Path):
    first = replace(context(tmp_path), train_share=0.5)
    with pytest.raises(Paused, match=r"paused after step 3 of 5; run again to go on"):
        trained(first)
    lower = context(tmp_path, learning_rate=1e-4)
    events = list(run_recipe(replace(lower, from_checkpoint=True), only=("data", "train")))
    said = [event.text for event in events if isinstance(event, MessageEvent)]
    assert "after step 3, learning_rate is 0.0001, before it was 0.001" in said
    steps = [(event.step, event.is_new) for event in events if isinstance(event, StepEvent)]
    assert steps == [(1, False), (2, False), (3, False), (4, True), (5, True)]
    rates = [row["learning_rate"] for row in lower.run.read_jsonl("metrics.jsonl")]
    assert max(rates[3:]) <= 1e-4 < rates[2]
    with pytest.raises(ConfigError, match=r"the stage 'train' is finished, so it cannot go on from a check"):
        trained(replace(context(tmp_path, learning_rate=1e-5), from_checkpoint=True))
    assert len(trained(context(tmp_path, learning_rate=1e-5))) == 5, "without it, the training starts over"
    assert not lower.run.path("changes.jsonl").exists()


def test_more_than_the_rate_may_not_change_at_a_checkpoint(tmp_path: Path):
    with pytest.raises(Paused):
        trained(replace(context(tmp_path), train_share=0.5))
    changed = replace(context(tmp_path, batch_size=2), from_checkpoint=True)
    with pytest.raises(
        ConfigError, match=r"more has changed than may at a checkpoint \(train.checkpoint_every"
    ):
        trained(changed)
    assert changed.run.path("checkpoints/step-00000003").is_dir()
    fresh = replace(context(tmp_path, "fresh"), from_checkpoint=True)
    with pytest.raises(ConfigError, match=r"there is no checkpoint in .* to go on from; leave out --from"):
        trained(fresh)


def test_a_method_without_a_model_that_answers_is_refused(tmp_path: Path):
    assert task_metric(context(tmp_path), None) is None
    with pytest.raises(
        ConfigError, match=r'method = "sft" cannot measure the metric of a task; set train.met'
    ):
        task_metric(context(tmp_path, metric_every=1), None)


def test_several_tasks_give_their_mean(tmp_path: Path):
    table = recipe(tmp_path, metric_every=1, metric_rows=2)
    data, settings = table.pop("data"), {"task": table.pop("task")}
    table["tasks"] = [{"name": name, **settings, "data": data} for name in ("one", "two")]
    found = RunContext(parse_recipe(table, source="test"), Run(tmp_path / "several"))
    metric = task_metric(found, load("smidgen:nano"))
    assert metric is not None
    figures = metric.measure()
    first = next(iter(figures))
    assert first == "mean" and len(figures) == 3
    assert figures["mean"] == sum(value for name, value in figures.items() if name != "mean") / 2

"""Times follow what a stage computes and the rates of the device."""

from pathlib import Path
from typing import Any

import pytest

from smidgen.backend import Rates
from smidgen.benchmark.roofline import Weights, decode_bound
from smidgen.config import parse_recipe
from smidgen.models.work import DECODING_SHARE, Answers, answering_seconds
from smidgen.pipeline import RunContext, stages_of
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.forecast import forecast
from smidgen.pipeline.times import Times, times_of
from smidgen.runs import Run

RATES = Rates(1e11, 3e10)
JUDGE: dict[str, Any] = {
    "name": "planned",
    "task": "judge",
    "data": {"train_limit": 12, "validation_limit": 2, "test_limit": 2},
    "train": {"batch_size": 8, "max_length": 384, "lora": {"rank": 4}},
    "evaluate": {"batch_size": 2, "max_tokens": 200},
    "quantize": {"bits": 4},
    "export": {},
}


def budgets(tmp_path: Path, **tables: Any) -> Budgets:
    table = JUDGE | {name: JUDGE.get(name, {}) | changed for name, changed in tables.items()}
    return Budgets(RunContext(parse_recipe(table, source="test"), Run(tmp_path / "run")))


def seconds_of(planned: Budgets, rates: Rates = RATES) -> dict[str, float | None]:
    times = Times(planned, rates)
    return {stage.name: stage.seconds(times) for stage in stages_of(planned.context)}


def test_every_stage_that_computes_has_a_time(tmp_path: Path):
    found = seconds_of(budgets(tmp_path))
    assert {name for name, seconds in found.items() if seconds is None} == {"data", "report"}
    assert all(seconds > 0 for seconds in found.values() if seconds is not None)
    # the base need not end its answers where a trained model does; only prompts are read for `logits`
    assert found["logits"] < found["after"] == found["base_constrained"] < found["before"]
    assert found["before"] < found["base_examples"]
    assert found["export-peft"] < found["export-gguf-q8_0"]


def test_a_device_that_is_twice_as_fast_takes_half(tmp_path: Path):
    planned = budgets(tmp_path)
    once, twice = seconds_of(planned), seconds_of(planned, Rates(2 * RATES.flops, 2 * RATES.bandwidth))
    for name in ("train", "before", "after", "logits", "quantized"):
        assert twice[name] == pytest.approx((once[name] or 0) / 2)


@pytest.mark.slow
def test_more_work_takes_more_time(tmp_path: Path):
    one = seconds_of(budgets(tmp_path))
    rows = seconds_of(budgets(tmp_path, data={"test_limit": 8}))
    assert rows["after"] > 3 * (one["after"] or 0) and rows["train"] == one["train"]
    longer = seconds_of(budgets(tmp_path, evaluate={"max_tokens": 400}))
    assert longer["before"] > one["before"] and longer["after"] == one["after"]
    thinking = seconds_of(budgets(tmp_path, model={"thinking": True}))
    assert thinking["after"] == thinking["before"], "the length of thoughts is not known"
    measured = seconds_of(budgets(tmp_path, train={"metric_every": 1, "metric_rows": 2}))
    validated = seconds_of(budgets(tmp_path, train={"validate_every": 1}))
    assert measured["train"] > one["train"] and validated["train"] > one["train"]
    mixed = seconds_of(budgets(tmp_path, quantize={"bits": None, "target_bits": 5.0}))
    assert mixed["quantize"] > one["quantize"]


def test_decoding_alone_takes_as_long_as_its_bound_allows(tmp_path: Path):
    shape = budgets(tmp_path).shape
    step = shape.parameters - (2 * shape.layers + 1) * shape.width - 2 * shape.layers * shape.head_dim
    for rows in (1, 64):
        answers = Answers(shape, 4 * step, rows=rows, number=640, read=0, longest=0, written=50)
        without = answers._replace(written=0)
        decoding = answering_seconds(answers, RATES) - answering_seconds(without, RATES)
        bound = decode_bound(Weights(step, 0, step, 4 * step), **RATES._asdict(), batch=rows)
        assert 640 * 50 / decoding == pytest.approx(DECODING_SHARE * bound)


def test_a_rate_that_is_known_scales_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.pipeline.times.measure_rates", lambda repeats: RATES)
    planned = budgets(tmp_path)
    plain = forecast(planned, available=10**10)
    assert plain.time is not None
    twice = forecast(planned, available=10**10, rate=2 * plain.time.tokens_per_second)
    assert twice.time is not None
    assert twice.time.tokens_per_second == pytest.approx(2 * plain.time.tokens_per_second)
    after = [
        next(stage.seconds for stage in found.stages if stage.name == "after") for found in (plain, twice)
    ]
    assert after[0] == pytest.approx(2 * (after[1] or 0))
    assert plain.seconds == sum(stage.seconds or 0 for stage in plain.stages)
    assert plain.cost == pytest.approx(plain.seconds / 3600 * 0.1)
    assert "as long as those of the rows" in plain.notes[-1]


def test_rows_that_cannot_be_read_have_no_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smidgen.pipeline.times.measure_rates", lambda repeats: RATES)
    missing = {"train": str(tmp_path / "none.jsonl"), "test": str(tmp_path / "none.jsonl")}
    planned = budgets(tmp_path, data=missing)
    found = seconds_of(planned)
    assert found["train"] is found["before"] is found["after"] is None
    assert times_of(planned, 100.0).rates == RATES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "known"), [("http://localhost:9/v1", None), ("answers.jsonl", 0.0), ("smidgen:nano", 1)]
)
def test_a_teacher_has_a_time_if_it_runs_here(model: str, known: float | None, tmp_path: Path):
    teacher = {"model": model, "max_tokens": 100}
    if model.endswith(".jsonl"):
        teacher["model"] = str(tmp_path / model)
        (tmp_path / model).write_text('{"id": "a", "text": "b"}\n')
    one, three = (
        seconds_of(budgets(tmp_path, train={"method": "distill"}, teacher={**teacher, "candidates": number}))
        for number in (1, 3)
    )
    if known == 1:
        assert one["teach"] > 0 and three["teach"] > 2 * one["teach"]
        assert one["teacher"] == three["teacher"] > 0
    else:
        assert one["teach"] == one["teacher"] == known


def test_pretraining_has_the_time_of_its_steps(tmp_path: Path):
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    table = {
        "name": "made",
        "model": {"architecture": {**shape, "head_dim": 32, "intermediate_size": 64, "vocab_size": 320}},
        "train": {"method": "pretrain", "total_tokens": 4_000, "batch_size": 2, "max_length": 64},
    }
    planned = Budgets(RunContext(parse_recipe(table, source="test"), Run(tmp_path / "made")))
    times = Times(planned, RATES)
    assert times.training() == times.steps() > 0

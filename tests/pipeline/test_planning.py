import json
from pathlib import Path

import pytest

from smidgen.config import parse_recipe
from smidgen.pipeline import RunContext, plan_run, stages_of
from smidgen.pipeline.asking import PLAIN
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.planning import _notes
from smidgen.pipeline.probes import Probes
from smidgen.runs import Run

JUDGE = {
    "name": "planned",
    "task": "judge",
    "data": {"train_limit": 8, "test_limit": 4},
    "train": {"batch_size": 4, "max_length": 384, "lora": {"rank": 2}},
    "evaluate": {"max_tokens": 4},
    "quantize": {"bits": 4},
    "export": {},
}
SHAPE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
PRETRAIN = {
    "name": "made",
    "model": {"architecture": {**SHAPE, "head_dim": 32, "intermediate_size": 64, "vocab_size": 320}},
    "data": {"validation_limit": 2},
    "train": {"method": "pretrain", "total_tokens": 4_000, "batch_size": 2, "max_length": 64},
}


@pytest.mark.slow
def test_every_stage_of_a_recipe_has_time_and_memory(tmp_path: Path):
    context = RunContext(parse_recipe(JUDGE, source="test"), Run(tmp_path / "planned"))
    plan = plan_run(context)
    assert [stage.name for stage in plan.stages] == [stage.name for stage in stages_of(context)]
    assert all(stage.minutes > 0 and stage.memory_bytes > 1e7 for stage in plan.stages)
    assert plan.minutes == sum(stage.minutes for stage in plan.stages)
    assert plan.evaluation == {"rows": 4, "answers": 8}
    assert plan.training["rows"] == 14 and plan.training["steps"] == 4
    assert not (tmp_path / "planned").exists()


def test_pretraining_is_planned_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("smidgen.pipeline.corpus.TOKENIZER_DOCUMENTS", 200)
    context = RunContext(parse_recipe(PRETRAIN, source="test"), Run(tmp_path / "made"))
    plan = plan_run(context)
    assert [stage.name for stage in plan.stages] == ["data", "train", "report"]
    assert plan.training["steps"] == 32 and plan.evaluation == {"rows": 0, "answers": 0}
    assert not (tmp_path / "made").exists()


def test_an_adapter_that_is_still_to_be_made_is_noted(tmp_path: Path):
    train = {**JUDGE["train"], "lora": {"rank": 2, "start": str(tmp_path / "first" / "best")}}
    context = RunContext(parse_recipe({**JUDGE, "train": train}, source="test"), Run(tmp_path / "planned"))
    assert _notes(context) == [f"train.lora.start: {tmp_path}/first/best does not exist yet"]
    (tmp_path / "first" / "best").mkdir(parents=True)
    assert _notes(context) == []


def test_given_answers_take_the_logits_of_all_their_tokens(tmp_path: Path):
    def logits(words: int, rows: int) -> float:
        path = tmp_path / "rows.jsonl"
        row = {"prompt": "Why?", "completion": "red " * words}
        path.write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(rows)))
        table = {"name": "planned", "task": "chat", "data": {"train": str(path), "test": str(path)}}
        context = RunContext(parse_recipe(table, source="test"), Run(tmp_path / "planned"))
        budgets = Budgets(context)
        parts = budgets.evaluation(context.tasks[0], context.base_engine).budget.moments["decoding"]
        return parts["logits"] / (2 * 4 * budgets.shape.vocabulary)

    assert logits(1, rows=2) < logits(9, rows=2) < logits(9, rows=9) < 9 * 30
    assert logits(99, rows=64) == 1024 < logits(1500, rows=64)


def test_measurements_of_the_metric_take_memory_and_time(tmp_path: Path):
    def made(**train: int) -> tuple[float, int]:
        table = {**JUDGE, "train": {**JUDGE["train"], **train}}
        context = RunContext(parse_recipe(table, source="test"), Run(tmp_path / "planned"))
        moments = Budgets(context).training().budget.moments
        probes = Probes(context)
        probes._answers[("", "generate", PLAIN, context.base_engine)] = 100.0
        return probes._measuring_seconds(4), sum(moments.get("measuring", {}).values())

    assert made() == (0.0, 0)
    seconds, memory = made(metric_every=3, metric_rows=1)
    assert seconds == 2 * 2 * 100.0, "both orders of one pair, after steps 3 and 4"
    assert memory > 250_000_000

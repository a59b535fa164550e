"""Fine-tuning on several sources of rows, which may have different formats, drawn by weight."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smidgen.backend import mx
from smidgen.cli.app import exit_code
from smidgen.config import parse_recipe, read_recipe, resolved_toml
from smidgen.errors import DataError, Paused
from smidgen.files import read_json, read_jsonl
from smidgen.pipeline import RunContext, run_recipe
from smidgen.pipeline.events import result_of
from smidgen.pipeline.jobs import prepare_training
from smidgen.runs import Run

ROWS = {
    "gsm": [
        {"question": f"What is {n} + 1?", "answer": f"Count on from {n}.\n#### {n + 1}"} for n in range(10)
    ],
    "svamp": [
        {"ID": f"chal-{n}", "Body": f"Tim has {n} pens", "Question": "How many?", "Answer": float(n)}
        for n in range(6)
    ],
}
WEIGHTS = {"gsm": 3.0, "svamp": 1.0}


def recipe(folder: Path, base: Path | str, **train: Any) -> Path:
    """A recipe that learns from rows of two formats."""
    sources = []
    for name, weight in WEIGHTS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        sources.append({"name": name, "path": str(path), "weight": weight})
    test = folder / "test.jsonl"
    test.write_text(json.dumps({"question": "What is 77 + 1?", "answer": "#### 78"}))
    table = {
        "name": "mixed",
        "task": "math",
        "model": {"base": str(base)},
        "data": {"sources": sources, "test": str(test), "validation_fraction": 0.2},
        "train": {
            "lora": {"rank": 2}, "batch_size": 4, "max_length": 192, "validate_every": 3,
            "checkpoint_every": 2, "epochs": 2.0, **train,
        },
    }  # fmt: skip
    (folder / "mixed.toml").write_text(resolved_toml(parse_recipe(table, source="test")))
    return folder / "mixed.toml"


def context(folder: Path, runs: Path, base: Path | str = "smidgen:nano", **settings: Any) -> RunContext:
    return RunContext(read_recipe(recipe(folder, base)), Run(runs / "mixed"), **settings)


def timeless(run: Path) -> list[dict[str, Any]]:
    return [row | {"seconds": None} for row in read_jsonl(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The run folder of an uninterrupted training, beside its recipe and files."""
    folder = tmp_path_factory.mktemp("mixed")
    result_of(run_recipe(context(folder, folder / "runs", tiny_model_dir), only=("data", "train")))
    return folder / "runs/mixed"


def test_the_metrics_have_every_source(whole: Path):
    steps = timeless(whole)
    last = steps[-1]["metrics"]
    samples = read_jsonl(whole / "data/train.jsonl")
    assert {sample["source"] for sample in samples} == {"gsm", "svamp"}
    assert len({sample["id"] for sample in samples}) == len(samples)
    drawn = {name: last[f"epoch/{name}"] * sum(s["source"] == name for s in samples) for name in WEIGHTS}
    assert sum(drawn.values()) == pytest.approx(4 * len(steps)) and drawn["gsm"] > drawn["svamp"] > 0
    assert sum(last[f"tokens/{name}"] for name in drawn) == sum(step["tokens"] for step in steps)
    losses = [step["metrics"] for step in steps]
    assert all(any(f"loss/{name}" in metrics for metrics in losses) for name in drawn)
    parts = [last[f"validation_loss/{name}"] for name in drawn]
    assert min(parts) < steps[-1]["validation_loss"] < max(parts)
    assert [*read_json(whole / "data/facts.json")["data"]] == ["train gsm", "train svamp", "test"]
    assert read_json(whole / "provenance.json")["data"].keys() == {"train gsm", "train svamp", "test"}


def test_paused_and_resumed_equals_uninterrupted_bit_for_bit(
    whole: Path, tiny_model_dir: Path, tmp_path: Path
):
    for share in (0.4, 0.8):
        with pytest.raises(Paused):
            paused = context(whole.parents[1], tmp_path, tiny_model_dir, train_share=share)
            result_of(run_recipe(paused, only=("data", "train")))
    result_of(run_recipe(context(whole.parents[1], tmp_path, tiny_model_dir), only=("data", "train")))
    assert timeless(tmp_path / "mixed") == timeless(whole)
    found, wanted = (mx.load(str(run / "best/adapters.safetensors")) for run in (tmp_path / "mixed", whole))
    assert all(mx.array_equal(found[name], value) for name, value in wanted.items())


def test_the_validation_loss_is_that_of_rows_mixed_as_those_trained_on(tmp_path: Path, tiny_model_dir: Path):
    found = context(tmp_path, tmp_path, tiny_model_dir)
    job = prepare_training(found)
    weights: dict[str, float] = {}
    for batch in job.validation:
        for row in batch.rows:
            assert row.weights is not None
            part = float(row.weights[1:][row.loss_mask[1:]].sum())
            weights[row.source] = weights.get(row.source, 0.0) + part
    trained: dict[str, list[int]] = {}
    for row in job.batches._rows[0] + job.batches._rows[1]:  # type: ignore[attr-defined]
        trained.setdefault(row.source, []).append(row.trained_tokens)
    means = {name: sum(tokens) / len(tokens) for name, tokens in trained.items()}
    ratio = 3.0 * means["gsm"] / means["svamp"]
    assert weights["gsm"] / weights["svamp"] == pytest.approx(ratio, rel=1e-5)


def test_measured_rows_are_of_each_source_by_its_share(tmp_path: Path):
    (task,) = context(tmp_path, tmp_path).tasks
    for most, counts in (
        (1, {"gsm": 1}),
        (2, {"gsm": 2}),
        (3, {"gsm": 2, "svamp": 1}),
        (9, {"gsm": 2, "svamp": 1}),
    ):
        found = task.validation_part(most)
        assert Counter(sample.source for sample in found) == counts
        assert {sample.id for sample in found} <= {sample.id for sample in task.split_samples[1]}


@pytest.mark.slow
def test_a_plan_counts_the_tokens_that_are_trained_on(whole: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["plan", str(whole.parents[1] / "mixed.toml"), "--rate", "100", "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["time"]["tokens"]
    assert tokens == sum(step["tokens"] for step in timeless(whole))


def test_the_doctor_reads_every_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = recipe(tmp_path, "smidgen:nano")
    assert exit_code(["data", "check", "--recipe", str(path), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert [read["rows"] for read in report["read"]] == [10, 6, 1] and report["train_rows"] == 16
    assert exit_code(["data", "show", "--recipe", str(path), "--rows", "1", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["gsm/1", "svamp/chal-0"]
    with (tmp_path / "svamp.jsonl").open("a") as file:
        file.write('{"Body": "Tim has pens", "Question": "How many?", "Answer": ""}\n')
    assert exit_code(["data", "check", "--recipe", str(path), "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert any(finding["ids"] == ["svamp:line 7"] for finding in report["findings"])
    assert exit_code(["train", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert re.search(r"svamp\.jsonl: .*line 7.*Answer", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}], r"svamp\.jsonl has 1 training row; expected at least 2, one of them for validation"),
        ([{"ID": None, "id": True}, {}], r"line 1: 'id' is true, expected text or a whole number"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(tmp_path: Path, changes: list[dict], message: str):
    (task,) = context(tmp_path, tmp_path).tasks
    rows = [ROWS["svamp"][0] | {"ID": str(number)} | changed for number, changed in enumerate(changes)]
    (tmp_path / "svamp.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        task.check()

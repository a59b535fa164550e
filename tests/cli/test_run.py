"""`smidgen run` from end to end on a few rows: done once, skipped after, whole again after every kill."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.tools import processes

import smidgen
from smidgen.cli.app import exit_code
from smidgen.files import read_json

NANO = Path(smidgen.__file__).parent / "nano"

STAGES = [
    "data", "before", "base_constrained", "base_examples",
    "train", "after", "logits", "quantize", "quantized", "report",
]  # fmt: skip
RECIPE = """
name = "tiny"
task = "judge"
[model]
base = "smidgen:nano"
[data]
train = "world"
train_limit = 12
validation_limit = 2
test = "world"
test_limit = 4
[train]
method = "sft"
epochs = 1.0
batch_size = 4
max_length = 384
learning_rate = 1e-3
validate_every = 2
checkpoint_every = 2
[train.lora]
rank = 4
alpha = 8.0
[evaluate]
max_tokens = 12
[quantize]
bits = 4
group_size = 32
"""
# What depends on the clock, on the attempt or on files edited meanwhile, not on what was asked.
PASSING = {"created", "command", "speed", "seconds", "tokens_per_second", "stages", "cost", "git_revision"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The runs folder of an uninterrupted run."""
    runs = recipe.parent / "runs"
    assert exit_code(["run", str(recipe), "--runs", str(runs)]) == 0
    return runs


def lasting(value):
    """A report without what passes."""
    if isinstance(value, dict):
        return {key: lasting(part) for key, part in value.items() if key not in PASSING}
    return [lasting(part) for part in value] if isinstance(value, list) else value


def report_of(runs: Path) -> dict:
    text = (runs / "tiny/report.json").read_text()
    return lasting(json.loads(re.sub(r"/[^\s\"]*/tiny/", "RUN/", text)))


def test_the_report_has_three_evaluations_with_every_metric(finished: Path):
    report = json.loads((finished / "tiny/report.json").read_text())
    for name in ("before", "after", "quantized"):
        metrics = report[name]["metrics"]
        assert {"accuracy", "accuracy_both_orders", "consistency", "prefer_first_rate", "unparsed_rate"} <= {
            *metrics
        }
        assert all({"value", "low", "high", "n"} <= {*metric} for metric in metrics.values())
        assert report[name]["n"] == 8
    assert report["sizes"]["quantized"] < report["sizes"]["before"] < report["sizes"]["after"]
    assert "<html" in (finished / "tiny/report.html").read_text()


def test_best_loads_as_an_adapter(finished: Path, capsys: pytest.CaptureFixture[str]):
    out = finished / "again"
    arguments = ["evaluate", "judge", "--model", "smidgen:nano", "--adapter", str(finished / "tiny/best")]
    arguments += ["--data", "world", "--limit", "4", "--max-tokens", "12", "--out", str(out), "--json"]
    assert exit_code(arguments) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics == json.loads((finished / "tiny/report.json").read_text())["after"]["metrics"]


def test_a_second_run_does_nothing_again(recipe: Path, finished: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished / "tiny/report.json").read_bytes()
    assert exit_code(["run", str(recipe), "--runs", str(finished)]) == 0
    assert capsys.readouterr().err.count("already done, skipped") == len(STAGES)
    assert (finished / "tiny/report.json").read_bytes() == before


@pytest.mark.slow
def test_what_was_lost_is_made_again(recipe: Path, finished: Path, tmp_path: Path):
    shutil.copytree(finished / "tiny", tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny/best")
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path)]) == 0
    assert report_of(tmp_path) == report_of(finished)
    adapter = tmp_path / "tiny/best/adapters.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path)]) == 0
    assert report_of(tmp_path) == report_of(finished)


@pytest.mark.slow
def test_from_a_stage_does_it_and_those_after_it_again(
    recipe: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(finished, tmp_path / "runs")
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path / "runs"), "--from", "quantize"]) == 0
    said = capsys.readouterr().err
    assert said.count("already done, skipped") == 7 and "quantize: finished" in said
    assert report_of(tmp_path / "runs") == report_of(finished)


@pytest.mark.slow
def test_a_changed_setting_does_again_only_what_reads_it(
    recipe: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(finished, tmp_path / "runs")
    changed = tmp_path / "changed.toml"
    measured = "target_bits = 5.0\ncandidate_bits = [3, 6]\ncalibration_tokens = 64"
    changed.write_text(recipe.read_text().replace("bits = 4", measured))
    assert exit_code(["run", str(changed), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().err
    assert [stage for stage in STAGES if f"{stage}: already done" in said] == STAGES[:7]
    table = read_json(tmp_path / "runs/tiny/quantized/sensitivity.json")
    assert {layer["bits"] for layer in table["layers"]} == {3, 6} and table["calibration"]["tokens"] == 64
    quantize = report_of(tmp_path / "runs")["quantize"]
    assert 4.9 < quantize["bits_per_weight"] <= 5.0 and quantize["bytes"] == table["chosen"]["bytes"]


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_report(recipe: Path, finished: Path, tmp_path: Path):
    killed = []
    for stage in STAGES:
        child = processes.smidgen(["run", str(recipe), "--runs", str(tmp_path)])
        begun = tmp_path / f"tiny/stages/{stage}.begun.json"
        while not begun.exists() and child.is_alive():
            time.sleep(0.002)
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            killed.append(stage)
    assert killed == STAGES
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path)]) == 0
    assert report_of(tmp_path) == report_of(finished)


@pytest.mark.slow
def test_killed_between_steps_training_goes_on(recipe: Path, finished: Path, tmp_path: Path):
    child = processes.smidgen(["run", str(recipe), "--runs", str(tmp_path)])
    checkpoints = tmp_path / "tiny/checkpoints"
    while not (checkpoints.exists() and any(checkpoints.iterdir())) and child.is_alive():
        time.sleep(0.002)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path)]) == 0
    assert report_of(tmp_path) == report_of(finished)
    steps = [json.loads(line)["step"] for line in (tmp_path / "tiny/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_a_plan_names_rows_tokens_steps_time_and_memory_and_writes_nothing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["run", str(recipe), "--runs", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    text = capsys.readouterr().out
    plan = json.loads(text)
    for word in ("rows", "tokens", "steps", "minutes", "memory"):
        assert word in text, plan
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (("epochs = 1.0", "epoch = 1.0"), [], r"unknown key 'train.epoch'"),
        (("[evaluate]", "[evalaute]"), [], r"Did you mean 'evaluate'"),
        (('task = "judge"', 'task = "jugde"'), [], r"jugde"),
        (("bits = 4", "bits = 7"), [], r"bits"),
        (('test = "world"', 'test = "nothing.jsonl"'), [], r"there is no .*nothing\.jsonl"),
        (("", ""), ["--data", "nothing.jsonl"], r"there is no .*nothing\.jsonl"),
        (("", ""), ["--from", "trian"], r"there is no stage 'trian'\. Did you mean 'train'\?"),
        (("smidgen:nano", "./no-such-model"), [], r"no-such-model"),
        (("bits = 4", "target_bits = 1.0"), [], r"'target_bits' is 1, .* take 3\.013 bits per weight"),
        (("group_size = 32", "group_size = 128"), [], r"'group_size' is 128, .* 192, 448; choose 32 or 64"),
        (("rank = 4", 'rank = 4\ntarget_modules = ["x_proj"]'), [], r"x_proj"),
        (("max_length = 384", "max_length = 4096"), [], r"max_length is 4096, but the context of .* 2048"),
        (("", ""), ["--dry-run", "--from", "train"], r"does not support --from; remove"),
        (("max_tokens = 12", "temperature = 0.001"), [], r"temperature"),
    ],
)
def test_wrong_input_is_one_clear_sentence(
    change, arguments, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "wrong.toml"
    path.write_text(RECIPE.replace(*change) if change[0] else RECIPE)
    assert exit_code(["run", str(path), "--runs", str(tmp_path / "runs"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and "Traceback" not in said
    assert re.search(message, said), said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"id": "3", "prompt": "What is 1 + 1?", "a": "2", "better": "a"}, r"line 3.*\bb\b"),
        ({"id": "3", "prompt": "What is 1 + 1?", "a": "2", "b": "", "better": "c"}, r"line 3.*better"),
        (None, "has 1 training row; expected at least 2"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    last, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, data = tmp_path / "tiny.toml", tmp_path / "rows.jsonl"
    path.write_text(RECIPE)
    row = {"prompt": "What is 2 + 1?", "a": "3", "b": "4", "better": "a"}
    rows = [row | {"id": "1"}, row | {"id": "2"}, last] if last else [row | {"id": "1"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert exit_code(["run", str(path), "--runs", str(tmp_path / "runs"), "--data", str(data)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and str(data) in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_rows_are_not_both_trained_on_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, data = tmp_path / "tiny.toml", tmp_path / "queries.jsonl"
    path.write_text(RECIPE.replace('task = "judge"', 'task = "intent"'))
    rows = [{"text": f"number {n}", "intent": "count"} for n in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--runs", str(tmp_path / "runs"), "--data", str(data)]
    assert exit_code(["run", str(path), *arguments]) == 2
    assert "have no 'split' to separate them" in capsys.readouterr().err
    data.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
    path.write_text(path.read_text().replace("[data]", '[data]\ntest_splits = ["train"]'))
    assert exit_code(["run", str(path), *arguments]) == 2
    assert "the split 'train'" in capsys.readouterr().err
    assert exit_code(["evaluate", "intent", "--data", str(data)]) == 2
    assert "has only training rows (split train)" in capsys.readouterr().err
    assert exit_code(["evaluate", "judge", "--split", "test"]) == 2
    assert "--split does not apply to generated rows" in capsys.readouterr().err


def test_answers_of_other_weights_are_not_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder)
    arguments = ["evaluate", "answers", "--model", str(folder), "--limit", "3", "--max-tokens", "4"]
    arguments += ["--out", str(tmp_path / "out")]
    assert exit_code(arguments) == 0
    assert exit_code([*arguments, "--thinking"]) == 2
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x01\x02")
    capsys.readouterr()
    assert exit_code(arguments) == 2
    assert "contains the records of another evaluation" in capsys.readouterr().err


@pytest.mark.slow
def test_train_alone_does_the_first_half(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["train", str(recipe), "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["steps"] == 6
    assert (tmp_path / "tiny/best/adapters.safetensors").exists()
    assert not (tmp_path / "tiny/evaluations").exists()


PRETRAIN = """
name = "tiny"
[model.architecture]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 32
vocab_size = 400
[data]
validation_limit = 2
[train]
method = "pretrain"
total_tokens = 2_000
batch_size = 2
max_length = 64
checkpoint_every = 4
"""


@pytest.mark.slow
def test_pretraining_is_skipped_or_begins_anew_by_the_rule_of_every_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("smidgen.pipeline.corpus.TOKENIZER_DOCUMENTS", 200)
    path = tmp_path / "tiny.toml"
    path.write_text(PRETRAIN)
    arguments = ["train", str(path), "--runs", str(tmp_path / "runs")]
    assert exit_code(arguments) == 0
    weights = (tmp_path / "runs/tiny/best/model.safetensors").read_bytes()
    assert exit_code(arguments) == 0
    assert (tmp_path / "runs/tiny/best/model.safetensors").read_bytes() == weights
    capsys.readouterr()
    for old, new, again in (
        ("vocab_size = 400", "vocab_size = 500", ["data", "train"]),
        ("total_tokens = 2_000", "total_tokens = 4_000", ["train"]),
    ):
        path.write_text(PRETRAIN.replace(old, new))
        assert exit_code(arguments) == 0
        said = capsys.readouterr().err
        anew = [line.partition(":")[0] for line in said.splitlines() if "changed, so it starts over" in line]
        assert anew[-len(again) :] == again
    assert (tmp_path / "runs/tiny/best/model.safetensors").read_bytes() != weights
    assert exit_code(["run", *arguments[1:]]) == 0
    report = read_json(tmp_path / "runs/tiny/report.json")
    assert report["model"]["method"] == "pretraining" and "after" not in report


def test_a_limit_below_one_is_refused(capsys: pytest.CaptureFixture[str]):
    arguments = ["evaluate", "judge", "--model", "smidgen:nano", "--data", "world", "--limit", "-1"]
    assert exit_code(arguments) == 2
    assert "limit" in capsys.readouterr().err.lower()

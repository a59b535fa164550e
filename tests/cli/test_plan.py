"""`smidgen plan`: a table or JSON, the lines to change, and one sentence if nothing fits."""

import json
import re
from pathlib import Path

import pytest

from smidgen.backend import Rates
from smidgen.cli.app import exit_code

RECIPE = """
name = "tiny"
task = "judge"
[data]
train_limit = 12
validation_limit = 2
test_limit = 2
[train]
batch_size = 8
max_length = 384
[train.lora]
rank = 4
[evaluate]
batch_size = 2
max_tokens = 8
"""


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a device that nothing else is using."""
    monkeypatch.setattr("smidgen.pipeline.times.measure_rates", lambda repeats: Rates(1e11, 3e10))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return str(path)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exit_code(["plan", *arguments])
    return code, *capsys.readouterr()


def test_a_plan_shows_parts_stages_time_and_cost(recipe: str, capsys: pytest.CaptureFixture[str]):
    code, text, _ = plan(capsys, recipe, "--rate", "1000")
    assert code == 0
    for word in ("weights", "optimizer", "activations", "loading", "step", "update", "train", "USD", "1,000"):
        assert word in text
    assert re.search(r"all stages +\d+:\d\d, \S+ USD", text) and re.search(r"\nbefore .* \d+:\d\d", text)
    assert re.search(r"\ndata .* –", text)


def test_json_has_every_byte(recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\nmachine_per_hour = 36.0\n')
    code, text, _ = plan(capsys, recipe, "--rate", "100", "--prices", str(prices), "--json")
    found = json.loads(text)
    assert code == 0 and found["fits"]
    assert found["time"]["cost"] == pytest.approx(found["time"]["tokens"] / 100 * 0.01)
    assert found["time"]["currency"] == found["currency"] == "EUR"
    stages = {stage["name"]: stage["seconds"] for stage in found["stages"]}
    assert stages["data"] is None and stages["train"] >= found["time"]["seconds"]
    assert found["seconds"] == sum(seconds or 0 for seconds in stages.values())
    assert found["cost"] == pytest.approx(found["seconds"] * 0.01)
    peak = max(sum(parts.values()) for parts in found["training"].values())
    assert {stage["name"]: stage["needed_bytes"] for stage in found["stages"]}["train"] == peak


@pytest.mark.slow
def test_fit_prints_the_lines_to_change(recipe: str, capsys: pytest.CaptureFixture[str]):
    found = json.loads(plan(capsys, recipe, "--rate", "1", "--json")[1])
    needed = max(stage["needed_bytes"] for stage in found["stages"])
    code, text, said = plan(capsys, recipe, "--rate", "1", "--fit", "--memory", str((needed - 1e6) / 1e9))
    assert code == 0 and ("[train]" in text or "[evaluate]" in text) and "batch_size = " in text
    code, _, said = plan(capsys, recipe, "--rate", "1", "--fit", "--memory", "10")
    assert code == 0 and "it fits as it is" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "0.1"], r"error: the stage 'train' of tiny needs .*100 MB may be used here"),
        (["--memory", "0.1", "--fit"], r"error: tiny does not fit: with the smallest settings it needs"),
        (["--memory", "0"], r"Must be > 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    recipe: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):

    code, _, said = plan(capsys, recipe, "--rate", "1", *arguments)
    assert code == 2 and re.search(message, said), said


def test_the_requests_to_a_teacher_are_counted_and_priced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    teacher = """
[teacher]
model = "http://localhost:9/v1"
model_name = "big"
candidates = 2
max_tokens = 100
"""
    path, prices = tmp_path / "taught.toml", tmp_path / "prices.toml"
    path.write_text(RECIPE.replace("[train]", '[train]\nmethod = "distill"') + teacher)
    api = {"name": "big", "input_per_million": 1.0, "output_per_million": 10.0}
    prices.write_text("[[api]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in api.items()))
    code, out, err = plan(capsys, str(path))
    assert code == 0 and "52 requests, 4 of them for held-out rows" in " ".join(out.split())
    assert "price unknown: name it as an [[api]] in the file of --prices" in " ".join(out.split())
    assert "how many answers of the teacher pass the filter is not known beforehand" in err
    code, out, _ = plan(capsys, str(path), "--prices", str(prices), "--json")
    found = json.loads(out)["teaching"]
    assert code == 0 and found["most_tokens"] == 5200
    assert found["most_cost"] == pytest.approx(found["prompt_tokens"] / 1e6 + 0.052)


def test_many_rows_are_planned_here_and_on_other_machines(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prices = tmp_path / "prices.toml"
    prices.write_text(
        'currency = "EUR"\nmachine_per_hour = 2.0\napi = [{ name = "api", input_per_million = 1.0, '
        'output_per_million = 3.0 }]\nmachine = [{ name = "mac", tokens_per_second = 1000.0 }]\n'
    )
    arguments = [recipe, "--prices", str(prices), "--rate", "gpu=500:3.6", "--rate", "vllm=500:3.6x4"]
    code, text, _ = plan(capsys, *arguments, "--rows", "1000000", "--retried", "0.5", "--json")
    rows = json.loads(text)["rows"]
    assert code == 0 and rows["requests"] == 3_000_000  # both orders, half of them twice
    each = rows["prompt_tokens"] + rows["completion_tokens"]
    assert rows["tokens"] == round(3_000_000 * each) and 1 < rows["completion_tokens"] <= 8
    here, mac, gpu, servers, api = rows["places"]
    assert here["name"] == "this machine" and here["cost"] == pytest.approx(2.0 * here["seconds"] / 3600)
    assert here["tokens_per_second"] == pytest.approx(rows["tokens"] / here["seconds"])
    assert (mac["seconds"], mac["cost"]) == (rows["tokens"] / 1000, None)
    assert gpu["seconds"] == rows["tokens"] / 500 and gpu["cost"] == pytest.approx(gpu["seconds"] / 1000)
    assert servers["seconds"] == gpu["seconds"] / 4 and servers["cost"] == pytest.approx(gpu["cost"])
    assert api["seconds"] is None and api["cost"] == pytest.approx(
        3 * (rows["prompt_tokens"] + 3 * rows["completion_tokens"]), rel=1e-6
    )
    code, text, err = plan(capsys, *arguments, "--rows", "10")
    assert "4 x vllm" in text and "0.0% of the requests are asked twice" in err and "20 requests" in err


@pytest.mark.parametrize("rate", ["x", "0", "-1", "nan", "a=", "a=0", "a=1e999", "a=5:x", "a=5x0", "a=1.1.1"])
def test_rates_that_are_none(rate: str, recipe: str, capsys: pytest.CaptureFixture[str]):
    code, _, err = plan(capsys, recipe, "--rows", "10", "--rate", rate)
    assert code == 2 and f"--rate is {rate}; expected tokens per second above 0" in err


def test_rows_that_cannot_be_planned(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = plan(capsys, recipe, "--rate", "a=5")
    assert code == 2 and "are for --rows; give the number of rows" in err
    code, _, err = plan(capsys, recipe, "--rate", "5", "--rate", "6")
    assert code == 2 and "--rate gives 2 rates of the training" in err
    unread = tmp_path / "unread.toml"
    unread.write_text(RECIPE.replace("[data]", '[data]\ntrain = "absent.jsonl"\ntest = "absent.jsonl"'))
    code, _, err = plan(capsys, str(unread), "--rows", "10")
    assert code == 2 and "cannot be read, so the tokens of a row are unknown" in err
    code, _, err = plan(capsys, "recipes/memory-router-nano.toml", "--rows", "10")
    assert code == 2 and "--rows needs a recipe with one task, and memory-router-nano has " in err

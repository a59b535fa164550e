"""`smidgen train` on a mix: whole again after a kill, then on from its weights."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.tools import processes

from smidgen.backend import mx
from smidgen.cli.app import exit_code
from smidgen.files import read_json, read_jsonl

RECIPE = """
name = "mixed"
[model.architecture]
model_type = "llama4_text"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 32
vocab_size = 300
no_rope_layer_interval = 2
[data]
validation_limit = 2
[[data.sources]]
name = "world"
path = "world"
[[data.sources]]
name = "beans"
path = "BEANS"
text = "{{ question }} {{ answer }}"
[train]
method = "pretrain"
batch_size = 2
max_length = 32
schedule = "linear"
warmup_steps = 2
min_learning_rate_ratio = 0.1
validate_every = 4
checkpoint_every = 3
[[train.phases]]
tokens = 512
weights = { world = 1.0 }
[[train.phases]]
tokens = 512
weights = { world = 0.5, beans = 0.5 }
"""
ARCHITECTURE = re.compile(r"\[model\.architecture\].*?(?=\[data\])", re.DOTALL)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    rows = [{"question": f"{n} beans and one?", "answer": str(n + 1)} for n in range(60)]
    (folder / "beans.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "mixed.toml").write_text(RECIPE.replace("BEANS", str(folder / "beans.jsonl")))
    return folder / "mixed.toml"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The run folder of an uninterrupted training."""
    assert exit_code(["train", str(recipe), "--runs", str(recipe.parent / "whole")]) == 0
    return recipe.parent / "whole/mixed"


def timeless(run: Path) -> list[dict[str, Any]]:
    return [row | {"seconds": None} for row in read_jsonl(run / "metrics.jsonl")]


def train_slowly(recipe: str, runs: str) -> None:
    from smidgen.training import pretrain

    drawn = pretrain.PackedBatches.next_step

    def slow(self: pretrain.PackedBatches) -> Any:
        time.sleep(0.1)
        return drawn(self)

    pretrain.PackedBatches.next_step = slow
    exit_code(["train", recipe, "--runs", runs])


def test_the_metrics_have_every_source(whole: Path):
    steps = timeless(whole)
    assert len(steps) == 16
    assert [step["learning_rate"] for step in steps[:3]] == pytest.approx([5e-5, 1e-4, 1e-4])
    first, last = steps[0]["metrics"], steps[-1]["metrics"]
    assert first["loss/world"] == pytest.approx(steps[0]["loss"], rel=1e-6)
    assert (first["tokens/world"], first["tokens/beans"], first["epoch/beans"]) == (64, 0, 0)
    assert last["tokens/world"] + last["tokens/beans"] == 1024
    assert last["epoch/beans"] > 0 and "epoch/world" not in last
    parts = {name: steps[-1]["metrics"][f"validation_loss/{name}"] for name in ("world", "beans")}
    assert steps[-1]["validation_loss"] == pytest.approx(
        0.75 * parts["world"] + 0.25 * parts["beans"], rel=1e-5
    )
    assert read_json(whole / "data/sources.json")["beans"]["documents"] == 60
    assert read_json(whole / "provenance.json")["data"].keys() == {"world", "beans"}


def test_the_report_has_the_curves_of_every_source_and_the_phases(recipe: Path, whole: Path):
    assert exit_code(["run", str(recipe), "--runs", str(whole.parent)]) == 0
    training, steps = read_json(whole / "report.json")["training"], timeless(whole)
    assert training["phases"] == [1, 9]
    assert [source["name"] for source in training["sources"]] == ["beans", "world"]
    for source in training["sources"]:
        for curve, key in (("curve", "loss/"), ("validation", "validation_loss/")):
            found = {point["step"]: point["loss"] for point in source[curve]}
            wanted = [(step["step"], step["metrics"].get(key + source["name"])) for step in steps]
            assert found == {step: loss for step, loss in wanted if loss is not None}
    assert min(point["step"] for point in training["sources"][0]["curve"]) >= 9  # drawn in phase 2 only
    page = (whole / "report.html").read_text()
    assert ">phase 2<" in page and page.count("against training step") == 3
    assert f"beans: validation loss {training['sources'][0]['validation'][-1]['loss']:.4g} in the end" in page


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(recipe: Path, whole: Path):
    runs = recipe.parent / "killed"
    child = processes.start(train_slowly, str(recipe), str(runs))
    while len(read_jsonl(runs / "mixed/metrics.jsonl")) < 11:  # in the second phase
        assert child.is_alive(), "the child ended by itself"
        time.sleep(0.01)
    child.kill()
    child.join()
    assert not (runs / "mixed/training.json").exists()
    assert exit_code(["train", str(recipe), "--runs", str(runs)]) == 0
    assert timeless(runs / "mixed") == timeless(whole)
    weights, wanted = (mx.load(str(run / "best/model.safetensors")) for run in (runs / "mixed", whole))
    assert weights.keys() == wanted.keys()
    assert all(mx.array_equal(weights[name], value) for name, value in wanted.items())


def test_training_goes_on_from_the_weights_with_their_tokenizer(recipe: Path, whole: Path):
    text = ARCHITECTURE.sub(f'[model]\nbase = "{whole / "best"}"\n', recipe.read_text())
    middle = recipe.with_name("middle.toml")
    middle.write_text(text.replace('name = "mixed"', 'name = "middle"'))
    assert exit_code(["train", str(middle), "--runs", str(recipe.parent)]) == 0
    run = recipe.parent / "middle"
    assert (run / "best/tokenizer.json").read_bytes() == (whole / "best/tokenizer.json").read_bytes()
    assert read_json(run / "best/config.json") == read_json(whole / "best/config.json")
    assert timeless(run)[0]["loss"] < timeless(whole)[0]["loss"] - 0.01
    assert timeless(run)[0]["loss"] == pytest.approx(timeless(whole)[-1]["loss"], rel=0.1)


@pytest.mark.slow
def test_a_plan_counts_the_tokens_of_all_phases(
    recipe: Path, whole: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["plan", str(recipe), "--rate", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["time"]["tokens"] == 1024


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{ answer }}", "{{ reply }}", r"beans\.jsonl: line 1: the template 'text' cannot be rendered"),
        ("beans.jsonl", "bean.jsonl", r"there is no data file at .*bean\.jsonl"),
        ("world = 1.0", "word = 1.0", r"phase 1 has a weight for 'word'.* Did you mean 'world'\?"),
        (
            "warmup_steps = 2",
            "warmup_steps = 16",
            r"train\.warmup_steps is 16, but the training has 16 steps",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(
    recipe: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
):
    other = recipe.with_name("other.toml")
    other.write_text(recipe.read_text().replace(old, new))
    assert exit_code(["train", str(other), "--runs", str(recipe.parent / "other")]) == 2
    said = capsys.readouterr().err
    assert re.search(f"error: .*{message}", said) and "Traceback" not in said

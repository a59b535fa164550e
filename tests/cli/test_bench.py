import json
from collections.abc import Generator
from pathlib import Path

import pytest

from smidgen.backend import Rates
from smidgen.benchmark import BatchSpeed, BenchmarkStep, EngineSpeed, Percentiles
from smidgen.cli.app import exit_code
from smidgen.export.gguf import write_gguf
from smidgen.inference.choice import Choice
from smidgen.options import EngineOptions, WorkloadOptions

SMALL = ["--prompt-tokens", "64", "--max-tokens", "6", "--repeats", "2", "--batch", "1", "--batch", "3"]


@pytest.fixture(autouse=True)
def device_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a device that is measured twice, the first time beside something else."""
    found = iter([Rates(1e10, 8e9), Rates(2e10, 4e9)])
    monkeypatch.setattr("smidgen.benchmark.benchmark.measure_rates", lambda: next(found))


def test_a_model_is_measured_and_bounded(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["bench", str(tiny_model_dir), "--engine", "mlx", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    mlx, roofline = found["engines"]["mlx"], found["roofline"]
    assert abs(mlx["prompt_tokens"] - 64) <= 16 and mlx["peak_memory_bytes"] > 0
    assert set(mlx["batches"]) == set(roofline["decode_tokens_per_second"]) == {"1", "3"}
    assert mlx["batches"]["3"]["requests"] == 6
    assert 0 < mlx["time_to_first_token"]["p50"] <= mlx["batches"]["1"]["latency"]["p95"]
    assert roofline["flops_per_second"] == 2e10 and roofline["bytes_per_second"] == 8e9
    assert roofline["decode_tokens_per_second"]["1"] == pytest.approx(8e9 / roofline["step_bytes"])
    assert roofline["step_parameters"] == roofline["parameters"] == roofline["step_bytes"] / 4


@pytest.mark.slow
def test_the_table_names_the_model_the_engine_and_what_was_left_out(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("smidgen.benchmark.benchmark.engines_for", lambda _: ["mlx", "llama"])
    monkeypatch.setattr("smidgen.inference.llama_server.xllamacpp", None)
    assert exit_code(["bench", str(tiny_model_dir), *SMALL]) == 0
    said = capsys.readouterr()
    assert all(row in said.out for row in ("prefill", "decode, batch of 3", "peak memory", "upper bound"))
    assert "llama skipped: " in said.err and "needs the package xllamacpp" in said.err


@pytest.mark.parametrize("output", [["--json"], []])
def test_what_auto_takes_is_told_with_one_look(
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: list[str],
):
    times = Percentiles(0.1, 0.2)
    speed = EngineSpeed(0.1, 64, 100.0, times, {3: BatchSpeed(50.0, 40.0, times, 6, 6.0)}, 10**6)
    asked = []

    def measured(
        options: EngineOptions, workload: WorkloadOptions
    ) -> Generator[BenchmarkStep, None, EngineSpeed]:
        yield BenchmarkStep(options.engine, 0)
        return speed

    def choose(model: str, *, batch_size: int, kv_bits: int | None) -> Choice:
        asked.append((model, batch_size, kv_bits))
        return Choice("llama", "F16", "tiny", batch_size, {"mlx": 2.0, "llama F16": 1.0})

    monkeypatch.setattr("smidgen.benchmark.benchmark._measured", measured)
    monkeypatch.setattr("smidgen.benchmark.benchmark.choose", choose)
    assert exit_code(["bench", str(tiny_model_dir), "--batch", "3", *output]) == 0
    said = capsys.readouterr()
    phrase = "llama F16 for tiny, 3 rows (relative speed: mlx 0.50, llama F16 1.00)"
    assert json.loads(said.out)["auto"] == phrase if output else f"engine auto: {phrase}" in said.err
    assert asked == [(str(tiny_model_dir), 3, None)]


def test_help_lists_the_engines(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["bench", "--help"]) == 0
    assert "mlx, llama, http" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.slow
def test_a_gguf_file_is_measured_and_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "m.gguf"
    write_gguf("smidgen:nano", file, dtype="F16")
    arguments = [str(file), "--prompt-tokens", "64", "--max-tokens", "4", "--repeats", "1", "--batch", "1"]
    assert exit_code(["bench", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    roofline = found["roofline"]
    assert list(found["engines"]) == ["llama"]
    assert roofline["step_bytes"] < 2.1 * roofline["step_parameters"]
    assert roofline["decode_tokens_per_second"]["1"] == pytest.approx(8e9 / roofline["step_bytes"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            ["smidgen:nano", "--max-tokens", "1"],
            "--max-tokens is 1; expected 2 or more, since decoding is measured",
        ),
        (["smidgen:nano", "--engine", "warp"], '"mlx", "llama", "http"'),
        (["smidgen:nano", "--engine", "replay"], '"mlx", "llama", "http"'),
        (["nowhere"], "no engine can be measured with nowhere: there is no folder"),
        (
            ["smidgen:nano", "--prompt-tokens", "4000"],
            "does not fit the model's context; lower --prompt-tokens",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(["bench", *arguments]) == 2
    assert match in capsys.readouterr().err

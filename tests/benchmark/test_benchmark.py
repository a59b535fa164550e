"""Every engine that runs a model, one after the other."""

from pathlib import Path

import pytest

from smidgen.backend import Rates
from smidgen.benchmark import Benchmark, BenchmarkStep
from smidgen.benchmark.benchmark import engines_for
from smidgen.errors import ConfigError, ModelError
from smidgen.options import EngineOptions, WorkloadOptions

SMALL = WorkloadOptions(prompt_tokens=64, max_tokens=6, batch=(3, 1, 3), repeats=1)


@pytest.fixture(autouse=True)
def device_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a device that is measured twice, the first time beside something else."""
    found = iter([Rates(1e10, 8e9), Rates(2e10, 4e9)])
    monkeypatch.setattr("smidgen.benchmark.benchmark.measure_rates", lambda: next(found))


def test_a_caller_drives_the_steps(tiny_model_dir: Path):
    work = Benchmark(EngineOptions(str(tiny_model_dir)), ["mlx"], SMALL)
    assert list(work) == [BenchmarkStep("mlx", done) for done in (0, 2, 4)] and work.total == 4
    assert work.result is not None and work.result.roofline is not None
    assert list(work.result.engines["mlx"].batches) == [1, 3]
    best = (work.result.roofline.flops_per_second, work.result.roofline.bytes_per_second)
    assert best == (2e10, 8e9)


def test_engines_that_cannot_be_measured(tmp_path: Path):
    model = EngineOptions(str(tmp_path / "none"))
    work = Benchmark(model, workload=SMALL)
    with pytest.raises(ConfigError, match=r"no engine can be measured with .*none: there is no"):
        list(work)
    assert work.result is None


def test_an_engine_that_was_named_is_not_skipped(tmp_path: Path):
    with pytest.raises(ModelError, match="there is no"):
        list(Benchmark(EngineOptions(str(tmp_path / "none")), ["mlx"], SMALL))


@pytest.mark.parametrize(
    ("model", "engines"),
    [("http://localhost:1/v1", ["http"]), ("a/b.gguf", ["llama"]), ("owner/model", ["mlx", "llama"])],
)
def test_only_engines_that_take_such_a_model_are_tried(model: str, engines: list[str]):
    assert engines_for(model) == engines

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from smidgen.backend import Rates
from smidgen.cli import measuring
from smidgen.cli.app import exit_code
from smidgen.cli.bench import _engines_for, _weights
from smidgen.cli.measuring import Load, Prompts, measure
from smidgen.data.types import Completion, Request, Timing
from smidgen.errors import DataError
from smidgen.export.gguf import write_gguf
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load

SMALL = ["--prompt-tokens", "64", "--max-tokens", "6", "--repeats", "2", "--batch", "1", "--batch", "3"]


@pytest.fixture(autouse=True)
def device_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a device that is measured twice, the first time beside something else."""
    found = iter([Rates(1e10, 8e9), Rates(2e10, 4e9)])
    monkeypatch.setattr("smidgen.backend.measure_rates", lambda: next(found))


class Clocked:
    """An engine that takes a known time on a clock of its own: 1 s a prompt token, 10 s a step.

    It has run the first tokens of every prompt already, those of a template.
    """

    def __init__(self, *, tokens: int | None = None, counts: bool = True, template: int = 0):
        self.now = 0.0
        self.seen: list[str] = []
        self._tokens, self._counts, self._template = tokens, counts, template

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        taken = list(requests)
        for request in taken:
            self.seen.append(request.sample.messages[0].content)
            self.now += self._length(request) - self._template
        steps = min(self._tokens or 99, taken[0].sampling.max_tokens)
        self.now += 10.0 * (steps - 1)
        for request in taken:
            timing = Timing(0.0, 0.0, self._length(request), steps) if self._counts else None
            yield request, Completion("", tuple(range(steps)), timing=timing)

    def _length(self, request: Request) -> int:
        return self._template + len(request.sample.messages[0].content.split())

    def peak_memory_bytes(self) -> int:
        return 1000


class Jittery(Clocked):
    """One whose first tokens take now 0 s and now 100 s longer."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        self._calls = getattr(self, "_calls", 0) + 1
        self.now += 100.0 * (self._calls % 3)
        return super().complete(requests)


def test_decoding_that_is_lost_in_the_noise_is_not_told(monkeypatch: pytest.MonkeyPatch):
    found = measured(Jittery(), Load(16, 6, [1], 4), monkeypatch)
    assert found["batches"]["1"]["decode_tokens_per_second"] is None


def measured(engine: Clocked, load: Load, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: engine.now)
    return measure(engine, "clocked", load, is_chat=False)  # type: ignore[arg-type]


def test_rates_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch):
    engine = Clocked()
    found = measured(engine, Load(64, 5, (1, 4), repeats=3), monkeypatch)
    assert found["prompt_tokens"] == 64
    assert found["prefill_tokens_per_second"] == 63 / 64, "a prompt that says nothing has one token"
    assert found["time_to_first_token"] == {"p50": 64.0, "p95": 64.0}
    assert found["batches"]["1"]["decode_tokens_per_second"] == pytest.approx(0.1)
    assert found["batches"]["4"] == {
        "decode_tokens_per_second": pytest.approx(0.4),
        "tokens_per_second": 20 / (4 * 64 + 40),
        "latency": {"p50": 296.0, "p95": 296.0},
        "requests": 12,
        "completion_tokens": 5.0,
    }
    firsts = [content.split()[0] for content in engine.seen]
    assert len(set(firsts)) == len(firsts), "no two prompts begin alike"


def test_what_prompts_share_is_no_prefill(monkeypatch: pytest.MonkeyPatch):
    found = measured(Clocked(template=30), Load(64, 5, (1,), repeats=3), monkeypatch)
    assert found["prompt_tokens"] == 64
    assert found["prefill_tokens_per_second"] == 33 / 34


def test_an_engine_runs_all_that_is_counted(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    engine = MlxEngine(load(str(tiny_model_dir)))
    ran: list[int] = []
    hidden = engine._decoders.base.hidden
    monkeypatch.setattr(
        engine._decoders.base,
        "hidden",
        lambda rows, *rest: (ran.append(sum(map(len, rows))), hidden(rows, *rest))[1],
    )
    prompts = Prompts(5, is_chat=False)
    prompts.fit(engine, 64)
    for number in (1, 1, 3, 1):
        ran.clear()
        found = measuring.run(engine, prompts.take(number, max_tokens=1))
        counted = found.prompt_tokens - number * prompts.template_tokens
        assert counted <= sum(ran) <= found.prompt_tokens


def test_answers_of_one_token_have_no_decoding_rate(monkeypatch: pytest.MonkeyPatch):
    found = measured(Clocked(tokens=1), Load(64, 5, (1,), repeats=2), monkeypatch)
    assert found["batches"]["1"]["decode_tokens_per_second"] is None


def test_an_engine_that_counts_no_tokens_is_refused():
    with pytest.raises(DataError, match=r"does not count tokens, so nothing can be measured; use another"):
        Prompts(5, is_chat=False).fit(Clocked(counts=False), 64)  # type: ignore[arg-type]


def test_a_length_that_no_prompt_can_have_is_refused():
    class Talkative(Clocked):
        def _length(self, request: Request) -> int:
            return 100 + super()._length(request)

    with pytest.raises(
        DataError, match=r"--prompt-tokens is 64, and the shortest prompt has 1\d\d; raise it"
    ):
        Prompts(5, is_chat=False).fit(Talkative(), 64)  # type: ignore[arg-type]


def test_an_engine_for_which_all_prompts_are_as_long_is_refused():
    class Cutting(Clocked):
        def _length(self, request: Request) -> int:
            return 8

    with pytest.raises(DataError, match=r"does not count the tokens of a prompt; use another one"):
        Prompts(5, is_chat=False).fit(Cutting(), 64)  # type: ignore[arg-type]


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


def test_the_table_names_the_model_the_engine_and_what_was_left_out(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("smidgen.cli.bench._engines_for", lambda _: ["mlx", "warp"])
    assert exit_code(["bench", str(tiny_model_dir), *SMALL]) == 0
    said = capsys.readouterr()
    assert all(row in said.out for row in ("prefill", "decode, 3 at once", "peak memory", "device's bound"))
    assert "warp left out: there is no engine 'warp'" in said.err


@pytest.mark.parametrize(
    ("model", "engines"),
    [("http://localhost:1/v1", ["http"]), ("a/b.gguf", ["llama"]), ("owner/model", ["mlx", "llama"])],
)
def test_only_engines_that_take_such_a_model_are_tried(model: str, engines: list[str]):
    assert _engines_for(model) == engines


def test_help_lists_the_engines(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["bench", "--help"]) == 0
    assert "mlx, llama, http" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_what_a_step_reads_counts_a_tied_embedding_once(tiny_model_dir: Path, tmp_path: Path):
    tied = _weights(str(tiny_model_dir))
    assert tied is not None
    assert tied.step_parameters - tied.block_parameters == 320 * 32
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(tmp_path / "q"), "--bits", "4"]) == 0
    small = _weights(str(tmp_path / "q"))
    assert small is not None and small[:3] == tied[:3]
    assert small.step_bytes < tied.step_bytes / 4
    assert _weights("http://localhost:1/v1") is None


def test_the_weights_of_a_gguf_file_are_those_of_its_folder(tiny_model_dir: Path, tmp_path: Path):
    file = tmp_path / "m.gguf"
    write_gguf(str(tiny_model_dir), file, dtype="F32")
    assert _weights(str(file)) == _weights(str(tiny_model_dir))
    (tmp_path / "bad.gguf").write_bytes(file.read_bytes()[:100])
    assert _weights(str(tmp_path / "bad.gguf")) is None and _weights(str(tmp_path / "none.gguf")) is None


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
            "--max-tokens is 1, and decoding is measured after the first",
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

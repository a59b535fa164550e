"""What is measured of an engine, on a clock of the test's own."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from smidgen.benchmark import workload
from smidgen.benchmark.measuring import BatchSpeed, EngineSpeed, Percentiles, measure
from smidgen.benchmark.workload import Prompts, run_together
from smidgen.data.types import Completion, Request, Timing
from smidgen.errors import DataError
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load
from smidgen.options import WorkloadOptions


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
    found = measured(Jittery(), WorkloadOptions(16, 6, (1,), 4), monkeypatch)
    assert found.batches[1].decode_tokens_per_second is None


def measured(
    engine: Clocked, load: WorkloadOptions, monkeypatch: pytest.MonkeyPatch, steps: list[int] | None = None
) -> EngineSpeed:
    monkeypatch.setattr(workload.time, "perf_counter", lambda: engine.now)
    work = measure(engine, load, is_chat=False)  # type: ignore[arg-type]
    while True:
        try:
            done = next(work)
        except StopIteration as finished:
            return finished.value
        if steps is not None:
            steps.append(done)


def test_rates_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch):
    engine, steps = Clocked(), list[int]()
    found = measured(engine, WorkloadOptions(64, 5, (1, 4), repeats=3), monkeypatch, steps)
    assert steps == [4, 8]
    assert found.prompt_tokens == 64
    assert found.prefill_tokens_per_second == 63 / 64, "a prompt that says nothing has one token"
    assert found.time_to_first_token == Percentiles(64.0, 64.0)
    assert found.batches[1].decode_tokens_per_second == pytest.approx(0.1)
    assert found.batches[4] == BatchSpeed(
        decode_tokens_per_second=pytest.approx(0.4),  # type: ignore[arg-type]
        tokens_per_second=20 / (4 * 64 + 40),
        latency=Percentiles(296.0, 296.0),
        requests=12,
        completion_tokens=5.0,
    )
    firsts = [content.split()[0] for content in engine.seen]
    assert len(set(firsts)) == len(firsts), "no two prompts begin alike"


def test_what_prompts_share_is_no_prefill(monkeypatch: pytest.MonkeyPatch):
    found = measured(Clocked(template=30), WorkloadOptions(64, 5, (1,), repeats=3), monkeypatch)
    assert found.prompt_tokens == 64
    assert found.prefill_tokens_per_second == 33 / 34


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
        found = run_together(engine, prompts.take(number, max_tokens=1))
        counted = found.prompt_tokens - number * prompts.template_tokens
        assert counted <= sum(ran) <= found.prompt_tokens


def test_answers_of_one_token_have_no_decoding_rate(monkeypatch: pytest.MonkeyPatch):
    found = measured(Clocked(tokens=1), WorkloadOptions(64, 5, (1,), repeats=2), monkeypatch)
    assert found.batches[1].decode_tokens_per_second is None


def test_an_engine_that_counts_no_tokens_is_refused():
    with pytest.raises(DataError, match=r"does not count tokens, so it cannot be measured; use another"):
        Prompts(5, is_chat=False).fit(Clocked(counts=False), 64)  # type: ignore[arg-type]


def test_a_length_that_no_prompt_can_have_is_refused():
    class Talkative(Clocked):
        def _length(self, request: Request) -> int:
            return 100 + super()._length(request)

    with pytest.raises(
        DataError, match=r"--prompt-tokens is 64, but the shortest prompt has 1\d\d; raise it"
    ):
        Prompts(5, is_chat=False).fit(Talkative(), 64)  # type: ignore[arg-type]


def test_an_engine_for_which_all_prompts_are_as_long_is_refused():
    class Cutting(Clocked):
        def _length(self, request: Request) -> int:
            return 8

    with pytest.raises(DataError, match=r"does not count prompt tokens; use another engine"):
        Prompts(5, is_chat=False).fit(Cutting(), 64)  # type: ignore[arg-type]

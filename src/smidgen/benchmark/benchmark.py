"""Measure every engine that can run a model, one after the other."""

import gc
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from smidgen import backend
from smidgen.backend import Rates, measure_rates, reset_peak_memory
from smidgen.benchmark.measuring import EngineSpeed, measure
from smidgen.benchmark.roofline import Roofline, roofline_of
from smidgen.errors import ConfigError, UserError
from smidgen.files import is_url
from smidgen.inference import open_engine
from smidgen.inference.choice import choose
from smidgen.options import EngineName, EngineOptions, WorkloadOptions


@dataclass(frozen=True)
class Machine:
    """The measured device; see `smidgen.backend.Device`."""

    kind: str
    name: str
    cores: int


@dataclass(frozen=True)
class BenchmarkResult:
    """Results of a benchmark.

    Attributes:
        model: name of the model as given.
        kv_bits: bits of the KV cache; None if it is not quantized.
        device: the measured device.
        prompt_tokens: the requested prompt length.
        max_tokens: maximum completion length.
        repeats: number of repeats of each measurement.
        roofline: upper bounds of the device; None if the weights are not on this machine.
        engines: results by engine.
        skipped: why the other engines could not be measured.
        auto: the engine that `auto` takes, with the speeds that decided; None if only one was measured.
    """

    model: str
    kv_bits: int | None
    device: Machine
    prompt_tokens: int
    max_tokens: int
    repeats: int
    roofline: Roofline | None
    engines: Mapping[str, EngineSpeed]
    skipped: Mapping[str, str]
    auto: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class BenchmarkStep:
    """Progress of one engine; its first step (0) comes before it is opened."""

    engine: EngineName
    done: int


class Benchmark:
    """A benchmark that its caller drives: an iterator over its steps.

    Attributes:
        total: number of steps per engine.
        result: the results, after the last step.
    """

    def __init__(
        self,
        model: EngineOptions,
        engines: Sequence[EngineName] = (),
        workload: WorkloadOptions = WorkloadOptions(),
    ):
        """Prepare a benchmark.

        Args:
            model: the model; its engine is ignored, and the workload sets the batch size.
            engines: engines to measure; if empty, all that support the model.
            workload: the requests to measure with.
        """
        self.result: BenchmarkResult | None = None
        self.total = len(set(workload.batch)) * (1 + workload.repeats)
        self._model, self._named, self._workload = model, engines, workload

    def __iter__(self) -> Iterator[BenchmarkStep]:
        """Run the measurements.

        Raises:
            ConfigError: no engine can be measured.
            UserError: one of the requested engines cannot be measured.
        """
        model, work = self._model, self._workload
        engines: dict[str, EngineSpeed] = {}
        skipped: dict[str, str] = {}
        rates = [measure_rates()]
        for name in self._named or engines_for(model.model):
            options = replace(model, engine=name, batch_size=max(work.batch))
            try:
                engines[name] = yield from _measured(options, work)
            except UserError as error:
                if self._named:
                    raise
                skipped[name] = str(error)
        if not engines:
            raise ConfigError(
                f"no engine can be measured with {model.model}: {'; '.join(dict.fromkeys(skipped.values()))}"
            )
        rates.append(measure_rates())
        # The better of the rates before and after, because other programs can only slow a measurement down.
        best = Rates(*map(max, zip(*rates, strict=True)))
        device = backend.device()
        auto = None
        if len(engines) > 1:
            auto = str(choose(model.model, batch_size=max(work.batch), kv_bits=model.kv_bits))
        self.result = BenchmarkResult(
            model=model.model,
            kv_bits=model.kv_bits,
            device=Machine(device.kind, device.name, device.cores),
            prompt_tokens=work.prompt_tokens,
            max_tokens=work.max_tokens,
            repeats=work.repeats,
            roofline=roofline_of(
                model.model, best, prompt_tokens=work.prompt_tokens, batches=sorted(set(work.batch))
            ),
            engines=engines,
            skipped=skipped,
            auto=auto,
        )


def engines_for(model: str) -> Sequence[EngineName]:
    """Return the engines that support a model (a URL, a GGUF file or a folder), installed or not."""
    if is_url(model):
        return ["http"]
    return ["llama"] if model.endswith(".gguf") else ["mlx", "llama"]


def _measured(
    options: EngineOptions, workload: WorkloadOptions
) -> Generator[BenchmarkStep, None, EngineSpeed]:
    """Open an engine, measure it and close it."""
    yield BenchmarkStep(options.engine, 0)
    gc.collect()
    reset_peak_memory()
    started = time.perf_counter()
    engine = open_engine(options)
    try:
        opened = time.perf_counter() - started
        steps = measure(engine, workload, is_chat=options.engine == "http", seconds_to_open=opened)
        return (yield from _steps(options.engine, steps))
    finally:
        engine.close()


def _steps(
    name: EngineName, measuring: Generator[int, None, EngineSpeed]
) -> Generator[BenchmarkStep, None, EngineSpeed]:
    while True:
        try:
            yield BenchmarkStep(name, next(measuring))
        except StopIteration as finished:
            return finished.value

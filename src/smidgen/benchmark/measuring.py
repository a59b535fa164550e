"""Measure the speed of an open engine."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from smidgen.benchmark.workload import Prompts, TimedRequests, run_together
from smidgen.inference import Engine
from smidgen.options import WorkloadOptions


@dataclass(frozen=True)
class Percentiles:
    """Median and 95th percentile of request times, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class BatchSpeed:
    """Speed of an engine at one batch size.

    Attributes:
        decode_tokens_per_second: over all rows, without their first tokens; None if it is within the noise.
        tokens_per_second: completion tokens over total time, prefill included.
        latency: latency of single requests, queueing included.
        requests: number of measured requests.
        completion_tokens: mean completion length in tokens.
    """

    decode_tokens_per_second: float | None
    tokens_per_second: float
    latency: Percentiles
    requests: int
    completion_tokens: float


@dataclass(frozen=True)
class EngineSpeed:
    """Speed of an engine.

    Attributes:
        seconds_to_open: time until it accepted requests.
        prompt_tokens: actual prompt length.
        prefill_tokens_per_second: for one prompt at a time.
        time_to_first_token: in seconds, for one request at a time.
        batches: results by batch size.
        peak_memory_bytes: of the device, or of the process on a CPU; None if unknown.
    """

    seconds_to_open: float
    prompt_tokens: int
    prefill_tokens_per_second: float
    time_to_first_token: Percentiles
    batches: Mapping[int, BatchSpeed]
    peak_memory_bytes: int | None


def measure(
    engine: Engine, workload: WorkloadOptions, *, is_chat: bool, seconds_to_open: float = 0.0
) -> Generator[int, None, EngineSpeed]:
    """Warm up an engine and measure it at every batch size; servers need chat prompts (`is_chat`).

    Yields:
        The number of finished steps: per batch size, one for the warm-up and one per repeat.

    Raises:
        DataError: prompts of the requested length are impossible, or the engine does not count tokens.
    """
    prompts = Prompts(workload.max_tokens, is_chat=is_chat)
    reached = prompts.fit(engine, workload.prompt_tokens)
    batches: dict[int, BatchSpeed] = {}
    singles: list[TimedRequests] = []
    for number in sorted({1, *workload.batch}):
        run_together(engine, prompts.take(number))
        firsts, wholes = [], []
        for _ in range(workload.repeats):
            firsts.append(run_together(engine, prompts.take(number, max_tokens=1)))
            if number in workload.batch:
                wholes.append(run_together(engine, prompts.take(number)))
        if number == 1:
            singles = firsts
        if wholes:
            batches[number] = _batch_speed(firsts, wholes)
            yield len(batches) * (1 + workload.repeats)
    return EngineSpeed(
        seconds_to_open=seconds_to_open,
        prompt_tokens=reached,
        prefill_tokens_per_second=median(
            (one.prompt_tokens - prompts.template_tokens) / one.seconds for one in singles
        ),
        time_to_first_token=_percentiles([one.seconds for one in singles]),
        batches=batches,
        peak_memory_bytes=engine.peak_memory_bytes(),
    )


def _batch_speed(firsts: Sequence[TimedRequests], wholes: Sequence[TimedRequests]) -> BatchSpeed:
    """Compute the speed at one batch size; decode time is total time minus the time to first tokens.

    If the difference is within the variation of the times to first tokens, decode speed is unknown.
    """
    prefills = [first.seconds for first in firsts]
    decoding = median(run.seconds for run in wholes) - median(prefills)
    tokens = median(run.tokens - len(run.completions) for run in wholes)
    is_known = tokens > 0 and decoding > max(prefills) - min(prefills)
    requests = sum(len(run.completions) for run in wholes)
    return BatchSpeed(
        decode_tokens_per_second=tokens / decoding if is_known else None,
        tokens_per_second=median(run.tokens / run.seconds for run in wholes),
        latency=_percentiles([seconds for run in wholes for seconds in run.latencies]),
        requests=requests,
        completion_tokens=sum(run.tokens for run in wholes) / requests,
    )


def _percentiles(seconds: Sequence[float]) -> Percentiles:
    return Percentiles(*np.quantile(seconds, [0.5, 0.95]).tolist())

"""The speed of an engine that is open."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from smidgen.benchmark.workload import Prompts, TimedRequests, run_together
from smidgen.inference import Engine
from smidgen.options import WorkloadOptions


@dataclass(frozen=True)
class Percentiles:
    """Seconds that half of all requests, and 95 % of them, took at most."""

    p50: float
    p95: float


@dataclass(frozen=True)
class BatchSpeed:
    """An engine with so many requests at once.

    Attributes:
        decode_tokens_per_second: over all rows, beyond their first tokens; None where noise hides it.
        tokens_per_second: completion tokens over the whole time, prefill included.
        latency: of single requests, queueing included.
        requests: how many were measured.
        completion_tokens: mean tokens of an answer.
    """

    decode_tokens_per_second: float | None
    tokens_per_second: float
    latency: Percentiles
    requests: int
    completion_tokens: float


@dataclass(frozen=True)
class EngineSpeed:
    """What was measured of an engine.

    Attributes:
        seconds_to_open: until it took its first request.
        prompt_tokens: the length of prompts that was reached.
        prefill_tokens_per_second: of one prompt at a time.
        time_to_first_token: of one request at a time.
        batches: by the number of requests at once.
        peak_memory_bytes: of the device, or of the process on a CPU; None where it is not known.
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
    """Warm an engine up, then measure it on every batch size; servers take prompts as a chat only.

    Yields:
        How many steps are done: for every batch size one for the warm-up, and one for each repeat.

    Raises:
        DataError: prompts of that length cannot be made, or the engine counts no tokens.
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
    """What one batch size came to; decoding is what whole answers take beyond their first tokens.

    Where that is no longer than first tokens differ among themselves, it is not known.
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

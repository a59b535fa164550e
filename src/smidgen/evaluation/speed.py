"""Speed of an evaluation: throughput of the whole run, latency of single answers.

These numbers describe the machine at hand. For comparisons of speed see `benchmarks/`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from smidgen.data.types import Timing


@dataclass(frozen=True)
class Speed:
    """Speed of one evaluation; values that were not measured, as in replays, are None.

    Attributes:
        tokens_per_second: completion tokens of all answers per second of wall-clock time, prefill included.
        latency_p50: median seconds from the start of a request to its last token, in a batch with others.
        latency_p95: 95th percentile of the latency.
        latency_p99: 99th percentile of the latency.
        cold_start: seconds of the answer that was finished first, in which caches were still empty; the
            percentiles include it.
        peak_memory_bytes: peak memory use of the device.
        prompt_tokens: tokens of all prompts, shared prefixes counted each time.
        completion_tokens: generated tokens.
        seconds: wall-clock time of the run, over all sessions.
    """

    tokens_per_second: float | None
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    cold_start: float | None
    peak_memory_bytes: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields as a JSON object."""
        return asdict(self)


def measure_speed(
    timings: Sequence[Timing | None],
    seconds: float,
    *,
    first: Timing | None = None,
    peak_memory_bytes: int | None = None,
) -> Speed:
    """Compute the speed of a run from the timings of its completions.

    Args:
        timings: one entry per completion; throughput is None if any is missing.
        seconds: wall-clock time of the run.
        first: that of the completion that was finished first, if it is known.
        peak_memory_bytes: as measured by the backend.
    """
    timed = [timing for timing in timings if timing is not None]
    complete = bool(timed) and len(timed) == len(timings)
    prompt_tokens = sum(timing.prompt_tokens for timing in timed) if complete else None
    tokens = sum(timing.completion_tokens for timing in timed) if complete else None
    latencies = [timing.seconds for timing in timed]
    p50, p95, p99 = np.quantile(latencies, [0.5, 0.95, 0.99]).tolist() if timed else [None] * 3
    rate = tokens / seconds if tokens is not None and seconds > 0 else None
    cold = first.seconds if first else None
    return Speed(rate, p50, p95, p99, cold, peak_memory_bytes, prompt_tokens, tokens, seconds)

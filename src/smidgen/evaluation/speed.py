"""What an evaluation took: throughput of the whole run, latency of one answer.

Descriptive numbers of the machine at hand. A claim of speed needs a peer in the same run; see `benchmarks/`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from smidgen.data.types import Timing


@dataclass(frozen=True)
class Speed:
    """Speed of one evaluation; None where it was not measured, as with a recording.

    Attributes:
        tokens_per_second: completion tokens of all answers over the wall-clock of the run, prefill included.
        latency_p50: median seconds from a request's start to its last token; in a batch, others run beside
            it.
        latency_p95: 95th percentile of the same.
        peak_memory_bytes: highest memory use of the device.
        prompt_tokens: tokens of all prompts, shared beginnings counted each time.
        completion_tokens: tokens written.
        seconds: wall-clock of the run, over all its sessions.
    """

    tokens_per_second: float | None
    latency_p50: float | None
    latency_p95: float | None
    peak_memory_bytes: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float

    def to_json(self) -> dict[str, float | int | None]:
        """The fields as a JSON object."""
        return asdict(self)


def measure_speed(
    timings: Sequence[Timing | None], seconds: float, *, peak_memory_bytes: int | None = None
) -> Speed:
    """Sum up the timings of a run's completions.

    Args:
        timings: one entry a completion; throughput needs all of them.
        seconds: wall-clock of the run.
        peak_memory_bytes: as the backend counted it.
    """
    timed = [timing for timing in timings if timing is not None]
    complete = bool(timed) and len(timed) == len(timings)
    prompt_tokens = sum(timing.prompt_tokens for timing in timed) if complete else None
    tokens = sum(timing.completion_tokens for timing in timed) if complete else None
    p50, p95 = (
        np.quantile([timing.seconds for timing in timed], [0.5, 0.95]).tolist() if timed else (None, None)
    )
    rate = tokens / seconds if tokens is not None and seconds > 0 else None
    return Speed(rate, p50, p95, peak_memory_bytes, prompt_tokens, tokens, seconds)

import pytest

from smidgen.data.types import Timing
from smidgen.evaluation.speed import Speed, measure_speed


def timing(seconds: float, tokens: int = 10) -> Timing:
    return Timing(time_to_first_token=0.1, seconds=seconds, prompt_tokens=5, completion_tokens=tokens)


def test_throughput_is_over_the_wall_clock_and_latency_over_requests() -> None:
    speed = measure_speed([timing(seconds / 100) for seconds in range(1, 101)], 4.0, peak_memory_bytes=9)
    assert speed.tokens_per_second == 1000 / 4
    assert speed.latency_p50 == pytest.approx(0.505)
    assert speed.latency_p95 == pytest.approx(0.9505)
    assert speed.latency_p99 == pytest.approx(0.9901)
    assert speed.peak_memory_bytes == 9


def test_a_cold_start_is_counted_apart_and_included() -> None:
    cold = timing(9.0)
    speed = measure_speed([cold, timing(1.0), timing(1.0)], 11.0, first=cold)
    assert speed.cold_start == 9.0 and speed.latency_p50 == 1.0
    assert speed.latency_p99 is not None and speed.latency_p99 > 8


def test_untimed_answers_leave_no_throughput() -> None:
    assert measure_speed([timing(1.0), None], 4.0) == Speed(None, 1.0, 1.0, 1.0, None, None, None, None, 4.0)
    assert measure_speed([], 0.0) == Speed(None, None, None, None, None, None, None, None, 0.0)
    assert measure_speed([None], 0.0).to_json()["latency_p50"] is None

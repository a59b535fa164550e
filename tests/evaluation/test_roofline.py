import pytest

from smidgen.evaluation.roofline import Weights, decode_bound, prefill_bound

# A head of 20 of its own, an embedding of 20 beside it, 100 in the blocks, two bytes each.
WEIGHTS = Weights(parameters=140, block_parameters=100, step_parameters=120, step_bytes=240)


def test_one_row_is_bound_by_the_bytes_of_the_weights():
    assert decode_bound(WEIGHTS, flops=1e9, bandwidth=480, batch=1) == 2.0


def test_rows_share_the_reading_until_arithmetic_bounds_them():
    rates = [decode_bound(WEIGHTS, flops=2400, bandwidth=480, batch=batch) for batch in (1, 4, 5, 16)]
    assert rates == pytest.approx([2.0, 8.0, 10.0, 10.0])


def test_a_prompt_is_bound_by_two_operations_a_weight_and_the_head_once():
    assert prefill_bound(WEIGHTS, flops=1000, bandwidth=1e9, prompt_tokens=10) == pytest.approx(
        10 * 1000 / (2 * 100 * 10 + 2 * 20)
    )


def test_a_short_prompt_still_reads_every_weight():
    assert prefill_bound(WEIGHTS, flops=1e9, bandwidth=480, prompt_tokens=1) == 2.0

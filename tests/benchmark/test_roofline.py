from pathlib import Path

import pytest

from smidgen.benchmark.roofline import Weights, decode_bound, prefill_bound, weights_of
from smidgen.cli.app import exit_code
from smidgen.export.gguf import write_gguf

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


def test_what_a_step_reads_counts_a_tied_embedding_once(tiny_model_dir: Path, tmp_path: Path):
    tied = weights_of(str(tiny_model_dir))
    assert tied is not None
    assert tied.step_parameters - tied.block_parameters == 320 * 32
    assert exit_code(["quantize", str(tiny_model_dir), "--out", str(tmp_path / "q"), "--bits", "4"]) == 0
    small = weights_of(str(tmp_path / "q"))
    assert small is not None and small[:3] == tied[:3]
    assert small.step_bytes < tied.step_bytes / 4
    assert weights_of("http://localhost:1/v1") is None


def test_the_weights_of_a_gguf_file_are_those_of_its_folder(tiny_model_dir: Path, tmp_path: Path):
    file = tmp_path / "m.gguf"
    write_gguf(str(tiny_model_dir), file, dtype="F32")
    assert weights_of(str(file)) == weights_of(str(tiny_model_dir))
    (tmp_path / "bad.gguf").write_bytes(file.read_bytes()[:100])
    assert weights_of(str(tmp_path / "bad.gguf")) is None and weights_of(str(tmp_path / "none.gguf")) is None

"""Several texts in one row come out as each would alone, by the kernels and by MLX's ops."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.cpu_kernels.test_modules import (
    LLAMA3,
    YARN,
    assert_same,
    causal,
    forbid_fallback,
    gradients,
    stream,
)

from smidgen.backend import mx, nn
from smidgen.cpu_kernels import Packing, fuses
from smidgen.cpu_kernels.attention import QUERY_TILE

Pair = Callable[..., tuple[Any, Any]]
ROWS = [[9, 1, QUERY_TILE + 2, 21], [QUERY_TILE + 30, 3]]
"""The lengths of the texts of each row; the rest of a row is padding."""
LENGTH = QUERY_TILE + 40


def packing() -> Packing:
    segments = np.full((len(ROWS), LENGTH), -1, np.int32)
    positions = np.zeros((len(ROWS), LENGTH), np.int32)
    for row, start, end, number in places():
        segments[row, start:end], positions[row, start:end] = number, np.arange(end - start)
    return Packing(segments, positions)


def places() -> list[tuple[int, int, int, int]]:
    """Every text: its row, where it begins and ends, and its number in the row."""
    ends = [np.cumsum(lengths).tolist() for lengths in ROWS]
    return [
        (row, end - length, end, number)
        for row, lengths in enumerate(ROWS)
        for number, (length, end) in enumerate(zip(lengths, ends[row], strict=True))
    ]


def texts(y: mx.array) -> mx.array:
    """The tokens that are no padding, one text after the other."""
    return mx.concatenate([y[row, start:end] for row, start, end, _ in places()])


def alone(block: nn.Module, x: mx.array) -> mx.array:
    return mx.concatenate(
        [
            block(x[row : row + 1, start:end], "causal" if end - start > 1 else None)[0]
            for row, start, end, _ in places()
        ]
    )


def together(block: nn.Module, x: mx.array) -> mx.array:
    return texts(causal(block, x, packing=packing()))


def by_ops(block: nn.Module, x: mx.array) -> mx.array:
    middle = x + packing().attend(block.self_attn, block.input_layernorm(x))
    mlp = block.mlp if "mlp" in block else block.feed_forward
    return texts(middle + mlp(block.post_attention_layernorm(middle)))


CASES = pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("qwen3", {}),
        ("qwen2", {}),
        ("llama", {"rope_scaling": LLAMA3}),
        ("qwen3", {"rope_scaling": YARN}),
        ("llama4_text", {}),
        ("llama4_text", {"no_rope_layers": [0]}),
    ],
)


@CASES
def test_the_kernels_keep_texts_apart(
    pair: Pair, architecture: str, changes: dict, monkeypatch: pytest.MonkeyPatch
):
    plain, fused = pair(architecture, **changes)
    forbid_fallback(monkeypatch)
    x = stream(len(ROWS), LENGTH)
    assert_same(gradients(fused, x, together), gradients(plain, x, alone))


@CASES
def test_the_ops_keep_texts_apart(pair: Pair, architecture: str, changes: dict):
    plain, _ = pair(architecture, **changes)
    x = stream(len(ROWS), LENGTH)
    assert_same(gradients(plain, x, by_ops), gradients(plain, x, alone))
    assert "placed" not in type(plain.self_attn.rope).__name__.lower()


@pytest.mark.parametrize("architecture", ["qwen3", "llama4_text"])
def test_a_mask_bars_tokens_of_the_same_text(pair: Pair, architecture: str, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair(architecture)
    forbid_fallback(monkeypatch)
    visible = np.random.default_rng(0).random((len(ROWS), LENGTH, LENGTH)) < 0.4
    visible |= np.eye(LENGTH, dtype=bool)
    given = replace(packing(), visible=visible)
    segments = given.segments
    expected = visible & np.tri(LENGTH, dtype=bool) & (segments[:, :, None] == segments[:, None, :])
    assert np.array_equal(np.array(given.mask())[:, 0], expected)

    def masked(block: nn.Module, x: mx.array) -> mx.array:
        return texts(causal(block, x, packing=given))

    def by_mask(block: nn.Module, x: mx.array) -> mx.array:
        middle = x + given.attend(block.self_attn, block.input_layernorm(x))
        mlp = block.mlp if "mlp" in block else block.feed_forward
        return texts(middle + mlp(block.post_attention_layernorm(middle)))

    x = stream(len(ROWS), LENGTH)
    assert_same(gradients(fused, x, masked), gradients(plain, x, by_mask))
    free = gradients(fused, x, together)
    assert not np.allclose(np.array(free[0]), np.array(gradients(fused, x, masked)[0]), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "length"),
    [({"attention_chunk_size": 16}, 17), ({"no_rope_layers": [0], "floor_scale": 8}, 8)],
)
def test_what_is_more_than_causal_leaves_the_kernels(pair: Pair, changes: dict, length: int):
    plain, fused = pair("llama4_text", **changes)
    x = stream(8, length)
    assert fused._kernel_inputs(x[:, :-1], "causal", None, None)[1]
    assert not fused._kernel_inputs(x, "causal", None, None)[1]
    assert_same(gradients(fused, x, causal), gradients(plain, x, causal))
    wide = stream(len(ROWS), LENGTH)
    assert_same(gradients(fused, wide, together), gradients(plain, wide, alone))
    assert not fuses(fused) and fuses(pair("llama4_text")[1])


def test_few_tokens_leave_the_kernels_and_are_kept_apart_as_well(pair: Pair):
    plain, fused = pair()
    x = stream(1, 7)
    small = Packing(np.array([[0, 0, 0, 1, 1, 1, 1]], np.int32), np.array([[0, 1, 2, 0, 1, 2, 3]], np.int32))
    rows = mx.array([1, 5])
    wanted = mx.concatenate([causal(plain, x[:, :3])[0], causal(plain, x[:, 3:])[0]])
    assert mx.allclose(causal(fused, x, packing=small)[0], wanted, atol=1e-5)
    assert mx.allclose(causal(fused, x, packing=small, chosen=rows), wanted[rows], atol=1e-5)


def test_chosen_tokens_of_texts_leave(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair()
    x = stream(len(ROWS), LENGTH)
    rows = mx.array([0, 9, 10, 11, LENGTH + 2, LENGTH + QUERY_TILE + 31])
    forbid_fallback(monkeypatch)
    ours = gradients(fused, x, lambda block, x: causal(block, x, chosen=rows, packing=packing()))
    with packing().placed(plain.self_attn):
        reference = gradients(
            plain, x, lambda block, x: block(x, packing().mask()).reshape(-1, x.shape[-1])[rows]
        )
    assert_same(ours, reference)


def test_positions_beyond_the_row_are_turned_by(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair()
    x = stream(1, 40)
    positions = np.random.default_rng(0).integers(0, 300, (1, 40)).astype(np.int32)
    given = Packing(np.zeros((1, 40), np.int32), positions)
    with given.placed(plain.self_attn):
        wanted = plain(x, "causal")
    forbid_fallback(monkeypatch)
    assert mx.allclose(causal(fused, x, packing=given), wanted, rtol=1e-4, atol=1e-4)
    assert not mx.allclose(causal(fused, x), wanted, rtol=1e-4, atol=1e-4)

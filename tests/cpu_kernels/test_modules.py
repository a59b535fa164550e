"""The fused block computes what the block of mlx-lm computes, and so does its gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache
from mlx_lm.tuner.lora import LoRALinear

from smidgen.backend import mx, nn
from smidgen.cpu_kernels import FusedBlock, accelerate, modules
from smidgen.cpu_kernels.attention import QUERY_TILE
from smidgen.cpu_kernels.block import LINEARS, TILE, _tile_length
from smidgen.cpu_kernels.pieces import drop
from smidgen.cpu_kernels.team import Team

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
UPDATED = [("self_attn", "k_proj"), ("self_attn", "o_proj"), ("mlp", "up_proj"), ("mlp", "down_proj")]
EVERY = [(room, name) for room, names in (("self_attn", LINEARS[:4]), ("mlp", LINEARS[4:])) for name in names]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def stream(batch: int, length: int, width: int = 32) -> mx.array:
    return mx.random.normal((batch, length, width), key=mx.random.key(batch * 1000 + length))


def gradients(
    block: nn.Module, x: mx.array, call: Callable[..., mx.array]
) -> tuple[mx.array, dict[str, mx.array]]:
    """The value of a block, and the gradient of something curved in it, of `x` and of each parameter."""

    def loss(parameters: dict, x: mx.array) -> mx.array:
        block.update(parameters)
        y = call(block, x)
        return (mx.sin(y) * mx.linspace(0.5, 1.5, y.size).reshape(y.shape)).sum()

    value = call(block, x)
    parameters = block.trainable_parameters()
    of_parameters, of_x = mx.grad(loss, argnums=(0, 1))(parameters, x)
    block.update(parameters)
    return value, dict(tree_flatten(of_parameters)) | {"x": of_x}


def assert_same(ours: tuple[mx.array, dict], reference: tuple[mx.array, dict]) -> None:
    assert ours[1].keys() == reference[1].keys()
    for name, expected in {"value": reference[0], **reference[1]}.items():
        found = ours[0] if name == "value" else ours[1][name]
        assert found.shape == expected.shape, name
        scale = mx.abs(expected).max().item()
        assert mx.abs(found - expected).max().item() <= 2e-5 * scale, name


def causal(block: nn.Module, x: mx.array, **options: Any) -> mx.array:
    return block(x, "causal", None, **options)


Pair = Callable[..., tuple[Any, Any]]


def forbid_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> mx.array:
        raise AssertionError("the block left the kernel")

    monkeypatch.setattr(FusedBlock, "_unfused", refuse)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"num_key_value_heads": 1, "head_dim": 6}),
        ("qwen3", {"num_key_value_heads": 4, "hidden_size": 40}),
        ("qwen2", {}),
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
        ("llama", {"rope_scaling": LLAMA3}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("qwen3", {"rope_scaling": YARN}),
        ("llama", {"rope_traditional": True}),
        ("llama4_text", {}),
        ("llama4_text", {"attention_bias": True, "rope_scaling": LLAMA3}),
        ("llama4_text", {"no_rope_layers": [0]}),
    ],
)
@pytest.mark.parametrize(("batch", "length"), [(3, 20), (2, QUERY_TILE + 13)])
def test_fused_equals_plain(
    pair: Pair, architecture: str, changes: dict, batch: int, length: int, monkeypatch: pytest.MonkeyPatch
):
    plain, fused = pair(architecture, **changes)
    x = stream(batch, length, plain.input_layernorm.weight.size)
    forbid_fallback(monkeypatch)
    assert_same(gradients(fused, x, causal), gradients(plain, x, causal))


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(2, 2 * TILE // 3))
def test_fused_equals_plain_at_any_size(pair: Pair, batch: int, length: int):
    plain, fused = pair()
    x = stream(batch, length)
    assert mx.allclose(causal(fused, x), causal(plain, x), rtol=1e-4, atol=1e-4)


def test_arrays_that_lie_otherwise_in_memory_are_read_right(pair: Pair):
    plain, fused = pair()
    flat = mx.broadcast_to(stream(1, 32), (3, 32, 32))
    turned = mx.random.normal((2, 32, 32)).transpose(0, 2, 1)
    for x in (flat, turned):
        ours, reference = (
            mx.grad(lambda x, block=block: causal(block, x).sum())(x) for block in (fused, plain)
        )
        assert mx.allclose(causal(fused, x), causal(plain, x), rtol=1e-4, atol=1e-4)
        assert mx.allclose(ours, reference, rtol=1e-3, atol=1e-3)


def test_without_training_nothing_is_kept_and_the_gradient_is_the_same(pair: Pair):
    plain, fused = pair()
    fused.eval()
    x = stream(2, 30)
    assert_same(gradients(fused, x, causal), gradients(plain, x, causal))


def test_only_the_chosen_tokens_leave(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair()
    batch, length = 3, 2 * QUERY_TILE + 5
    x = stream(batch, length)
    rows = np.random.default_rng(0).permutation(batch * length)[: TILE + 9]
    rows = mx.array(rows[rows % length < QUERY_TILE + 7])  # no query of the last tile
    forbid_fallback(monkeypatch)
    ours = gradients(fused, x, lambda block, x: causal(block, x, chosen=rows))
    reference = gradients(plain, x, lambda block, x: causal(block, x).reshape(-1, 32)[rows])
    assert_same(ours, reference)


def test_chosen_tokens_leave_the_plain_path_too(pair: Pair):
    plain, fused = pair()
    x, rows = stream(1, 7), mx.array([2, 5])
    assert mx.allclose(causal(fused, x, chosen=rows), causal(plain, x)[0, rows], atol=1e-5)


@pytest.mark.parametrize("chosen", [None, mx.array([3, 39, 17])])
def test_dropout_is_the_mask_it_says(pair: Pair, chosen: mx.array | None, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair("llama", attention_bias=True, mlp_bias=True)
    x, rate = stream(2, 20), 0.25
    forbid_fallback(monkeypatch)
    mx.random.seed(5)
    seed = mx.random.randint(0, 1 << 30, (1,)).item()
    rows = 40 if chosen is None else 3
    mask = mx.array(drop(np.ones((rows, 32), np.float32), rate, int(seed), 0))
    monkeypatch.setattr("smidgen.cpu_kernels.block.team", lambda: Team(1))  # one tile

    def ours(block: nn.Module, x: mx.array) -> mx.array:
        mx.random.seed(5)
        return causal(block, x, dropout=rate, chosen=chosen).reshape(rows, 32)

    def reference(block: nn.Module, x: mx.array) -> mx.array:
        both = [x.reshape(-1, 32), causal(block, x).reshape(-1, 32)]
        x, y = both if chosen is None else (array[chosen] for array in both)
        return x + mask * (y - x)

    assert_same(gradients(fused, x, ours), gradients(plain, x, reference))
    fused.eval()
    assert mx.allclose(causal(fused, x, dropout=rate), causal(plain, x), atol=1e-5)


def test_dropout_off_the_kernel_keeps_what_passes_by(pair: Pair):
    plain, fused = pair()
    x = stream(1, 9)
    dropped, whole = causal(fused, x, dropout=0.5) - x, causal(plain, x) - x
    kept = dropped != 0
    assert 0.3 < kept.astype(mx.float32).mean().item() < 0.7
    assert mx.allclose(dropped, mx.where(kept, 2 * whole, 0), atol=1e-4)


def test_dropout_drops_its_share():
    kept = drop(np.ones((400, 400), np.float32), 0.3, 1, 2)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.7)}
    assert kept.mean() == pytest.approx(1.0, abs=0.01)
    other = drop(np.ones((400, 400), np.float32), 0.3, 1, 3)
    assert (kept == other).mean() == pytest.approx(0.7**2 + 0.3**2, abs=0.01)


def add_update(block: nn.Module, dropout: float = 0.0, updated: list[tuple[str, str]] = UPDATED) -> None:
    """Freeze a block and give some of its layers a low-rank update, as training does after loading."""
    block.freeze()
    for room, name in updated:
        room = room if room in block else "feed_forward"
        layer = LoRALinear.from_base(block[room][name], r=3, scale=1.5, dropout=dropout)
        keys = [mx.random.key(len(name) + part) for part in (0, 1)]
        layer.lora_a = 0.2 * mx.random.normal(layer.lora_a.shape, key=keys[0])
        layer.lora_b = 0.2 * mx.random.normal(layer.lora_b.shape, key=keys[1])
        block[room][name] = layer


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama4_text"])
def test_low_rank_updates_learn_and_frozen_weights_do_not(
    pair: Pair, architecture: str, monkeypatch: pytest.MonkeyPatch
):
    plain, fused = pair(architecture)
    add_update(plain)
    add_update(fused)
    assert len(tree_flatten(fused.trainable_parameters())) == 8
    x = stream(2, 25)
    forbid_fallback(monkeypatch)
    assert_same(gradients(fused, x, causal), gradients(plain, x, causal))


@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_quantised_weights_are_read_as_they_are(
    pair: Pair, updated: bool, mode: str, monkeypatch: pytest.MonkeyPatch
):
    plain, fused = pair("qwen2", hidden_size=64, intermediate_size=96)
    for block in (plain, fused):
        nn.quantize(block, group_size=32, bits=4, mode=mode)
        block.freeze()
        if updated:
            add_update(block)
    x = stream(2, 25, 64)
    forbid_fallback(monkeypatch)
    ours, reference = gradients(fused, x, causal), gradients(plain, x, causal)
    assert_same(ours, reference)
    assert len(ours[1]) == (9 if updated else 1)


def test_parameters_keep_their_names(make_model: Callable[..., Any]):
    plain, fused = make_model(num_hidden_layers=2), make_model(num_hidden_layers=2)
    accelerate(fused)
    accelerate(fused)
    assert all(type(layer) is FusedBlock for layer in fused.layers)
    expected = {name: value.shape for name, value in tree_flatten(plain.parameters())}
    assert {name: value.shape for name, value in tree_flatten(fused.parameters())} == expected
    fused.freeze()
    assert not tree_flatten(fused.trainable_parameters())


def unserved(name: str, fused: Any, x: mx.array) -> tuple[mx.array, Any, Any]:
    """A call that the kernels do not serve: x, mask, cache."""
    _, length, _ = x.shape
    if name == "mask":
        return x, mx.tril(mx.ones((length, length), mx.bool_)), None
    if name == "cache":
        return x, "causal", KVCache()
    if name == "few tokens":
        return x[:1, :9], "causal", None
    return x, "causal", None


class Fixed(nn.Module):
    """A dropout with a mask that is given."""

    def __init__(self, mask: np.ndarray):
        super().__init__()
        self._mask = mx.array(mask)

    def __call__(self, x: mx.array) -> mx.array:
        return (x.reshape(-1, x.shape[-1]) * self._mask).reshape(x.shape)


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("updated", [UPDATED, EVERY])
def test_the_dropout_of_an_update_is_the_mask_it_says(
    pair: Pair, updated: list[tuple[str, str]], tiles: int, monkeypatch: pytest.MonkeyPatch
):
    plain, fused = pair("qwen3")
    rate, x = 0.25, stream(2, 20)
    for block in (plain, fused):
        add_update(block, dropout=rate, updated=updated)
    forbid_fallback(monkeypatch)
    monkeypatch.setattr("smidgen.cpu_kernels.block.team", lambda: Team(tiles))
    parts = [slice(0, 40)] if tiles == 1 else [slice(0, 32), slice(32, 40)]
    mx.random.seed(5)
    seed = int(mx.random.randint(0, 1 << 30, (1,)).item())
    for room, name in updated:
        mask = np.ones((40, plain[room][name].lora_a.shape[0]), np.float32)
        for piece, part in enumerate(parts):
            drop(mask[part], rate, seed, 1 + LINEARS.index(name), piece)
        plain[room][name].dropout = Fixed(mask)

    def ours(block: nn.Module, x: mx.array) -> mx.array:
        mx.random.seed(5)
        return causal(block, x)

    assert_same(gradients(fused, x, ours), gradients(plain, x, causal))
    fused.eval()
    for room, name in updated:
        plain[room][name].dropout = nn.Identity()
    assert mx.allclose(causal(fused, x), causal(plain, x), atol=1e-5)


@pytest.mark.parametrize("case", ["mask", "cache", "few tokens", "half rotated"])
def test_what_the_kernels_do_not_serve_goes_to_mlx(pair: Pair, case: str, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair("llama")
    if case == "half rotated":
        plain.self_attn.rope = fused.self_attn.rope = nn.RoPE(4)
    monkeypatch.setattr(modules, "_function", lambda plan: pytest.fail("the kernel was called"))
    x, mask, cache = unserved(case, fused, stream(2, 40))
    expected = plain(x, mask, KVCache() if cache is not None else None)
    assert mx.allclose(fused(x, mask, cache), expected, atol=1e-5)


def test_other_dtypes_go_to_mlx(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    plain, fused = pair()
    for block in (plain, fused):
        block.set_dtype(mx.float16)
    monkeypatch.setattr(modules, "_function", lambda plan: pytest.fail("the kernel was called"))
    x = stream(2, 40).astype(mx.float16)
    assert mx.array_equal(causal(fused, x), causal(plain, x))


@given(st.integers(1, 5000), st.integers(1, 40))
def test_tiles_are_short_and_as_many_for_every_thread(tokens: int, threads: int):
    length = _tile_length(tokens, threads)
    assert 0 < length <= TILE and length % 16 == 0
    tiles = -(-tokens // length)
    assert -(-tiles // threads) == -(-tokens // (TILE * threads))


def test_what_is_not_finite_passes_without_a_warning(pair: Pair):
    _, fused = pair()
    fused.self_attn.q_proj.weight = fused.self_attn.q_proj.weight * 1e30
    fused.mlp.gate_proj.weight = fused.mlp.gate_proj.weight * 1e38
    value, of = gradients(fused, stream(2, 40), causal)
    assert not mx.isfinite(value).all()
    assert not mx.isfinite(of["mlp.up_proj.weight"]).all()


def test_the_same_run_gives_the_same_bits(pair: Pair):
    _, fused = pair()
    x = stream(4, QUERY_TILE + 40)
    first, second = (gradients(fused, x, causal) for _ in range(2))
    assert mx.array_equal(first[0], second[0])
    assert all(mx.array_equal(value, second[1][name]) for name, value in first[1].items())


def test_nothing_happens_off_the_cpu(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    model = make_model()
    monkeypatch.setattr(modules, "blas_library", lambda: None)
    accelerate(model)
    assert type(model.layers[0]) is not FusedBlock

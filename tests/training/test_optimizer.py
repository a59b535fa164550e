import mlx.optimizers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_map

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig, SftConfig, TrainConfig
from smidgen.cpu_kernels import Group
from smidgen.models.graph import named_arrays
from smidgen.training.optimizer import AdamW, learning_rate_at, parameter_groups


def layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    model.load_weights(
        [
            (n, mx.random.normal(v.shape, key=mx.random.key(i)))
            for i, (n, v) in enumerate(named_arrays(model.parameters()).items())
        ]
    )
    return model


def gradients(model: nn.Module, step: int) -> dict:
    key = mx.random.key(100 + step)
    return tree_map(lambda p: mx.random.normal(p.shape, key=key), model.trainable_parameters())


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_mlx_adamw_with_bias_correction_on_matrices(decay: float):
    config = TrainConfig(weight_decay=decay, betas=(0.9, 0.95), eps=1e-6)
    ours, reference = layers(), layers()
    optimizer = AdamW(ours, config)
    theirs = mlx.optimizers.AdamW(0.01, [0.9, 0.95], 1e-6, weight_decay=decay, bias_correction=True)
    for step in range(1, 6):
        optimizer.update(ours, gradients(ours, step), step, learning_rate=0.01, scale=1.0)
        theirs.update(reference, gradients(reference, step))
    found, wanted = named_arrays(ours.parameters()), named_arrays(reference.parameters())
    for name, value in found.items():
        if value.ndim == 2 or not decay:
            np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert not np.allclose(value, wanted[name], atol=1e-6), f"{name} is decayed"


def adapted(dtype: mx.Dtype = mx.float32) -> nn.Module:
    """A model whose names are those of an adapter, with a norm beside it."""
    model = nn.Module()
    model.lora_a, model.lora_b = mx.ones((6, 2), dtype), mx.ones((2, 5), dtype)
    model.norm = nn.RMSNorm(5)
    return model


def test_groups_decay_matrices_and_hasten_b():
    config = SftConfig(weight_decay=0.1, lora=LoraConfig(plus=16.0))
    model = nn.Module()
    model.layer, model.norm = adapted(), nn.LayerNorm(4)
    assert parameter_groups(model, config) == {
        "layer.lora_a": Group(1.0, 0.1),
        "layer.lora_b": Group(16.0, 0.1),
        "layer.norm.weight": Group(1.0, 0.0),
        "norm.weight": Group(1.0, 0.0),
        "norm.bias": Group(1.0, 0.0),
    }
    assert {group.rate for group in parameter_groups(model, TrainConfig(weight_decay=0.1)).values()} == {1.0}
    model.layer.freeze()
    assert set(parameter_groups(model, config)) == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])  # in one pass on a CPU, and by MLX's operations
def test_b_moves_by_its_own_rate(dtype: mx.Dtype):
    model = nn.Module()
    model.layer = adapted(dtype)
    optimizer = AdamW(model, SftConfig(lora=LoraConfig(plus=4.0)))
    ones = tree_map(mx.ones_like, model.trainable_parameters())
    optimizer.update(model, ones, 1, learning_rate=0.125, scale=1.0)
    # The first step of Adam is the learning rate, whatever the gradient.
    np.testing.assert_allclose(model.layer.lora_a.astype(mx.float32), 1 - 0.125, atol=1e-6)
    np.testing.assert_allclose(model.layer.lora_b.astype(mx.float32), 1 - 0.5, atol=1e-6)


def test_steps_too_small_for_bfloat16_add_up():
    model = nn.Linear(4, 4, bias=False)
    model.weight = mx.ones((4, 4), mx.bfloat16)
    optimizer = AdamW(model, TrainConfig())
    for step in range(1, 101):
        optimizer.update(model, {"weight": mx.ones((4, 4), mx.bfloat16)}, step, learning_rate=1e-3, scale=1.0)
    assert model.weight.dtype == mx.bfloat16
    np.testing.assert_allclose(model.weight.astype(mx.float32), 0.9, atol=0.005)


def test_frozen_parameters_have_no_state():
    model = layers()
    model.layers[0].freeze()
    assert set(AdamW(model, TrainConfig()).state) == {
        f"{moment}.layers.1.{name}" for moment in ("m", "v") for name in ("weight", "bias")
    }


@given(
    st.integers(1, 500),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["constant", "linear", "cosine"]),
)
def test_a_schedule_rises_to_the_peak_and_never_rises_again(steps: int, warmup: float, floor: float, shape):
    config = TrainConfig(learning_rate=0.5, schedule=shape, warmup=warmup, min_learning_rate_ratio=floor)
    rates = [learning_rate_at(step, steps, config) for step in range(1, steps + 1)]
    top = max(1, round(warmup * steps))
    assert rates[top - 1] == pytest.approx(0.5)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top - 1 :] == sorted(rates[top - 1 :], reverse=True)
    assert all(rate > 0 for rate in rates)
    assert rates[-1] >= 0.5 * floor - 1e-9
    if shape == "constant":
        assert rates[-1] == pytest.approx(0.5)


def test_a_warmup_can_be_given_in_steps():
    """As MobileLLM-R1's: 2,000 steps, then linear to a tenth of the peak."""
    config = TrainConfig(
        learning_rate=4e-3, warmup_steps=2000, min_learning_rate_ratio=0.1, schedule="linear"
    )
    rates = [learning_rate_at(step, 500_000, config) for step in (1, 2000, 251_001, 500_000)]
    assert rates == pytest.approx([2e-6, 4e-3, 2.2e-3, 0.4e-3], rel=1e-4)
    assert TrainConfig().warmup_of(1000) == 30


def test_known_points_of_the_schedules():
    config = TrainConfig(learning_rate=1.0, warmup=0.2, min_learning_rate_ratio=0.1, schedule="linear")
    assert [round(learning_rate_at(s, 10, config), 4) for s in (1, 2, 3, 7, 10)] == [0.5, 1, 1, 0.55, 0.2125]
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert learning_rate_at(7, 10, cosine) == pytest.approx(0.55)

"""The cross-entropy by chunks equals the one of whole logits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.backend import mx, nn
from smidgen.cpu_kernels import head, linear_cross_entropy


def case(tokens: int, width: int, words: int, scale: float = 1.0) -> tuple[mx.array, mx.array, mx.array]:
    keys = mx.random.split(mx.random.key(tokens * 7919 + words), 3)
    hidden = scale * mx.random.normal((tokens, width), key=keys[0])
    weight = mx.random.normal((words, width), key=keys[1])
    return hidden, weight, mx.random.randint(0, words, (tokens,), key=keys[2])


def reference(hidden: mx.array, weight: mx.array, targets: mx.array) -> mx.array:
    return nn.losses.cross_entropy(hidden @ weight.T, targets)


def assert_close(ours: mx.array, expected: mx.array) -> None:
    assert ours.shape == expected.shape
    assert mx.abs(ours - expected).max().item() <= 2e-5 * max(mx.abs(expected).max().item(), 1e-3)


@given(
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 90),
    st.integers(1, 300),
    st.sampled_from([0, 1 << 20]),
)
def test_losses_and_gradients_equal_those_of_the_logits(
    tokens: int, width: int, words: int, room: int, kept: int
):
    hidden, weight, targets = case(tokens, width, words)
    shares = mx.linspace(-1, 2, tokens)

    def value_and_gradients(losses):
        return mx.value_and_grad(lambda h, w: (losses(h, w, targets) * shares).sum(), argnums=(0, 1))(
            hidden, weight
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "LOGITS", room)
        patch.setattr(head, "KEPT", kept)
        assert_close(linear_cross_entropy(hidden, weight, targets), reference(hidden, weight, targets))
        value, ours = value_and_gradients(linear_cross_entropy)
    expected_value, expected = value_and_gradients(reference)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-4, abs=1e-4)
    for found, wanted in zip(ours, expected, strict=True):
        assert_close(found, wanted)


def test_large_logits_stay_finite():
    hidden, weight, targets = case(20, 16, 50, scale=1e4)
    losses = linear_cross_entropy(hidden, weight, targets)
    assert mx.isfinite(losses).all()
    assert_close(losses, reference(hidden, weight, targets))


def test_arrays_that_lie_otherwise_in_memory_are_read_right():
    hidden, weight, targets = case(9, 4, 12)
    turned = [mx.contiguous(array.T).T for array in (hidden, weight)]
    ours, expected = (
        mx.grad(lambda h, w, losses=losses: losses(h, w, targets).sum(), argnums=(0, 1))(*turned)
        for losses in (linear_cross_entropy, reference)
    )
    assert_close(linear_cross_entropy(*turned, targets), reference(hidden, weight, targets))
    for found, wanted in zip(ours, expected, strict=True):
        assert_close(found, wanted)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = case(9, 4, 12)

    def loss(hidden: mx.array, weight: mx.array) -> mx.array:
        return linear_cross_entropy(hidden, weight, targets, weight_frozen=True).sum()

    of_hidden, of_weight = mx.grad(loss, argnums=(0, 1))(hidden, weight)
    assert not of_weight.any()
    assert_close(of_hidden, mx.grad(lambda hidden: reference(hidden, weight, targets).sum())(hidden))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_other_dtypes_and_no_tokens_go_to_mlx(dtype: mx.Dtype):
    hidden, weight, targets = case(5, 4, 12)
    losses = linear_cross_entropy(hidden.astype(dtype), weight.astype(dtype), targets)
    assert losses.dtype == mx.float32
    assert mx.allclose(losses, reference(hidden, weight, targets), atol=0.1)
    assert linear_cross_entropy(hidden[:0], weight, targets[:0]).shape == (0,)

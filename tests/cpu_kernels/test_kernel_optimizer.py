"""AdamW in one pass equals AdamW."""

import mlx.optimizers
import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.cpu_kernels import AdamWStep, Group, adamw, global_norm
from smidgen.cpu_kernels.adamw import SPAN

SHAPES = [(3, 5), (SPAN + 7,), (1,), (2, SPAN)]


def arrays(seed: int, low: float = -1.0) -> list[mx.array]:
    keys = mx.random.split(mx.random.key(seed), len(SHAPES))
    return [mx.random.uniform(low, 1.0, shape, key=key) for shape, key in zip(SHAPES, keys, strict=True)]


@pytest.mark.parametrize(("decay", "scale"), [(0.0, 1.0), (0.1, 0.25)])
def test_adamw_equals_that_of_mlx(decay: float, scale: float):
    values = arrays(1)
    firsts, seconds = ([mx.zeros(shape) for shape in SHAPES] for _ in range(2))
    reference = mlx.optimizers.AdamW(
        2e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=decay, bias_correction=True
    )
    expected = {str(index): value for index, value in enumerate(values)}
    for step in (1, 2, 3):
        gradients = arrays(10 + step)
        expected = reference.apply_gradients(
            {str(index): scale * gradient for index, gradient in enumerate(gradients)}, expected
        )
        moved = adamw(
            values, gradients, firsts, seconds, [Group(decay=decay)] * len(values),
            AdamWStep(step, 2e-3, betas=(0.9, 0.95), eps=1e-8, scale=scale),
        )  # fmt: skip
        values, firsts, seconds = (list(part) for part in zip(*moved, strict=True))
    for index, value in enumerate(values):
        assert mx.allclose(value, expected[str(index)], rtol=1e-5, atol=1e-6)
        assert mx.allclose(firsts[index], reference.state[str(index)]["m"], rtol=1e-5, atol=1e-7)
        assert mx.allclose(seconds[index], reference.state[str(index)]["v"], rtol=1e-5, atol=1e-7)


def test_groups_have_their_own_rates_and_decays():
    values, gradients = arrays(1), arrays(2)
    zeros = [mx.zeros(shape) for shape in SHAPES]
    step = AdamWStep(1, 2e-3, (0.9, 0.95), eps=1e-8)
    groups = [Group(), Group(rate=16.0), Group(decay=0.1), Group(rate=16.0, decay=0.1)]
    found = adamw(values, gradients, zeros, zeros, groups, step)
    for index, group in enumerate(groups):
        alone = AdamWStep(1, group.rate * step.learning_rate, step.betas, step.eps)
        (wanted,) = adamw(
            values[index : index + 1], gradients[index : index + 1], zeros[index : index + 1],
            zeros[index : index + 1], [Group(decay=group.decay)], alone,
        )  # fmt: skip
        np.testing.assert_array_equal(found[index].value, wanted.value)


def test_what_is_given_stays_as_it_is():
    values, gradients = arrays(1), arrays(2)
    before = [mx.array(np.array(value)) for value in values]
    zeros = [mx.zeros(shape) for shape in SHAPES]
    adamw(values, gradients, zeros, zeros, [Group()] * 4, AdamWStep(1, 1.0, (0.9, 0.9), eps=1e-8))
    assert all(mx.array_equal(old, value) for old, value in zip(before, values, strict=True))
    assert not any(zero.any() for zero in zeros)


def test_global_norm_is_that_of_all_numbers_together():
    gradients = arrays(4)
    expected = np.linalg.norm(np.concatenate([np.array(g, np.float64).ravel() for g in gradients]))
    assert global_norm(gradients) == pytest.approx(expected, rel=1e-6)
    assert global_norm([mx.array([np.inf, 1.0], mx.float32)]) == np.inf

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.training import losses
from smidgen.training.losses import token_losses


def test_the_gpu_path_is_the_same_function(monkeypatch: pytest.MonkeyPatch):

    rng = np.random.default_rng(0)
    hidden = mx.array(rng.normal(size=(50, 16)), mx.float32)
    weight = mx.array(rng.normal(size=(31, 16)), mx.float32)
    targets = mx.array(rng.integers(0, 31, 50), mx.int32)

    def loss(hidden: mx.array, weight: mx.array) -> mx.array:
        return (token_losses(hidden, weight, targets) * mx.arange(50)).sum()

    here, here_gradients = mx.value_and_grad(loss, argnums=(0, 1))(hidden, weight)
    monkeypatch.setattr(losses, "device", lambda: type("Device", (), {"kind": "metal"}))
    monkeypatch.setattr(losses, "HEAD_CHUNK", 16)
    there, there_gradients = mx.value_and_grad(loss, argnums=(0, 1))(hidden, weight)
    assert here.item() == pytest.approx(there.item(), rel=1e-5)
    for a, b in zip(here_gradients, there_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)

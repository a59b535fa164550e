from collections.abc import Callable

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.models.graph import named_arrays
from smidgen.training import losses
from smidgen.training.batches import Batch, Row, pad
from smidgen.training.losses import hidden_states, negative_log_likelihood, token_losses

Rows = Callable[..., list[Row]]


def reference(model: nn.Module, rows: list[Row]) -> float:
    """The sum over rows one at a time, from whole logits."""
    total = 0.0
    for row in rows:
        logits = np.array(model(mx.array(row.token_ids[None])), np.float64)[0, :-1]
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = logprobs[np.arange(len(logprobs)), row.token_ids[1:]]
        total -= chosen[row.loss_mask[1:]].sum()
    return total


def test_the_sum_is_that_of_whole_logits_row_by_row(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(7)
    loss = negative_log_likelihood(tiny, pad(rows)).item()
    assert loss == pytest.approx(reference(tiny, rows), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(3, longest=30)
    long = Row(np.zeros(300, np.int32), np.zeros(300, bool))  # learns nothing, and stretches its batch
    value_and_grad = nn.value_and_grad(tiny, lambda batch: negative_log_likelihood(tiny, batch))
    loss, gradient = value_and_grad(pad(rows))
    padded_loss, padded_gradient = value_and_grad(pad([*rows, long]))
    assert padded_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in named_arrays(gradient).items():
        np.testing.assert_allclose(named_arrays(padded_gradient)[name], value, atol=2e-4, err_msg=name)


def test_no_padding_token_is_counted(tiny: nn.Module):
    """A row of one learnt token in a padded batch costs exactly that token."""
    row = Row(np.array([5, 6, 7], np.int32), np.array([False, False, True]))
    batch = pad([row])
    assert batch.trained_tokens == 1
    logits = np.array(tiny(mx.array([[5, 6]])))[0, 1]
    wanted = np.log(np.exp(logits).sum()) - logits[7]
    assert negative_log_likelihood(tiny, batch).item() == pytest.approx(wanted, rel=1e-5)


def test_filled_up_positions_have_no_gradient(tiny: nn.Module, make_rows: Rows):
    batch = pad(make_rows(2))
    assert batch.positions is not None
    n = batch.trained_tokens
    bare = Batch(batch.inputs, batch.positions[:n], batch.targets[:n], n, batch.tokens)
    value_and_grad = nn.value_and_grad(tiny, lambda b: negative_log_likelihood(tiny, b))
    (loss, gradient), (bare_loss, bare_gradient) = value_and_grad(batch), value_and_grad(bare)
    assert loss.item() == pytest.approx(bare_loss.item(), rel=1e-6)
    for name, value in named_arrays(bare_gradient).items():
        np.testing.assert_allclose(named_arrays(gradient)[name], value, atol=1e-4, err_msg=name)


def test_dropout_works_in_training_only_and_is_seeded(tiny: nn.Module):
    inputs = mx.array(np.arange(80).reshape(2, 40), mx.int32)
    tiny.eval()
    plain = np.array(hidden_states(tiny, inputs))
    np.testing.assert_array_equal(hidden_states(tiny, inputs, dropout=0.5), plain)
    tiny.train()
    draws = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        draws.append(np.array(hidden_states(tiny, inputs, dropout=0.5)))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    mx.random.seed(1)
    np.testing.assert_allclose(hidden_states(tiny, inputs, dropout=1e-7), plain, atol=1e-4)


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

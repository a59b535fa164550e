from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from mlx.utils import tree_map
from tests.tools.rows import join_rows

from smidgen.backend import mx, nn
from smidgen.config import ArchitectureConfig
from smidgen.cpu_kernels import FusedBlock
from smidgen.errors import ModelError
from smidgen.models.architectures import build_graph
from smidgen.models.graph import huggingface_config, named_arrays
from smidgen.training.batches import TrainBatch, TrainRow, pack, pad
from smidgen.training.hidden import BodyPass
from smidgen.training.losses import trained_token_losses
from smidgen.training.objectives.likelihood import Likelihood

Rows = Callable[..., list[TrainRow]]


def reference(model: nn.Module, rows: list[TrainRow]) -> float:
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
    loss = Likelihood().loss(tiny, pad(rows)).loss.item()
    assert loss == pytest.approx(reference(tiny, rows), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(3, longest=30)
    long = TrainRow(np.zeros(300, np.int32), np.zeros(300, bool))  # learns nothing, and stretches its batch
    value_and_grad = nn.value_and_grad(tiny, lambda batch: Likelihood().loss(tiny, batch).loss)
    loss, gradient = value_and_grad(pad(rows))
    padded_loss, padded_gradient = value_and_grad(pad([*rows, long]))
    assert padded_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in named_arrays(gradient).items():
        np.testing.assert_allclose(named_arrays(padded_gradient)[name], value, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("capacity", [64, 1 << 30])
def test_packing_changes_neither_loss_nor_gradient(tiny: nn.Module, make_rows: Rows, capacity: int):
    rows = make_rows(9)
    value_and_grad = nn.value_and_grad(tiny, lambda batch: Likelihood().loss(tiny, batch).loss)
    loss, gradient = value_and_grad(pad(rows))
    packed_loss, packed_gradient = value_and_grad(pack(rows, capacity))
    assert packed_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in named_arrays(gradient).items():
        scale = mx.abs(value).max().item()
        np.testing.assert_allclose(
            named_arrays(packed_gradient)[name], value, atol=1e-5 * scale, err_msg=name
        )


def test_no_padding_token_is_counted(tiny: nn.Module):
    """A row of one learnt token in a padded batch costs exactly that token."""
    row = TrainRow(np.array([5, 6, 7], np.int32), np.array([False, False, True]))
    batch = pad([row])
    assert batch.trained_tokens == 1
    logits = np.array(tiny(mx.array([[5, 6]])))[0, 1]
    wanted = np.log(np.exp(logits).sum()) - logits[7]
    assert Likelihood().loss(tiny, batch).loss.item() == pytest.approx(wanted, rel=1e-5)


def test_filled_up_positions_have_no_gradient(tiny: nn.Module, make_rows: Rows):
    batch = pad(make_rows(2))
    assert batch.positions is not None
    n = batch.trained_tokens
    bare = TrainBatch(batch.inputs, batch.positions[:n], batch.targets[:n], n, batch.tokens)
    value_and_grad = nn.value_and_grad(tiny, lambda b: Likelihood().loss(tiny, b).loss)
    (loss, gradient), (bare_loss, bare_gradient) = value_and_grad(batch), value_and_grad(bare)
    assert loss.item() == pytest.approx(bare_loss.item(), rel=1e-6)
    for name, value in named_arrays(bare_gradient).items():
        np.testing.assert_allclose(named_arrays(gradient)[name], value, atol=1e-4, err_msg=name)


def test_a_weight_of_one_is_no_weight(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(5)
    ones = [replace(row, weights=np.ones(len(row.token_ids), np.float32)) for row in rows]
    value_and_grad = nn.value_and_grad(tiny, lambda batch: Likelihood().loss(tiny, batch).loss)
    (loss, gradient), (same, same_gradient) = value_and_grad(pad(rows)), value_and_grad(pad(ones))
    assert Likelihood().weight(pad(rows)) == Likelihood().weight(pad(ones))
    assert loss.item() == same.item()
    for name, value in named_arrays(gradient).items():
        np.testing.assert_array_equal(named_arrays(same_gradient)[name], value, err_msg=name)


@pytest.mark.parametrize("learnt_from", [1, 9])  # every token, where nothing is picked; and some
def test_each_token_counts_by_its_weight(tiny: nn.Module, learnt_from: int):
    rng = np.random.default_rng(0)
    rows = [
        TrainRow(
            rng.integers(0, 97, 33).astype(np.int32),
            np.arange(33) >= learnt_from,
            rng.uniform(0, 2, 33).astype(np.float32),
        )
        for _ in range(3)
    ]
    wanted = total = 0.0
    for row in rows:
        for place in range(learnt_from, 33):
            alone = TrainRow(row.token_ids, np.arange(33) == place)
            wanted += row.weights[place] * reference(tiny, [alone])
            total += row.weights[place]
    assert Likelihood().loss(tiny, pad(rows)).loss.item() == pytest.approx(wanted, rel=1e-4)
    assert Likelihood().weight(pad(rows)) == pytest.approx(total, rel=1e-5)


def test_rows_without_weights_weigh_one_beside_rows_with_them(tiny: nn.Module, make_rows: Rows):
    plain, other = make_rows(2)
    doubled = replace(other, weights=np.full(len(other.token_ids), 2, np.float32))
    batch = pad([plain, doubled])
    assert Likelihood().weight(batch) == plain.trained_tokens + 2 * other.trained_tokens
    wanted = reference(tiny, [plain]) + 2 * reference(tiny, [other])
    assert Likelihood().loss(tiny, batch).loss.item() == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def sharp(tiny: nn.Module) -> nn.Module:
    """The tiny model with weights so large that what a token attends to matters."""
    tiny.update(tree_map(lambda array: array * 8 if array.ndim == 2 else array, tiny.parameters()))
    return tiny


@pytest.mark.parametrize("path", ["kernels", "unfused block", "mlx"])
@pytest.mark.parametrize("dropout", [0.0, 1e-7])
def test_packed_rows_are_as_their_texts_alone(
    sharp: nn.Module, make_rows: Rows, monkeypatch: pytest.MonkeyPatch, path: str, dropout: float
):
    """Neither losses nor gradients notice that texts share a row."""
    texts = make_rows(7, shortest=9)
    packed = pad([join_rows(texts[:4]), join_rows(texts[4:6]), texts[6]])
    assert packed.trained_tokens == sum(row.trained_tokens for row in texts)
    if path != "kernels":
        monkeypatch.setattr(FusedBlock, "_kernel_inputs", lambda *_: ({}, ()))
    if path == "mlx":
        monkeypatch.setattr("smidgen.cpu_kernels.FusedBlock", type("NoBlock", (), {}))
    objective = Likelihood(BodyPass(dropout))
    value_and_grad = nn.value_and_grad(sharp, lambda batch: objective.loss(sharp, batch).loss)
    sharp.train()
    (loss, gradient), (alone, alone_gradient) = value_and_grad(packed), value_and_grad(pad(texts))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, value in named_arrays(alone_gradient).items():
        np.testing.assert_allclose(named_arrays(gradient)[name], value, atol=1e-4, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(
        np.sort(trained_token_losses(sharp, packed)),
        np.sort(trained_token_losses(sharp, pad(texts))),
        atol=1e-5,
    )


@pytest.mark.parametrize("recompute", [True, False])
def test_packed_rows_of_a_mobilellm_are_as_their_texts_alone(make_rows: Rows, recompute: bool):
    """Its chunks and the temperatures of its layers without RoPE count from the beginning of each text."""
    config = huggingface_config(
        ArchitectureConfig(
            model_type="llama4_text", hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, intermediate_size=64, vocab_size=97, no_rope_layer_interval=3,
        )
    )  # fmt: skip
    model = build_graph(config | {"attention_chunk_size": 16, "floor_scale": 8, "attn_scale": 0.7}, "test")
    model.update(tree_map(lambda array: array * 4 if array.ndim == 2 else array, model.parameters()))
    texts = make_rows(7, shortest=9)
    objective = Likelihood(BodyPass(recompute=recompute))
    value_and_grad = nn.value_and_grad(model, lambda batch: objective.loss(model, batch).loss)
    model.train()
    packed = pad([join_rows(texts[:4]), join_rows(texts[4:6]), texts[6]])
    (loss, gradient), (alone, alone_gradient) = value_and_grad(packed), value_and_grad(pad(texts))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, value in named_arrays(alone_gradient).items():
        np.testing.assert_allclose(named_arrays(gradient)[name], value, atol=1e-3, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(
        np.sort(trained_token_losses(model, packed)),
        np.sort(trained_token_losses(model, pad(texts))),
        atol=1e-5,
    )


def test_the_loss_of_each_source_has_its_own_divisor(tiny: nn.Module, make_rows: Rows):
    rows = [replace(row, source=name) for row, name in zip(make_rows(5), "aabb", strict=False)]
    rest = make_rows(1, seed=9)[0]
    losses = Likelihood().loss(tiny, pad([*rows, rest]))
    for name in "ab":
        own = [row for row in rows if row.source == name]
        total, weight = losses.metrics[f"loss/{name}"]
        assert total.item() / weight == pytest.approx(reference(tiny, own) / weight, rel=1e-5)
        assert weight == sum(row.trained_tokens for row in own)
        heavier = [replace(row, weights=np.full(row.token_ids.shape, 3, np.float32)) for row in own]
        again = Likelihood().loss(tiny, pad(heavier)).metrics[f"loss/{name}"]
        assert again.total.item() / again.weight == pytest.approx(total.item() / weight, rel=1e-5)
    assert pack(rows, 512).sources == ("a", "b")
    packed = Likelihood().loss(tiny, pack(rows, 512)).metrics["loss/a"]
    assert packed.total.item() == pytest.approx(losses.metrics["loss/a"].total.item(), rel=1e-5)


def test_texts_in_one_row_see_each_other_without_segments(sharp: nn.Module, make_rows: Rows):
    joined = join_rows(make_rows(3))
    blurred = replace(joined, segment_ids=None)
    losses = [Likelihood().loss(sharp, pad([row])).loss.item() for row in (joined, blurred)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("path", ["kernels", "mlx"])
def test_positions_that_are_given_are_used(
    sharp: nn.Module, make_rows: Rows, monkeypatch: pytest.MonkeyPatch, path: str
):
    if path == "mlx":
        monkeypatch.setattr(FusedBlock, "_kernel_inputs", lambda *_: ({}, ()))
    batch = pad(make_rows(3, shortest=20))
    places = np.broadcast_to(np.arange(batch.inputs.shape[1], dtype=np.int32), batch.inputs.shape)
    plain, same, shifted, stretched = (
        Likelihood().loss(sharp, replace(batch, position_ids=given)).loss.item()
        for given in (None, places, places + 5, places * 3)
    )
    assert same == pytest.approx(plain, rel=1e-6)
    assert shifted == pytest.approx(plain, rel=1e-4)  # only distances count
    assert stretched != pytest.approx(plain, rel=1e-6)


def test_an_architecture_that_cannot_keep_texts_apart_is_refused(sharp: nn.Module, make_rows: Rows):
    sharp.model_type = "gemma"
    with pytest.raises(ModelError, match=r"gemma cannot be trained on packed rows; .* qwen3"):
        Likelihood().loss(sharp, pad([join_rows(make_rows(2))]))

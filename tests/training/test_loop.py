import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_map

from smidgen.backend import mx, nn
from smidgen.config import ArchitectureConfig, LoraConfig, SftConfig
from smidgen.errors import ConfigError, WorkError
from smidgen.files import read_jsonl
from smidgen.models.graph import create, named_arrays
from smidgen.models.lora import add_lora
from smidgen.models.quantization import quantize
from smidgen.training.batches import RowBatches, TrainBatch, TrainRow, fixed_batches, pad
from smidgen.training.hidden import BodyPass
from smidgen.training.loop import Output, global_norm, optimizer_step, train, validate
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.optimizer import AdamW

Rows = Callable[..., list[TrainRow]]
CONFIG = SftConfig(batch_size=4, learning_rate=3e-3, weight_decay=0.1, checkpoint_every=0, seed=3)
LIKELIHOOD = Likelihood()
PINNED = Path(__file__).with_name("trajectory.json")


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in named_arrays(model.parameters()).items()}


def test_twenty_steps_are_as_they_were(tiny: nn.Module, make_rows: Rows):
    """Losses of a fixed run; a change here is a change of what training does, and has to be meant."""
    batches = RowBatches(make_rows(40), batch_size=4, epochs=2, seed=3)
    validation = fixed_batches(make_rows(8, seed=1), batch_size=4)
    config = CONFIG.model_copy(update={"validate_every": 10})
    results = list(train(tiny, LIKELIHOOD, batches, config, validation=validation))
    found = {
        "loss": [result.loss for result in results],
        "grad_norm": [result.grad_norm for result in results],
        "validation_loss": [r.validation_loss for r in results if r.validation_loss is not None],
    }
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    assert set(found) == set(pinned)
    for name, values in pinned.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)


def test_training_learns_and_reports(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(16)
    config = SftConfig(batch_size=8, learning_rate=3e-2)
    results = list(train(tiny, LIKELIHOOD, RowBatches(rows, batch_size=8, epochs=8), config))
    assert results[-1].loss < 0.8 * results[0].loss
    assert [result.step for result in results] == list(range(1, 17))
    assert results[-1].epoch == 8
    assert sum(result.trained_tokens for result in results) == 8 * sum(row.trained_tokens for row in rows)
    assert sum(result.tokens for result in results) == 8 * sum(len(row.token_ids) - 1 for row in rows)


def test_eight_times_one_is_one_times_eight(make_rows: Rows):
    runs = []
    for size, accumulation in ((8, 1), (1, 8), (3, 3)):
        model = create_tiny()
        config = SftConfig(batch_size=size, gradient_accumulation=accumulation, learning_rate=1e-3)
        batches = RowBatches(
            make_rows(32), batch_size=size, gradient_accumulation=accumulation, epochs=1 if size != 3 else 0.5
        )
        results = list(train(model, LIKELIHOOD, batches, config))
        runs.append(([(r.loss, r.grad_norm, r.trained_tokens) for r in results], weights(model)))
    (big, big_weights), (small, small_weights), _ = runs
    np.testing.assert_allclose(small, big, rtol=1e-4)
    for name, value in big_weights.items():
        np.testing.assert_allclose(small_weights[name], value, atol=2e-4, err_msg=name)


def create_tiny() -> nn.Module:
    return create(
        ArchitectureConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=64, vocab_size=97,
        ),
        seed=0,
    )[0]  # fmt: skip


def test_the_gradient_is_clipped_after_it_is_reported(tiny: nn.Module, make_rows: Rows):
    batch = pad(make_rows(4))
    gradient = nn.value_and_grad(tiny, lambda b: LIKELIHOOD.loss(tiny, b).loss / b.trained_tokens)(batch)[1]
    before = weights(tiny)
    optimizer = AdamW(tiny, CONFIG)
    clipped = SftConfig(gradient_clip=1e-3)
    _, norm, _ = optimizer_step(tiny, LIKELIHOOD, optimizer, [batch], clipped, step=1, learning_rate=0.0)
    assert norm == pytest.approx(global_norm(gradient), rel=1e-4)
    moments = [value for name, value in optimizer.state.items() if name.startswith("m.")]
    assert global_norm(dict(enumerate(moments))) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    for name, value in weights(tiny).items():
        np.testing.assert_array_equal(value, before[name])


def test_the_validation_loss_is_weighted_by_tokens(tiny: nn.Module, make_rows: Rows):
    rows = make_rows(9)
    losses = [LIKELIHOOD.loss(tiny, pad([row])).loss.item() for row in rows]
    wanted = sum(losses) / sum(row.trained_tokens for row in rows)
    for size in (1, 4, 9):
        assert validate(tiny, LIKELIHOOD, fixed_batches(rows, size))[0] == pytest.approx(wanted, rel=1e-5)


def test_dropout_does_not_reach_the_validation(tiny: nn.Module, make_rows: Rows):
    batches = fixed_batches(make_rows(4), 4)
    plain = validate(tiny, LIKELIHOOD, batches)[0]
    config = SftConfig(batch_size=4, learning_rate=1e-12)
    (result,) = train(
        tiny,
        Likelihood(BodyPass(dropout=0.5)),
        RowBatches(make_rows(4), batch_size=4),
        config,
        validation=batches,
    )
    assert result.validation_loss == pytest.approx(plain, rel=1e-6)
    assert result.loss != pytest.approx(plain, rel=1e-5)


def overfitting(make_rows: Rows, tmp_path: Path, patience: int) -> tuple[list, list[float]]:
    """A run whose validation gets worse; its results and the validation loss of each `best` that was kept."""
    model = create_tiny()
    validation = fixed_batches(make_rows(8, seed=99), 8)
    kept = []
    config = SftConfig(learning_rate=3e-2, validate_every=1, patience=patience, warmup=0)
    batches = RowBatches(make_rows(8), batch_size=8, epochs=16)
    results = list(
        train(
            model,
            LIKELIHOOD,
            batches,
            config,
            output=Output(tmp_path, lambda path: kept.append(validate(model, LIKELIHOOD, validation)[0])),
            validation=validation,
        )
    )
    return results, kept


def test_the_best_is_kept_and_patience_stops(make_rows: Rows, tmp_path: Path):
    results, kept = overfitting(make_rows, tmp_path / "patient", patience=0)
    validations = [r.validation_loss for r in results if r.validation_loss is not None]
    assert len(results) == len(validations) == 16
    assert kept[-1] == pytest.approx(min(validations), rel=1e-6)
    assert kept == sorted(kept, reverse=True)
    stopped, kept_too = overfitting(make_rows, tmp_path / "impatient", patience=3)
    best = int(np.argmin(validations))
    assert len(stopped) == best + 1 + 3 < 16
    assert kept_too == kept


def test_without_validation_the_end_is_the_best(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    kept = []
    batches = RowBatches(make_rows(8), batch_size=4)
    list(train(tiny, LIKELIHOOD, batches, SftConfig(batch_size=4), output=Output(tmp_path, kept.append)))
    assert kept == [tmp_path / "best"]


def test_metrics_are_one_line_a_step(tiny: nn.Module, make_rows: Rows, tmp_path: Path):
    results = list(
        train(tiny, LIKELIHOOD, RowBatches(make_rows(12), batch_size=4), SftConfig(), output=Output(tmp_path))
    )
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["loss"] for row in rows] == [result.loss for result in results]
    assert set(rows[0]) == {
        "step", "epoch", "loss", "trained_tokens", "tokens", "learning_rate", "grad_norm", "seconds",
        "validation_loss",
    }  # fmt: skip


def test_only_the_update_moves(tiny: nn.Module, make_rows: Rows):
    lora = LoraConfig(rank=4, dropout=0.1)
    add_lora(tiny, lora, seed=0)
    before = weights(tiny)
    config = SftConfig(batch_size=4, lora=lora, learning_rate=1e-2)
    results = list(train(tiny, LIKELIHOOD, RowBatches(make_rows(8), batch_size=4, epochs=5), config))
    assert results[-1].loss < results[0].loss
    for name, value in weights(tiny).items():
        assert np.array_equal(value, before[name]) == ("lora" not in name), name


def test_a_quantised_base_learns_through_an_update(make_rows: Rows):
    shape = ArchitectureConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=64, vocab_size=97,
    )  # fmt: skip
    model, config = create(shape, seed=0)
    quantize(model, config, bits=8, group_size=32)
    add_lora(model, LoraConfig(rank=4), seed=0)
    settings = SftConfig(batch_size=4, lora=LoraConfig(rank=4), learning_rate=1e-2)
    results = list(train(model, LIKELIHOOD, RowBatches(make_rows(8), batch_size=4, epochs=5), settings))
    assert results[-1].loss < results[0].loss


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tiny: nn.Module, make_rows: Rows):
    tiny.model.norm.weight = mx.full((32,), float("nan"))
    before = weights(tiny)
    steps = train(tiny, LIKELIHOOD, RowBatches(make_rows(4), batch_size=4), SftConfig())
    with pytest.raises(
        WorkError,
        match=r"step 1: the loss is nan .* finite numbers; all 4 rows .*; lower train.learning_rate, now 0.0",
    ):
        next(steps)
    for name, value in weights(tiny).items():
        np.testing.assert_array_equal(value, before[name])


def test_models_that_cannot_learn_are_refused(tiny: nn.Module, make_rows: Rows):
    batches = RowBatches(make_rows(4), batch_size=4)
    tiny.freeze()
    with pytest.raises(ConfigError, match=r"the model has no trainable weights; add \[train.lora\]"):
        next(train(tiny, LIKELIHOOD, batches, SftConfig()))


def test_the_norm_is_over_all_arrays():
    tree = {"a": mx.array([3.0]), "b": [{"c": mx.array([[4.0]])}]}
    assert global_norm(tree) == pytest.approx(5.0)
    assert global_norm(tree_map(lambda g: g.astype(mx.bfloat16), tree)) == pytest.approx(5.0)


def test_batches_of_different_padding_make_one_step(tiny: nn.Module, make_rows: Rows):
    """What a step does is decided by its rows, not by how they are cut into batches."""
    rows = make_rows(6)
    cuts: list[list[TrainBatch]] = [[pad(rows)], [pad(rows[:1]), pad(rows[1:])]]
    seen = [
        optimizer_step(
            create_tiny(), LIKELIHOOD, AdamW(tiny, CONFIG), cut, SftConfig(), step=1, learning_rate=1e-3
        )
        for cut in cuts
    ]
    np.testing.assert_allclose(seen[0][:2], seen[1][:2], rtol=1e-4)

"""DPO's identities, and that batches, stored references and resumed runs change nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import DpoConfig, LoraConfig
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora, without_adapter
from smidgen.training.batches import ShuffledBatches, TrainRow, collated, sorted_batches
from smidgen.training.hidden import BodyPass, frozen_trunk
from smidgen.training.loop import Output, train, validate
from smidgen.training.objectives.preference import (
    DirectPreference,
    PairBatch,
    PreferencePair,
    Reference,
    answer_logprobs,
    pair_batch,
)

Rows = Callable[..., list[TrainRow]]
Make = Callable[[], nn.Module]
LORA = LoraConfig(rank=4, num_layers=1)
CONFIG = DpoConfig(
    method="dpo", lora=LORA, learning_rate=0.1, epochs=4, batch_size=4, validate_every=4, checkpoint_every=3
)


@pytest.fixture
def pairs(make_rows: Rows) -> list[PreferencePair]:
    """Pairs with one prompt each."""
    found = []
    for chosen, rejected in zip(make_rows(14, seed=1), make_rows(14, seed=2), strict=True):
        prompt = chosen.token_ids[: len(chosen) // 2]
        answer = rejected.token_ids[len(rejected) // 2 :]
        ids = np.concatenate([prompt, answer])
        found.append(PreferencePair(chosen, TrainRow(ids, np.arange(len(ids)) >= len(prompt))))
    return found


def collate(pairs: list[PreferencePair], capacity: int | None = None) -> PairBatch:
    return pair_batch(pairs, collated(capacity))


def policy(make: Make, moved: bool = True) -> nn.Module:
    """A model with an adapter, which does something if `moved`."""
    model = make()
    add_lora(model, LORA, 0)
    if moved:
        for number, (name, value) in enumerate(named_arrays(model.trainable_parameters()).items()):
            noise = 0.3 * mx.random.normal(value.shape, key=mx.random.key(number))
            model.load_weights([(name, noise)], strict=False)
    return model


def objective(model: nn.Module, **settings: object) -> DirectPreference:
    return DirectPreference(Reference(without_adapter(model)), **settings)


def swapped(pairs: list[PreferencePair]) -> list[PreferencePair]:
    return [PreferencePair(pair.rejected, pair.chosen) for pair in pairs]


def run(
    make: Make, pairs: list[PreferencePair], run_dir: Path | None, stop: int = 100, folder: Path | None = None
) -> tuple[list, nn.Module]:
    model = policy(make, moved=False)
    how = BodyPass(trunk=frozen_trunk(model))
    reference = Reference(without_adapter(model), how)
    if folder is not None:
        reference.pending(pairs).open(folder)
    batches = ShuffledBatches(pairs[:10], partial(collate, capacity=1 << 30), batch_size=4, epochs=4)
    validation = sorted_batches(pairs[10:], collate, 4)
    found = []
    for result in train(
        model,
        DirectPreference(reference, how=how),
        batches,
        CONFIG,
        output=run_dir and Output(run_dir),
        validation=validation,
    ):
        found.append((result.step, result.loss, result.validation_loss, dict(result.metrics)))
        if result.step == stop:
            break
    return found, model


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equal_policies_give_ln_2(make_tiny: Make, pairs: list, smoothing: float):
    model = policy(make_tiny, moved=False)
    loss, metrics = validate(model, objective(model, label_smoothing=smoothing), [collate(pairs)])
    assert loss == pytest.approx(np.log(2), abs=1e-6)
    assert metrics == pytest.approx(
        {"chosen_reward": 0, "rejected_reward": 0, "margin": 0, "preferred": 0}, abs=1e-6
    )


def test_swapping_the_pairs_negates_the_margin(make_tiny: Make, pairs: list):
    model = policy(make_tiny)
    (loss, metrics), (other_loss, other) = (
        validate(model, objective(model, beta=0.5), [collate(part)]) for part in (pairs, swapped(pairs))
    )
    assert abs(metrics["margin"]) > 0.01
    assert other["margin"] == pytest.approx(-metrics["margin"], rel=1e-4)
    assert other["chosen_reward"] == pytest.approx(metrics["rejected_reward"], rel=1e-4)
    assert other["preferred"] == pytest.approx(1 - metrics["preferred"])
    # -ln σ(m) + ln σ(-m) = -m for each pair
    assert other_loss - loss == pytest.approx(metrics["margin"], rel=1e-4)


def test_half_smoothed_labels_are_the_mean_of_both_orders(make_tiny: Make, pairs: list):
    model = policy(make_tiny)
    plain, turned = (validate(model, objective(model), [collate(p)])[0] for p in (pairs, swapped(pairs)))
    smooth, _ = validate(model, objective(model, label_smoothing=0.3), [collate(pairs)])
    assert smooth == pytest.approx(0.7 * plain + 0.3 * turned, rel=1e-5)


def test_ipo_is_the_square_of_what_lacks(make_tiny: Make, pairs: list):
    model = policy(make_tiny)
    batch = collate(pairs)
    found, _ = validate(model, objective(model, kind="ipo", beta=0.25), [batch])
    ratios = answer_logprobs(model, batch.answers) - answer_logprobs(without_adapter(model), batch.answers)
    means = np.array(ratios) / [row.trained_tokens for row in batch.answers.rows]
    lacking = means[batch.chosen] - means[batch.rejected] - 2
    assert found == pytest.approx(np.mean(lacking**2), rel=1e-5)
    equal = policy(make_tiny, moved=False)
    assert validate(equal, objective(equal, kind="ipo", beta=0.25), [batch])[0] == pytest.approx(4, rel=1e-4)


def test_log_probabilities_are_those_of_each_answer_alone(make_tiny: Make, pairs: list):
    model = policy(make_tiny)
    packed = collate(pairs, 60)
    together = np.array(answer_logprobs(model, packed.answers))
    for number, pair in enumerate(pairs):
        for places, row in ((packed.chosen, pair.chosen), (packed.rejected, pair.rejected)):
            (alone,) = answer_logprobs(model, collated(None)([row]))
            assert together[places[number]] == pytest.approx(float(alone), rel=1e-4)


def test_batches_may_be_cut_and_packed(make_tiny: Make, pairs: list):
    model = policy(make_tiny)
    whole, metrics = validate(model, objective(model), [collate(pairs)])
    for batches in (
        [collate(pairs[:5]), collate(pairs[5:])],
        [collate(pairs, 1 << 30)],
        [collate(pairs, 60)],
    ):
        found, parts = validate(model, objective(model), batches)
        assert found == pytest.approx(whole, rel=1e-4) and parts == pytest.approx(metrics, rel=1e-3)


def test_it_learns_what_is_preferred(make_tiny: Make, pairs: list):
    found, model = run(make_tiny, pairs, None)
    assert found[0][1] == pytest.approx(np.log(2), abs=1e-5)
    loss, metrics = validate(model, objective(model), [collate(pairs[:10])])
    assert loss < found[0][1] - 0.03 and metrics["preferred"] >= 0.8 and metrics["margin"] > 0.1


@pytest.mark.slow
def test_resumed_it_is_as_uninterrupted_and_references_are_computed_once(
    make_tiny: Make, pairs: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, _ = run(make_tiny, pairs, None)
    whole, model = run(make_tiny, pairs, tmp_path / "whole", folder=tmp_path / "reference")
    for (_, loss, *_), (_, wanted, *_) in zip(whole, asked, strict=True):
        assert loss == pytest.approx(wanted, rel=1e-4)
    run(make_tiny, pairs, tmp_path / "cut", stop=8, folder=tmp_path / "again")
    resumed, other = run(make_tiny, pairs, tmp_path / "cut", folder=tmp_path / "again")
    assert resumed == whole[6:]
    for name, value in named_arrays(model.parameters()).items():
        np.testing.assert_array_equal(named_arrays(other.parameters())[name], value, err_msg=name)

    fresh = Reference(without_adapter(make_tiny()))
    fresh.pending(pairs).open(tmp_path / "reference")
    module = "smidgen.training.objectives.preference.answer_logprobs"
    monkeypatch.setattr(module, lambda *arguments: pytest.fail("the base is asked again"))
    fresh.logprobs(collate(pairs).answers)

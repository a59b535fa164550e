"""Objectives of a user's own go through the public loop like those of the project."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import ArchitectureConfig, SftConfig
from smidgen.files import read_jsonl
from smidgen.models.graph import create, named_arrays
from smidgen.training.batches import TrainBatch, TrainRow, pad
from smidgen.training.loop import Output, train, validate
from smidgen.training.losses import trained_token_losses
from smidgen.training.objectives import Losses

Rows = Callable[..., list[TrainRow]]
CONFIG = SftConfig(learning_rate=3e-3, checkpoint_every=3, validate_every=4, seed=1)
BETA = 0.5
SHAPE = ArchitectureConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=64, vocab_size=97,
)  # fmt: skip


@dataclass(frozen=True)
class PairBatch:
    """Answers that are preferred to others, row by row."""

    chosen: TrainBatch
    rejected: TrainBatch
    pairs: int

    @property
    def trained_tokens(self) -> int:
        return self.chosen.trained_tokens + self.rejected.trained_tokens

    @property
    def tokens(self) -> int:
        return self.chosen.tokens + self.rejected.tokens


@dataclass(frozen=True)
class Preference:
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290), normalised by pairs."""

    reference: nn.Module

    def weight(self, batch: PairBatch) -> float:
        return batch.pairs

    def loss(self, model: nn.Module, batch: PairBatch) -> Losses:
        gains = [self._gains(model, side, batch.pairs) for side in (batch.chosen, batch.rejected)]
        margin = BETA * (gains[0] - gains[1])
        return Losses(-nn.log_sigmoid(margin).sum(), {"accuracy": mx.stop_gradient(margin > 0).sum()})

    def _gains(self, model: nn.Module, batch: TrainBatch, pairs: int) -> mx.array:
        """Log-probability of each answer beyond the reference's, (pairs,)."""
        assert batch.positions is not None
        rows = mx.array(batch.positions[: batch.trained_tokens] // batch.inputs.shape[1])
        per_token = mx.stop_gradient(trained_token_losses(self.reference, batch))
        return mx.zeros(pairs).at[rows].add(per_token - trained_token_losses(model, batch))


class PairBatches:
    """A few pairs again and again."""

    def __init__(self, pairs: list[tuple[TrainRow, TrainRow]], size: int, num_steps: int) -> None:
        self._pairs, self._size, self._step, self.num_steps = pairs, size, 0, num_steps

    def next_step(self) -> list[PairBatch]:
        self._step += 1
        first = self._step % 2
        return cut(self._pairs[first::2], self._size)

    def epoch(self) -> float:
        return self._step / 2

    def state(self) -> dict[str, Any]:
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        self._step = state["step"]


def cut(pairs: list[tuple[TrainRow, TrainRow]], size: int) -> list[PairBatch]:
    parts = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [PairBatch(pad([a for a, _ in part]), pad([b for _, b in part]), len(part)) for part in parts]


@pytest.fixture
def pairs(make_rows: Rows) -> list[tuple[TrainRow, TrainRow]]:
    return list(zip(make_rows(12, seed=1), make_rows(12, seed=2), strict=True))


def run(pairs: list, run_dir: Path | None = None, size: int = 6, steps: int = 10) -> tuple[list, nn.Module]:
    model = create(SHAPE, seed=0)[0]
    objective, batches = Preference(create(SHAPE, seed=0)[0]), PairBatches(pairs, size, num_steps=10)
    results = []
    for result in train(
        model, objective, batches, CONFIG, output=run_dir and Output(run_dir), validation=cut(pairs[:5], 3)
    ):
        results.append(result)
        if result.step == steps:
            break
    return results, model


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in named_arrays(model.parameters()).items()}


def test_an_objective_on_pairs_learns_and_reports_its_metrics(pairs: list, tmp_path: Path):
    results, model = run(pairs, tmp_path)
    assert results[0].loss == pytest.approx(np.log(2), rel=1e-5)
    assert results[-1].loss < 0.5 * results[0].loss
    assert (results[0].metrics, results[-1].metrics["accuracy"]) == ({"accuracy": 0.0}, 1.0)
    measured, metrics = validate(model, Preference(create(SHAPE, seed=0)[0]), cut(pairs[:5], 5))
    assert results[-1].validation_loss == pytest.approx(measured, rel=1e-5)
    assert results[-1].metrics["validation_accuracy"] == metrics["accuracy"] == 1.0
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["metrics"] for row in rows] == [dict(result.metrics) for result in results]


@pytest.mark.slow
def test_its_steps_do_not_depend_on_how_they_are_cut(pairs: list):
    (whole, _), (parts, _) = run(pairs), run(pairs, size=2)
    for name in ("loss", "grad_norm", "validation_loss"):
        found, wanted = ([getattr(result, name) for result in side] for side in (parts, whole))
        np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=2e-3, err_msg=name)
    for found, wanted in zip(parts, whole, strict=True):
        assert found.metrics == pytest.approx(wanted.metrics)


@pytest.mark.slow
def test_resumed_it_is_as_uninterrupted(pairs: list, tmp_path: Path):
    whole, model = run(pairs, tmp_path / "whole")
    run(pairs, tmp_path / "cut", steps=7)
    resumed, again = run(pairs, tmp_path / "cut")
    assert [result.step for result in resumed] == [7, 8, 9, 10]
    assert [(r.loss, r.metrics) for r in resumed] == [(r.loss, r.metrics) for r in whole[6:]]
    for name, value in weights(model).items():
        np.testing.assert_array_equal(weights(again)[name], value, err_msg=name)

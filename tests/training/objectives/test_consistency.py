"""One packed pass gives the losses of separate passes over each block of guesses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.training.test_jacobi import CONTEXTS, row_of

from smidgen.backend import mx, nn
from smidgen.config import JacobiConfig, LoraConfig
from smidgen.data.trajectories import mismatch
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora
from smidgen.training import losses
from smidgen.training.batches import pad
from smidgen.training.hidden import BodyPass, frozen_trunk
from smidgen.training.jacobi import BlockRow, Noise, TrajectoryBatches, block_batch
from smidgen.training.loop import Output, train, validate
from smidgen.training.objectives.consistency import Consistency
from smidgen.training.objectives.likelihood import Likelihood

CONFIG = JacobiConfig(
    method="jacobi", epochs=3, learning_rate=3e-3, validate_every=4, checkpoint_every=3, noise_window=4
)
ROWS = [row_of(i, (4, 4, 4, 3)[: 1 + i % 4], prompt=2 + i) for i in range(8)]


def separate(model: nn.Module, row: BlockRow, noise: Noise, objective: Consistency) -> mx.array:
    """The sum of the losses of a row in a pass over the answer and one over each block of guesses."""
    phase = noise.phase(row, 0)
    guesses, answer = row.guesses(noise, phase), row.answer
    logits = model(mx.array(np.concatenate([row.prompt, answer])[None]))[0][len(row.prompt) - 1 :]
    total = objective.ar_weight * nn.losses.cross_entropy(logits[:-1], mx.array(answer)).sum()
    begin, T = 0, objective.temperature
    for j, (guess, states) in enumerate(zip(guesses, row.blocks, strict=True)):
        first = {"clean": j, "noisy": 0, "window": max(0, j - (phase + j) % noise.window)}[noise.context]
        before = [*(s[-1] for s in row.blocks[:first]), *guesses[first:j]]
        text = np.concatenate([row.prompt, *before, guess])
        theirs = model(mx.array(text[None]))[0][len(text) - len(guess) :] / T
        ours = mx.stop_gradient(logits[begin + 1 :][: len(guess)]) / T
        for offset in range(mismatch(guess, states[-1]), len(guess)):
            if begin + offset + 1 < len(answer):
                p, q = (x[offset] - mx.logsumexp(x[offset]) for x in (ours, theirs))
                total = total + T**2 * (mx.exp(p) * (p - q)).sum()
        begin += len(guess)
    return total


@pytest.mark.parametrize("context", CONTEXTS)
def test_several_states_of_a_block_count_as_their_mean(tiny: nn.Module, context):
    noise, objective = Noise(4, context), Consistency(ar_weight=0.0)
    together = [replace(row, num_guesses=2) for row in ROWS]
    found = objective.loss(tiny, block_batch(together, noise, 0)).loss

    class Shifted(Noise):
        def phase(self, row: BlockRow, epoch: int) -> int:
            return super().phase(row, epoch) + 2

    apart = [objective.loss(tiny, block_batch(ROWS, one, 0)).loss for one in (noise, Shifted(4, context))]
    assert apart[0].item() != pytest.approx(apart[1].item(), rel=1e-3)
    assert found.item() == pytest.approx((apart[0] + apart[1]).item() / 2, rel=1e-4)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("lora", [False, True])
def test_one_pass_is_as_separate_ones(tiny: nn.Module, context, lora, monkeypatch: pytest.MonkeyPatch):
    if lora:
        add_lora(tiny, LoraConfig(rank=2, num_layers=1), seed=0)
    noise, objective = Noise(3, context), Consistency(ar_weight=0.5, temperature=1.7)
    objective = replace(objective, how=BodyPass(trunk=frozen_trunk(tiny)))
    batch = block_batch(ROWS, noise, 0)
    assert 0 < batch.num_right < batch.trained_tokens
    tiny.train()
    ours, gradients = nn.value_and_grad(tiny, lambda: objective.loss(tiny, batch).loss)()
    wanted, expected = nn.value_and_grad(
        tiny, lambda: mx.stack([separate(tiny, row, noise, objective) for row in ROWS]).sum()
    )()
    assert float(ours) == pytest.approx(float(wanted), rel=1e-5)
    expected = named_arrays(expected)
    for name, gradient in named_arrays(gradients).items():
        scale = float(mx.abs(expected[name]).max())
        assert np.array(gradient) == pytest.approx(np.array(expected[name]), abs=2e-4 * scale + 1e-7), name
    # where the kernels of a CPU do not run
    monkeypatch.setattr(losses.cpu_kernels, "usable", lambda *arrays: False)
    monkeypatch.setattr("smidgen.cpu_kernels.modules.usable", lambda *arrays: False)
    assert float(objective.loss(tiny, batch).loss) == pytest.approx(float(wanted), rel=1e-5)


def test_on_fixed_points_it_is_the_loss_of_the_answer(tiny: nn.Module):
    rows = [replace(row, blocks=tuple(states[-1:] for states in row.blocks)) for row in ROWS]
    batch = block_batch(rows, Noise(4, "noisy"), 0)
    assert batch.num_right == batch.trained_tokens
    found, metrics = validate(tiny, Consistency(ar_weight=10.0), [batch])
    wanted, _ = validate(tiny, Likelihood(), [pad([row.text for row in rows])])
    assert found == pytest.approx(10 * wanted, rel=1e-5)
    assert metrics == {"ar_loss": pytest.approx(wanted, rel=1e-5)}


def test_both_weights_are_explicit_and_do_not_depend_on_the_batch(tiny: nn.Module):
    noise = Noise(4, "clean")
    both, metrics = validate(tiny, Consistency(ar_weight=2.0), [block_batch(ROWS, noise, 0)])
    alone, _ = validate(tiny, Consistency(ar_weight=0.0), [block_batch(ROWS, noise, 0)])
    assert both == pytest.approx(alone + 2 * metrics["ar_loss"], rel=1e-5)
    cut = [block_batch(ROWS[:3], noise, 0), block_batch(ROWS[3:], noise, 0)]
    again, others = validate(tiny, Consistency(ar_weight=2.0), cut)
    assert again == pytest.approx(both, rel=1e-5)
    assert others == {name: pytest.approx(value, rel=1e-5) for name, value in metrics.items()}
    assert metrics.keys() == {"ar_loss", "divergence", "guess_loss"}


def test_resumed_is_uninterrupted(make_tiny, tmp_path: Path):
    def steps(folder: Path, stop: int | None = None) -> tuple[list, dict]:
        model = make_tiny()
        batches = TrajectoryBatches(ROWS, Noise(4, "window"), batch_size=2, gradient_accumulation=2, epochs=3)
        validation = [block_batch(ROWS, Noise(4, "window"), 0)]
        found = [
            (result.step, result.loss, result.validation_loss, dict(result.metrics))
            for result in train(
                model,
                Consistency(),
                batches,
                CONFIG,
                output=Output(folder),
                validation=validation,
                stop_after=stop,
            )
        ]
        return found, named_arrays(model.parameters())

    whole, weights = steps(tmp_path / "whole")
    first, _ = steps(tmp_path / "parts", stop=4)
    rest, resumed = steps(tmp_path / "parts")
    assert len(whole) == 6 and first + rest == whole
    assert all(bool((weights[name] == resumed[name]).all()) for name in weights)
    assert whole[-1][2] < whole[3][2]

"""The body in training: dropout, recomputed blocks, and blocks that are frozen."""

from collections.abc import Callable

import numpy as np
import pytest

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.models.graph import named_arrays
from smidgen.models.lora import add_lora
from smidgen.training.batches import TrainRow, pack, pad
from smidgen.training.hidden import BodyPass, frozen_trunk, hidden_states, packed_length
from smidgen.training.objectives.likelihood import Likelihood

Rows = Callable[..., list[TrainRow]]


def test_dropout_works_in_training_only_and_is_seeded(tiny: nn.Module, make_rows: Rows):
    batch = pad(make_rows(2, shortest=40))
    tiny.eval()
    plain = np.array(hidden_states(tiny, batch))
    np.testing.assert_array_equal(hidden_states(tiny, batch, BodyPass(dropout=0.5)), plain)
    tiny.train()
    draws = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        draws.append(np.array(hidden_states(tiny, batch, BodyPass(dropout=0.5))))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    mx.random.seed(1)
    np.testing.assert_allclose(hidden_states(tiny, batch, BodyPass(dropout=1e-7)), plain, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2), LoraConfig(rank=2, dropout=0.5)])
def test_recomputed_blocks_have_the_same_gradient(
    make_tiny: Callable[[], nn.Module],
    make_rows: Rows,
    fused: bool,
    lora: LoraConfig | None,
    monkeypatch: pytest.MonkeyPatch,
):
    if not fused:  # as on a GPU
        monkeypatch.setattr(cpu_kernels, "accelerate", lambda model: None)
    tiny = make_tiny()
    if lora:
        add_lora(tiny, lora, 0)
        tiny.apply_to_modules(  # as after some training, when lora_a has a gradient too
            lambda _, layer: layer.update({"lora_b": layer.lora_b + 0.1}) if "lora_b" in layer else None
        )
    batch = pack(make_rows(6), 64)
    tiny.train()
    found, drawn = [], []
    for recompute in (False, True):
        mx.random.seed(0)
        objective = Likelihood(BodyPass(recompute=recompute))
        found.append(nn.value_and_grad(tiny, lambda objective=objective: objective.loss(tiny, batch).loss)())
        drawn.append(mx.random.uniform().item())
    assert drawn[0] == drawn[1]
    (kept, kept_gradient), (again, gradient) = found
    assert again.item() == pytest.approx(kept.item(), rel=1e-6)
    assert named_arrays(kept_gradient).keys() == named_arrays(gradient).keys()
    for name, value in named_arrays(kept_gradient).items():
        np.testing.assert_allclose(named_arrays(gradient)[name], value, atol=1e-5, err_msg=name)


def test_a_trunk_is_what_no_adapter_reaches(tiny: nn.Module, make_rows: Rows):
    assert frozen_trunk(tiny) is None
    add_lora(tiny, LoraConfig(rank=2, num_layers=1), 0)
    trunk = frozen_trunk(tiny)
    assert trunk is not None and trunk.depth == 1
    batch = pad(make_rows(5))
    tiny.train()
    whole, split = (
        nn.value_and_grad(tiny, lambda how=how: Likelihood(how).loss(tiny, batch).loss)()
        for how in (BodyPass(), BodyPass(trunk=trunk))
    )
    assert split[0].item() == pytest.approx(whole[0].item(), rel=1e-6)
    for name, value in named_arrays(whole[1]).items():
        np.testing.assert_allclose(named_arrays(split[1])[name], value, atol=1e-6, err_msg=name)


def test_a_row_is_as_long_as_attention_allows(
    tiny: nn.Module, make_tiny: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
):
    assert packed_length(tiny) == 1 << 30
    add_lora(tiny, LoraConfig(rank=2, dropout=0.5), 0)
    assert packed_length(tiny) == 1 << 30
    monkeypatch.setattr(cpu_kernels, "accelerate", lambda model: None)  # as on a GPU
    assert packed_length(make_tiny()) == 512
    tiny.model_type = "gemma"
    assert packed_length(tiny) is None

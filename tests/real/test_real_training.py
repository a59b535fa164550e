"""What training of a real model may change about its batches: nothing but the time."""

from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ModelError
from smidgen.models.graph import named_arrays
from smidgen.models.load import load, resolve
from smidgen.models.lora import add_lora, dequantize
from smidgen.models.quantization import quantize
from smidgen.training.batches import TrainRow, pack, pad
from smidgen.training.hidden import BodyPass, frozen_trunk
from smidgen.training.objectives.likelihood import Likelihood
from smidgen.training.trunk import trunk_states

pytestmark = pytest.mark.real
NAME = "smidgen:smollm2"
SAID = [
    ("what is my balance", "balance"),
    ("how do you say hello in french", "translate"),
    ("please tell me when my next electricity bill is due", "bill due"),
    ("hi", "greeting"),
    ("set a timer for ten minutes from now on", "timer"),
]


@pytest.fixture(scope="module")
def rows() -> list[TrainRow]:
    try:
        tokenizer = load_tokenizer(resolve(NAME))
    except ModelError as error:
        pytest.skip(str(error))
    rendered = [
        tokenizer.render_conversation(
            [Message("user", asked), Message("assistant", answer)], thinking=False, mask="last"
        )
        for asked, answer in SAID
    ]
    return [TrainRow(np.array(each.token_ids, np.int32), np.array(each.loss_mask)) for each in rendered]


def learnt(model: nn.Module, batch, how: BodyPass | None = None) -> tuple[float, dict[str, mx.array]]:
    """The loss of a batch, and the gradient of the adapter, whose second half is not zero."""
    objective = Likelihood(how or BodyPass())
    model.train()
    loss, gradient = nn.value_and_grad(model, lambda: objective.loss(model, batch).loss)()
    mx.eval(loss, gradient)
    return loss.item(), named_arrays(gradient)


def adapted(model: nn.Module, num_layers: int | None) -> nn.Module:
    add_lora(model, LoraConfig(rank=4, num_layers=num_layers), 0)
    for name, module in model.named_modules():
        if "lora_b" in module:
            key = mx.random.key(len(name))
            module.lora_b = 0.01 * mx.random.normal(module.lora_b.shape, key=key)
    return model


def assert_same(ours: tuple[float, dict], wanted: tuple[float, dict], tolerance: float) -> None:
    assert ours[0] == pytest.approx(wanted[0], rel=tolerance)
    assert ours[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        scale = mx.abs(value).max().item()
        np.testing.assert_allclose(ours[1][name], value, atol=10 * tolerance * scale, err_msg=name)


def test_packed_rows_are_learnt_as_padded_ones(rows: list[TrainRow]):
    model = adapted(load(NAME).model, None)
    assert_same(learnt(model, pack(rows, 1 << 30)), learnt(model, pad(rows)), 1e-5)


def test_a_cached_trunk_changes_nothing(rows: list[TrainRow], tmp_path: Path):
    model = adapted(load(NAME).model, 3)
    batch = pack(rows, 1 << 30)
    wanted = learnt(model, batch)
    trunk = frozen_trunk(model)
    assert trunk is not None and trunk.depth == 27
    for dtype, tolerance in (("float32", 1e-6), ("float16", 1e-3)):
        trunk_states(trunk, model, rows, dtype).open(tmp_path / dtype)
        for _ in range(2):  # computed, then read
            assert_same(learnt(model, batch, BodyPass(trunk=trunk)), wanted, tolerance)


def test_a_quantised_base_is_learnt_on_as_it_is(rows: list[TrainRow]):
    loaded = load(NAME)
    quantize(loaded.model, loaded.config, bits=4, group_size=32)
    batch = pack(rows, 1 << 30)
    in_place = learnt(adapted(loaded.model, 3), batch)
    other = load(NAME)
    quantize(other.model, other.config, bits=4, group_size=32)
    dequantize(other.model, mx.float32, to_read=True)
    assert_same(learnt(adapted(other.model, 3), batch), in_place, 1e-5)

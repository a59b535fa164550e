import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.backend import mx
from smidgen.config import QuantizeConfig
from smidgen.errors import ConfigError
from smidgen.models.load import load
from smidgen.models.quantization import Setting, quantizable, quantize_as, size_of
from smidgen.models.sensitivity import Predictions, affordable, choose, measure, rounded

ROWS = [list(range(5, 45)), list(range(100, 117)), [7]]


def test_the_divergence_is_that_of_the_model_that_is_then_quantised(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    plan = dict.fromkeys(quantizable(loaded.model, loaded.config), Setting(3, 32))
    predictions = Predictions(loaded.model, ROWS, mx.float32)
    found = predictions.divergence(plan)
    assert predictions.divergence({}) == 0.0, "the weights are put back"
    before = log_probabilities(loaded.model)
    quantize_as(loaded.model, loaded.config, plan)
    after = log_probabilities(loaded.model)
    divergences = (np.exp(before) * (before - after)).sum(axis=-1)
    assert len(divergences) == sum(map(len, ROWS))
    assert found == pytest.approx(divergences.mean(), rel=1e-3)


def log_probabilities(model) -> np.ndarray:
    """Of every next token after every token of the rows, (T, V), each row run by itself."""
    scores = [np.array(model(mx.array([row])), np.float64)[0] for row in ROWS]
    return np.concatenate([s - np.log(np.exp(s).sum(axis=-1, keepdims=True)) for s in scores])


def test_every_layer_matters_and_more_bits_hurt_less(tiny_model_dir: Path, tmp_path: Path):
    loaded = load(str(tiny_model_dir))
    names = list(quantizable(loaded.model, loaded.config))
    effects = list(
        measure(Predictions(loaded.model, ROWS, mx.float32), names, (8, 2), 32, tmp_path / "record")
    )
    assert [(e.name, e.bits) for e in effects] == list(itertools.product(names, (2, 8)))
    pairs = zip(effects[::2], effects[1::2], strict=True)
    assert all(low.divergence > 5 * high.divergence > 0 for low, high in pairs)


def test_what_was_measured_is_not_measured_again(tiny_model_dir: Path, tmp_path: Path):
    loaded, record = load(str(tiny_model_dir)), tmp_path / "record.jsonl"
    predictions = Predictions(loaded.model, ROWS, mx.float32)
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj"]
    stopped = measure(predictions, names, (2, 3), 32, record)
    first = [next(stopped) for _ in range(3)]
    again = list(measure(predictions, names, (2, 3), 32, record))
    assert [effect.known for effect in again] == [True, True, True, False]
    assert [effect.divergence for effect in again[:3]] == [effect.divergence for effect in first]


def test_scales_are_rounded_to_the_dtype_they_are_stored_in():
    weight = mx.random.normal((8, 64), key=mx.random.key(0))
    packed, scales, biases = mx.quantize(weight, bits=4, group_size=32)
    stored = [part.astype(mx.bfloat16).astype(mx.float32) for part in (scales, biases)]
    wanted = mx.dequantize(packed, *stored, bits=4, group_size=32)
    np.testing.assert_array_equal(rounded(weight, Setting(4, 32), mx.bfloat16), wanted)


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.lists(st.floats(0, 2, width=32), min_size=3, max_size=3)),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 1),
)
def test_the_choice_is_the_best_of_all_that_fit(layers: list[tuple[int, list[float]]], room: float):
    widths = (2, 4, 8)
    effects = {str(i): dict(zip(widths, losses, strict=True)) for i, (_, losses) in enumerate(layers)}
    costs = {str(i): {bits: 32 * size * bits for bits in widths} for i, (size, _) in enumerate(layers)}
    least, most = (sum(pick(cost.values()) for cost in costs.values()) for pick in (min, max))
    budget = int(least + room * (most - least))

    def totals(bits: tuple[int, ...]) -> tuple[float, int]:
        chosen = zip(effects, bits, strict=True)
        pairs = [(effects[name][width], costs[name][width]) for name, width in chosen]
        return sum(loss for loss, _ in pairs), sum(cost for _, cost in pairs)

    best = min(
        loss for loss, cost in map(totals, itertools.product(widths, repeat=len(layers))) if cost <= budget
    )
    loss, cost = totals(tuple(choose(effects, costs, budget).values()))
    assert cost <= budget and loss == pytest.approx(best, rel=1e-3, abs=1e-4)


def test_a_target_below_the_narrowest_layers_is_refused(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    names = list(quantizable(loaded.model, loaded.config))
    plan = dict.fromkeys(names, Setting(3, 32))
    least = size_of(loaded.model, mx.bfloat16, plan).bits_per_weight
    meets = QuantizeConfig(target_bits=least + 0.001, candidate_bits=(3, 4))
    costs, budget = affordable(loaded.model, meets, {}, mx.bfloat16, names)
    assert choose({name: {3: 0.1, 4: 0.0} for name in names}, costs, budget) == dict.fromkeys(names, 3)
    fails = QuantizeConfig(target_bits=least - 0.001, candidate_bits=(3, 4))
    with pytest.raises(ConfigError, match=rf"take {least:.3f} bits per weight.*raise 'target_bits', or add"):
        affordable(loaded.model, fails, {}, mx.bfloat16, names)
    most = size_of(loaded.model, mx.bfloat16, dict.fromkeys(names, Setting(4, 32))).bits_per_weight
    whole = QuantizeConfig(target_bits=round(most, 3), candidate_bits=(3, 4))
    affordable(loaded.model, whole, {}, mx.bfloat16, names)
    beyond = QuantizeConfig(target_bits=most + 0.01, candidate_bits=(3, 4))
    with pytest.raises(
        ConfigError, match=rf"even the widest .* {most:.3f} bits per weight.*set 'bits' to 4, or"
    ):
        affordable(loaded.model, beyond, {}, mx.bfloat16, names)

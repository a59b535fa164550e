"""The parts of mlx-lm and mlx that we call, as they are spelt in the versions we are pinned to."""

import dataclasses
import inspect

import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen2, qwen3
from mlx_lm.tuner.lora import LoRALinear

from smidgen.backend import mx, nn


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("module", [llama, qwen2, qwen3])
def test_architectures(module):
    assert parameters(module.Model) == ["args"]
    assert parameters(module.Model.__call__) == ["self", "inputs", "cache", "input_embeddings"]
    assert parameters(module.Model.sanitize) == ["self", "weights"]
    assert parameters(module.TransformerBlock.__call__) == ["self", "x", "mask", "cache"]
    assert dataclasses.is_dataclass(module.ModelArgs)
    fields = {field.name for field in dataclasses.fields(module.ModelArgs)}
    assert {"rope_theta", "rope_scaling", "tie_word_embeddings", "vocab_size"} <= fields


def test_lora_layer():
    assert parameters(LoRALinear.from_base) == ["linear", "r", "dropout", "scale"]
    layer = LoRALinear.from_base(nn.Linear(6, 4), r=2, dropout=0.0, scale=3.0)
    assert (layer.lora_a.shape, layer.lora_b.shape, layer.scale) == ((6, 2), (2, 4), 3.0)
    x = mx.ones((1, 6))
    layer.lora_b = mx.ones((2, 4))
    assert mx.allclose(layer(x), layer.linear(x) + 3.0 * (x @ layer.lora_a) @ layer.lora_b)


def test_quantisation():
    assert {"group_size", "bits", "mode", "class_predicate"} <= set(parameters(nn.quantize))
    layer = nn.Linear(64, 8).to_quantized(group_size=32, bits=4)
    assert (layer.group_size, layer.bits, layer.mode) == (32, 4, "affine")


def test_trees():
    assert tree_flatten({"a": [{"b": 1}]}, destination={}) == {"a.0.b": 1}

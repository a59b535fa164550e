"""Blocks small enough to compare every gradient."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from smidgen.backend import mx, nn
from smidgen.cpu_kernels import accelerate, usable
from smidgen.models.architectures import build_graph


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where the kernels serve nothing."""
    if not usable():
        for item in items:
            if item.path.parent.name == "cpu_kernels":
                item.add_marker(pytest.mark.skip(reason="the kernels are for the CPU, with OpenBLAS"))


@pytest.fixture(scope="module", autouse=True)
def team_of_two(two_threads: None) -> None:
    """The kernels share their work."""


@pytest.fixture(scope="session")
def make_model() -> Callable[..., nn.Module]:
    """Make a model with weights that are nowhere zero or one."""

    def make(architecture: str = "qwen3", **changes: Any) -> nn.Module:
        arguments = {
            "model_type": architecture,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": 61,
            "max_position_embeddings": 2048,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
        }
        if architecture != "qwen2":
            arguments["head_dim"] = 8
        mx.random.seed(0)
        if architecture == "llama4_text":
            own = {"intermediate_size_mlp": 48, "moe_layers": []}
            model = build_graph(arguments | own | changes, "test")
        else:
            module = importlib.import_module(f"mlx_lm.models.{architecture}")
            model = module.Model(module.ModelArgs.from_dict(arguments | changes))
        model.apply(lambda value: value + 0.2 * mx.random.normal(value.shape))
        mx.eval(model.parameters())
        return model

    return make


@pytest.fixture(scope="session")
def pair(make_model: Callable[..., nn.Module]) -> Callable[..., tuple[nn.Module, nn.Module]]:
    """Make a block and the same one fused, ready to train."""

    def make(architecture: str = "qwen3", **changes: Any) -> tuple[nn.Module, nn.Module]:
        plain, model = make_model(architecture, **changes), make_model(architecture, **changes)
        accelerate(model)
        model.train()
        return plain.layers[0], model.layers[0]

    return make

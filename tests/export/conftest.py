"""A model and an adapter that does something; `smidgen.backend` is imported before MLX."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.lora import add_lora, save_adapter

CONFIG = LoraConfig(rank=4, alpha=8, num_layers=1, dropout=0.1, target_modules=("q_proj", "down_proj"))


@pytest.fixture
def tokens() -> mx.array:
    """Two rows of 40 token ids of the tiny model."""
    return mx.array(np.random.default_rng(0).integers(0, 300, (2, 40)), mx.int32)


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an adapter of random matrices for a model, in our format."""

    def make(model: str, config: LoraConfig = CONFIG, size: float = 0.2) -> Path:
        graph = load(model).model
        add_lora(graph, config, seed=0)
        rng = np.random.default_rng(1)
        trained = named_arrays(graph.trainable_parameters())
        updates = [(name, mx.array(rng.normal(0, size, v.shape), mx.float32)) for name, v in trained.items()]
        graph.load_weights(updates, strict=False)
        save_adapter(tmp_path / "adapter", graph, config)
        return tmp_path / "adapter"

    return make


@pytest.fixture
def adapter(make_adapter: Callable[..., Path], tiny_model_dir: Path) -> Path:
    """An adapter of the tiny model's last block."""
    return make_adapter(str(tiny_model_dir))

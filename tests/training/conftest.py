"""A tiny model, and rows for it; `smidgen.training` is imported before the tests import anything of MLX."""

from collections.abc import Callable

import numpy as np
import pytest

from smidgen.backend import nn
from smidgen.config import ArchitectureConfig
from smidgen.models.graph import create
from smidgen.training.batches import TrainRow

TINY = ArchitectureConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=64, vocab_size=97,
)  # fmt: skip


@pytest.fixture
def tiny() -> nn.Module:
    """A Qwen3 of two blocks, the same in every test."""
    return create(TINY, seed=0)[0]


@pytest.fixture
def make_tiny() -> Callable[[], nn.Module]:
    """A function that makes the same model again."""
    return lambda: create(TINY, seed=0)[0]


@pytest.fixture
def make_rows() -> Callable[..., list[TrainRow]]:
    """A function that makes rows of random lengths whose second half is learnt."""

    def make(count: int, seed: int = 0, shortest: int = 4, longest: int = 50) -> list[TrainRow]:
        rng = np.random.default_rng(seed)
        rows = []
        for length in rng.integers(shortest, longest + 1, count):
            rows.append(
                TrainRow(rng.integers(0, 97, length).astype(np.int32), np.arange(length) >= length // 2)
            )
        return rows

    return make

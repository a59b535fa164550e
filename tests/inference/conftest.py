"""The tiny model, and the naive way to run it that everything else is held against."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.models.load import LoadedModel, load


@pytest.fixture(scope="module", autouse=True)
def rows_are_shared(two_threads: None) -> None:
    """Rows are shared among cores."""


@pytest.fixture(scope="session")
def loaded(tiny_model_dir: Path) -> LoadedModel:
    return load(str(tiny_model_dir))


@pytest.fixture(scope="session")
def full_logits(loaded: LoadedModel) -> Callable[[list[int]], np.ndarray]:
    """A function of token ids: logits (L, V) by one forward pass of the model without any cache."""
    return lambda token_ids: np.array(loaded.model(mx.array([token_ids]))[0].astype(mx.float32))


@pytest.fixture(scope="session")
def naive_greedy(full_logits) -> Callable[..., list[int]]:
    """A function of a prompt: greedy tokens, each by a forward pass over everything before it."""

    def decode(prompt: list[int], max_tokens: int, end_tokens: frozenset[int] = frozenset()) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < max_tokens and not (tokens and tokens[-1] in end_tokens):
            tokens.append(int(full_logits(prompt + tokens)[-1].argmax()))
        return tokens

    return decode

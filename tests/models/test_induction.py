"""The induction circuit finds repeats before any training, and its shape is checked."""

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import ArchitectureConfig
from smidgen.models.graph import body, create, logits

REPEATED = np.random.default_rng(0).integers(0, 512, 40).tolist() * 2


def mean_rank_of_next(initialization: str) -> float:
    shape = ArchitectureConfig(rope_theta=1e5, vocab_size=512, initialization=initialization)
    model, _ = create(shape, seed=1)
    scores = np.array(logits(model, body(model)(mx.array([REPEATED])))[0])
    return np.mean([np.sum(scores[i] > scores[i][REPEATED[i + 1]]) for i in range(40, 79)])


def test_fresh_weights_predict_what_followed_last_time():
    assert mean_rank_of_next("induction") < 60
    assert mean_rank_of_next("normal") > 180  # chance is 256


def test_the_shape_must_have_room():
    with pytest.raises(ValueError, match="needs at least 3 layers, heads of 16 and a hidden_size of 129"):
        ArchitectureConfig(hidden_size=64, initialization="induction")


def test_query_heads_divide_among_key_heads():
    with pytest.raises(ValueError, match=r"heads \(6\) is not a multiple of num_key_value_heads \(4\)"):
        ArchitectureConfig(num_key_value_heads=4)

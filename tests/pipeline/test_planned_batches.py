"""The batches of a training on a model's own answers, before there are any."""

import numpy as np
import pytest

from smidgen.config import GrpoConfig
from smidgen.pipeline.planned_batches import answer_batches
from smidgen.training.batches import TrainRow
from smidgen.training.shared_prefix import share_prefixes

SETTINGS = GrpoConfig(
    method="grpo", steps=5, batch_size=16, num_generations=8, max_length=2048, max_completion_length=200
)


def row(prompt: int, tokens: int, answer: int) -> TrainRow:
    """A prompt of its own with an answer."""
    mask = np.arange(tokens + answer) >= tokens
    return TrainRow(np.full(tokens + answer, prompt, np.int32), mask)


@pytest.mark.parametrize("sharing", [1, 4, 8])
def test_the_largest_batch_is_as_large_as_that_of_the_longest_answers(sharing: int):
    planned = answer_batches(SETTINGS, [300, 90], sharing=sharing).largest
    rows = [row(prompt, 300, 200) for prompt in range(16 // sharing) for _ in range(sharing)]
    made = share_prefixes(rows)
    assert (planned.rows, planned.trained) == (made.inputs.shape[0], made.trained_tokens)
    assert planned.length - made.inputs.shape[1] in (0, 16, 32), "the last token of a row is no input"
    assert planned.masked == (sharing > 1)


def test_answers_that_do_not_fit_a_row_together_take_several():
    planned = answer_batches(SETTINGS, [1500], sharing=8).largest
    assert planned.rows == 8 and planned.length <= 2048, "two answers of 200 tokens in each"


def test_shared_tokens_are_counted_once():
    alone, together = (answer_batches(SETTINGS, [300], sharing=n).tokens for n in (1, 8))
    assert (alone, together) == (5 * 16 * 500, 5 * 2 * 300 + 5 * 16 * 200)

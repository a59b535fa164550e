"""Trajectories are the states of plain Jacobi iteration, and end in the greedy answer."""

from itertools import pairwise

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.data.trajectories import Trajectory, mismatch
from smidgen.errors import ModelError
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import MlxForward, forward_of
from smidgen.inference.trajectories import Question, collect_trajectories
from smidgen.models.load import load


def questions_of(sizes: list[int], *, max_tokens: int = 13) -> list[Question]:
    rng = np.random.default_rng(0)
    return [
        Question(f"q{i}", [5, 6, *rng.integers(1, 300, size).tolist()], max_tokens + i)
        for i, size in enumerate(sizes)
    ]


def collected(decoder: Decoder, questions, ends=frozenset(), **settings) -> dict[str, Trajectory]:
    defaults = {"block_size": 5, "batch_size": 3, "seed": 0}
    found = list(collect_trajectories(decoder, questions, end_tokens=ends, **defaults | settings))
    assert decoder.num_rows == 0
    assert all(questions[place].id == one.id for place, one in found)
    return {one.id: one for _, one in found}


@pytest.fixture(scope="module")
def decoder(loaded) -> Decoder:
    return Decoder(forward_of(loaded.model))


@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_every_state_is_the_model_s_choice_after_the_one_before(
    decoder, full_logits, naive_greedy, block_size
):
    questions = questions_of([3, 9, 4, 7, 5])
    found = collected(decoder, questions, block_size=block_size)
    assert found.keys() == {one.id for one in questions}
    for one in questions:
        trajectory = found[one.id]
        assert trajectory.prompt == one.prompt and not trajectory.is_finished
        assert trajectory.answer == naive_greedy(one.prompt, one.max_tokens)
        text = list(one.prompt)
        for states in trajectory.blocks:
            assert len(states[0]) <= block_size
            for before, after in pairwise(states):
                choices = full_logits(text + before).argmax(-1)[len(text) - 1 :]
                assert after == choices[: len(after)].tolist()
            assert all(token in text for token in states[0])
            text += states[-1]
        assert all(len(states[0]) == block_size for states in trajectory.blocks[:-1])


def test_the_random_first_state_is_kept(decoder):
    blocks = [states for one in collected(decoder, questions_of([9] * 6)).values() for states in one.blocks]
    assert sum(states[0] != states[-1] for states in blocks) > len(blocks) / 2
    assert any(mismatch(states[0], states[-1]) == 0 for states in blocks)
    assert all(mismatch(states[-1], states[-1]) == len(states[-1]) for states in blocks)


def test_an_end_token_ends_the_last_block(decoder, naive_greedy):
    questions = questions_of([3, 9, 4, 7, 5])
    plain = {one.id: naive_greedy(one.prompt, one.max_tokens) for one in questions}
    ends = frozenset([plain["q0"][7], plain["q1"][0], plain["q2"][4], plain["q3"][-1]])
    found = collected(decoder, questions, ends)
    for one in questions:
        trajectory, answer = found[one.id], plain[one.id]
        end = next((i for i, token in enumerate(answer) if token in ends), None)
        assert trajectory.answer == (answer if end is None else answer[: end + 1])
        assert trajectory.is_finished == (end is not None)
        assert all(len({len(state) for state in states}) == 1 for states in trajectory.blocks)
        for states in trajectory.blocks:
            assert not ends & set(states[0])  # an end token is no guess
    assert sum(one.is_finished for one in found.values()) >= 4


def test_company_and_other_devices_change_nothing(loaded, decoder):
    questions = questions_of([3, 9, 4, 7, 5, 8])
    found = collected(decoder, questions)
    assert collected(decoder, questions, batch_size=1) == found
    assert collected(decoder, questions[::-1], batch_size=6) == found
    assert collected(Decoder(MlxForward(loaded.model)), questions) == found
    assert collected(decoder, questions, seed=1) != found
    assert collected(decoder, []) == {}


def test_weights_that_are_damaged_are_refused(tiny_model_dir):
    damaged = load(str(tiny_model_dir)).model
    damaged.model.norm.weight = damaged.model.norm.weight * mx.nan
    with pytest.raises(
        ModelError, match="computes logits that are NaN; its weights are damaged, so download"
    ):
        collected(Decoder(forward_of(damaged)), questions_of([3]))

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.inference.acceptance import PRIOR, PRIORS, STRETCH, WINDOWS, Acceptance, Windows, worthwhile
from smidgen.inference.drafts import Draft
from smidgen.inference.pass_costs import PassCosts

CHANCES = st.lists(st.floats(0.01, 1), max_size=3).map(lambda each: np.cumprod(each) if each else np.zeros(0))


@given(
    st.lists(CHANCES, min_size=1, max_size=3),
    st.lists(st.floats(0.1, 9), min_size=12, max_size=12),
    st.integers(0, 2),
    st.booleans(),
)
def test_no_other_drafts_give_more_tokens_per_second(survivals, times, forced, padded):
    costs = PassCosts({i + 1: time for i, time in enumerate(np.cumsum(times))})
    running = len(survivals) + forced

    def rate(sizes):
        tokens = len(sizes) * max(sizes) if padded else sum(sizes)
        gained = running + sum(s[:size].sum() for s, size in zip(survivals, sizes, strict=True))
        return gained / costs.of(running + tokens)

    sizes = worthwhile(survivals, running, costs, padded=padded)
    every = list(product(*(range(len(each) + 1) for each in survivals)))
    assert tuple(sizes) in every
    assert rate(sizes) >= max(map(rate, every)) * (1 - 1e-6) or padded
    if padded:  # the order of chances is that of depths, as far as a row goes
        assert rate(sizes) >= rate([0] * len(sizes)) * (1 - 1e-6)


def test_acceptance_is_learned_for_each_source_and_place():
    known = Acceptance()
    draft = Draft.of("a", [1, 2, 3]).then(Draft.of("b", [4, 5]))
    assert known.survival(draft) == pytest.approx(PRIOR ** np.arange(1, 6))
    assert known.survival(Draft()).size == 0 and known.expected(Draft()) == 0
    for _ in range(500):
        known.learn(draft, 1)  # the second token of the first source is wrong
    first, second = known.survival(Draft.of("a", [1, 2]))
    assert first > 0.95 and second < 0.02
    assert known.survival(Draft.of("b", [4])) == pytest.approx([PRIOR])  # never reached
    for _ in range(500):
        known.learn(draft, 4)
    assert known.survival(Draft.of("b", [4, 5]))[0] > 0.95 > 0.1 > known.survival(Draft.of("b", [4, 5]))[1]
    for _ in range(1000):
        known.fade(draft)
    assert known.survival(draft) == pytest.approx(PRIOR ** np.arange(1, 6), rel=1e-3)


@pytest.mark.parametrize("best", WINDOWS)
def test_the_window_that_gives_most_is_used_most(best):
    windows, used = Windows(), dict.fromkeys(WINDOWS, 0)
    for _ in range(60 * STRETCH):
        window = windows.size(1)
        used[window] += 1
        windows.learn(1, 2 - 0.1 * abs(WINDOWS.index(window) - WINDOWS.index(best)))
    assert max(used, key=lambda window: used[window]) == best
    assert used[best] > 35 * STRETCH
    assert windows.size(8) == WINDOWS[1]  # other numbers of rows have their own


def test_windows_that_cost_much_are_not_tried():
    windows, used = Windows(), set()
    for _ in range(8 * STRETCH):
        used.add(windows.size(1))
        windows.learn(1, 1.0 if windows.size(1) == 0 else 0.5)
    assert used == {0, WINDOWS[1]}
    assert Windows(7).size(1) == Windows(7).size(64) == 7


def test_one_bad_stretch_does_not_decide_for_long():
    windows, seen = Windows(), []
    for stretch in range(150):
        seen.append(windows.size(1))
        for _ in range(STRETCH):
            windows.learn(1, 0.5 if stretch == 1 else 1.0 + 0.1 * WINDOWS.index(windows.size(1)))
    assert WINDOWS[2] == seen[1] and seen[-1] == WINDOWS[-1]
    assert windows.gain(1) == pytest.approx(1.5) and windows.gain(8) == 1.0


def test_what_a_model_must_learn_first_is_not_trusted_before():
    known = Acceptance()
    chances = [known.survival(Draft.of(source, [1]))[0] for source in ("match of 2", "choice 6", "noise")]
    assert chances == pytest.approx([PRIOR, PRIORS["choice"], 0.0])

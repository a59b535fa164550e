"""Sources are drawn in proportion to the weights of a phase, as a function of the row alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.config import PhaseConfig
from smidgen.training.mixing import mix_of

NAMES = ("a", "b", "c")
weights = st.lists(st.sampled_from([0.0, 0.2, 1.0, 3.0]), min_size=3, max_size=3).filter(any)


@given(st.lists(st.tuples(st.integers(1, 500), weights), min_size=1, max_size=4), st.integers(1, 40))
def test_each_row_is_of_a_source_of_its_phase(phases: list, length: int):
    tables = [PhaseConfig(tokens=n, weights=dict(zip(NAMES, w, strict=True))) for n, w in phases]
    mix = mix_of(tables, NAMES, max_length=length)
    ends = np.cumsum([n for n, _ in phases])
    for row in range(-(-int(ends[-1]) // length) + 3):
        phase = min(int(np.searchsorted(ends, row * length, side="right")), len(phases) - 1)
        given_weights = phases[phase][1]
        assert mix.shares_of(row) == pytest.approx(np.array(given_weights) / sum(given_weights))
        assert given_weights[mix.source_of(row)] > 0


def test_many_rows_have_the_shares_of_their_weights():
    mix = mix_of([PhaseConfig(tokens=9, weights={"a": 6.0, "b": 3.0, "c": 1.0})], NAMES, max_length=3, seed=1)
    counts = np.bincount([mix.source_of(row) for row in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.6, 0.3, 0.1], atol=0.025)  # 3 standard deviations


def test_a_draw_depends_on_the_seed_and_on_nothing_before_it():
    phases = [PhaseConfig(tokens=9, weights={"a": 1.0, "b": 1.0})]
    first, same, other = (mix_of(phases, NAMES, max_length=3, seed=seed) for seed in (1, 1, 2))
    forwards = [first.source_of(row) for row in range(60)]
    assert [same.source_of(row) for row in reversed(range(60))] == forwards[::-1]
    assert [other.source_of(row) for row in range(60)] != forwards


def test_the_shares_of_the_whole_are_those_of_its_phases():
    phases = [
        PhaseConfig(tokens=30, weights={"a": 1.0}),
        PhaseConfig(tokens=90, weights={"b": 2.0, "c": 2.0}),
    ]
    assert mix_of(phases, NAMES, max_length=10).total_shares == pytest.approx((0.25, 0.375, 0.375))

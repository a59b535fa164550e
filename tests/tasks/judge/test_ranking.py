"""Bradley–Terry strengths against the truth that made the results."""

import numpy as np
import pytest

from smidgen.tasks.judge.ranking import rank, strengths


def test_two_answers_have_the_odds_of_their_wins():
    wins = np.array([[0.0, 30.0], [10.0, 0.0]])
    first, second = strengths(wins)
    assert first - second == pytest.approx(np.log(30.1 / 10.1))
    assert first + second == pytest.approx(0.0)


def test_known_strengths_are_found():
    random, truth = np.random.default_rng(0), np.array([1.0, 0.3, -0.2, -1.1])
    results = []
    for _ in range(4000):
        i, j = random.choice(4, 2, replace=False)
        results.append((int(i), int(j), float(random.random() < 1 / (1 + np.exp(truth[j] - truth[i])))))
    places = rank(4, results)
    assert [place.answer for place in places] == [0, 1, 2, 3]
    for place in places:
        assert place.low < truth[place.answer] < place.high
        assert place.strength == pytest.approx(truth[place.answer], abs=0.15)


def test_ties_and_nothing_leave_all_equal():
    assert [place.strength for place in rank(3, [(0, 1, 0.5), (1, 2, 0.5)])] == pytest.approx([0.0] * 3)
    assert [place.strength for place in rank(2, [])] == [0.0, 0.0]


def test_intervals_hold_the_truth_though_results_are_few():
    random, hits, total = np.random.default_rng(1), 0, 0
    for _ in range(100):
        truth = random.normal(size=3)
        truth -= truth.mean()
        results = [
            (i, j, float(random.random() < 1 / (1 + np.exp(truth[j] - truth[i]))))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        for place in rank(3, results):
            hits, total = hits + (place.low <= truth[place.answer] <= place.high), total + 1
    assert hits / total > 0.95
    first, second = rank(2, [(0, 1, 1.0)])
    assert first.low < 0 < first.strength == pytest.approx(-second.strength)

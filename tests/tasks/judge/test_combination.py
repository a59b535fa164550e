"""Combining judgements: symmetry, votes for nobody, the order of judges, and fitted weights."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.formats import Label
from smidgen.errors import DataError
from smidgen.tasks.judge.combination import UNSURE, Combination, fit_weights, levels, margin
from smidgen.tasks.judge.forms import Verdict
from smidgen.tasks.judge.outcome import outcome

SWAPPED = {"a": "b", "b": "a", "tie": "tie", None: None}


@dataclass(frozen=True)
class Vote:
    verdict: Label | None
    gap: float | None = None

    def swapped(self) -> "Vote":
        return Vote(SWAPPED[self.verdict], None if self.gap is None else -self.gap)  # type: ignore[arg-type]


def scored(gap: float) -> Vote:
    return Vote("a" if gap > 0 else "b" if gap < 0 else "tie", gap)


votes = st.one_of(
    st.sampled_from(["a", "b", "tie", None]).map(Vote), st.floats(-9, 9, allow_subnormal=False).map(scored)
)
ballots = st.integers(1, 3).flatmap(
    lambda judges: st.lists(st.lists(votes, min_size=2, max_size=8), min_size=judges, max_size=judges)
)


def combinations(judges: int) -> list[Combination]:
    weights = tuple(0.1 + 0.37 * number for number in range(judges))
    return [Combination(), Combination("mean", weights), Combination("mean", weights, threshold=0.8)]


@given(ballots)
def test_swapping_the_answers_swaps_the_verdict(ballot: list[list[Vote]]):
    swapped = [[vote.swapped() for vote in judge] for judge in ballot]
    for combination in combinations(len(ballot)):
        said, other = combination.decide(ballot), combination.decide(swapped)
        assert other.leaning == SWAPPED[said.leaning]
        assert (other.confidence, other.is_answered) == (said.confidence, said.is_answered)


@given(ballots)
def test_the_order_of_judges_and_of_votes_does_not_matter(ballot: list[list[Vote]]):
    for combination in combinations(len(ballot)):
        weights = combination.weights or (None,) * len(ballot)
        expected = combination.decide(ballot)
        for order in permutations(range(len(ballot))):
            moved = [list(reversed(ballot[place])) for place in order]
            own = None if combination.weights is None else tuple(weights[place] for place in order)
            again = Combination(combination.method, own, combination.threshold)  # type: ignore[arg-type]
            assert again.decide(moved) == expected


@given(st.lists(st.tuples(st.sampled_from(["ab", "ba"]), st.sampled_from(["first", "second", "tie", None]))))
def test_the_majority_of_one_judge_is_the_verdict_of_that_judge(said):
    verdicts = [(order, None if choice is None else Verdict(choice)) for order, choice in said]
    sides = {"ab": {"first": "a", "second": "b"}, "ba": {"first": "b", "second": "a"}}
    ballot = [Vote(None if choice is None else sides[order].get(choice, "tie")) for order, choice in said]  # type: ignore[arg-type]
    assert Combination().decide([ballot]).leaning == outcome(verdicts).verdict


def test_what_does_not_parse_is_a_vote_for_nobody():
    both = Combination().decide([[Vote("a"), Vote("a"), Vote("a"), Vote("a")]])
    assert (both.leaning, both.confidence) == ("a", 1.0)
    some = Combination().decide([[Vote("a"), Vote(None), Vote("a"), Vote(None)]])
    assert (some.leaning, some.confidence) == ("a", 0.5)
    none = Combination().decide([[Vote(None)], [Vote(None)]])
    assert (none.leaning, none.confidence, none.verdict) == (None, 0.0, None)
    assert margin([scored(6.0), Vote(None)]) == 3.0
    weighed = Combination("mean", (1.0,))
    assert (
        weighed.decide([[scored(6.0), scored(6.0)]]).confidence
        > weighed.decide([[scored(6.0), Vote(None)]]).confidence
    )


def test_orders_that_contradict_each_other_are_no_confident_tie():
    contradicted = Combination().decide([[Vote("a"), Vote("b")]])
    assert (contradicted.leaning, contradicted.confidence) == ("tie", 0.0)
    tied = Combination().decide([[Vote("tie"), Vote("tie")]])
    assert (tied.leaning, tied.confidence) == ("tie", 1.0)
    assert Combination("mean", (1.0,)).decide([[scored(7.0), scored(-7.0)]]).confidence == 0.5


def test_a_verdict_below_the_threshold_is_unsure():
    careful = Combination(threshold=0.75)
    assert careful.decide([[Vote("a")] * 4]).verdict == "a"
    unsure = careful.decide([[Vote("a"), Vote("a"), Vote("a"), Vote("b")]])
    assert (unsure.verdict, unsure.leaning) == (UNSURE, "a")
    assert careful.decide([[Vote(None)]]).verdict == UNSURE
    assert Combination(threshold=float("inf")).decide([[Vote("a")] * 4]).verdict == UNSURE


def test_levels_are_every_confidence_of_a_majority():
    sides = ("a", "b", "tie", None)
    found = {
        Combination().decide([[Vote(w), Vote(x), Vote(y)]]).confidence
        for w in sides
        for x in sides
        for y in sides
    }
    assert found == set(levels(3)) and levels(3) == sorted(levels(3), reverse=True)


def sample_margins(qualities: list[float], number: int, seed: int) -> tuple[np.ndarray, list[Label]]:
    random = np.random.default_rng(seed)
    labels: list[Label] = ["a" if toss else "b" for toss in random.random(number) < 0.5]
    signs = np.array([1.0 if label == "a" else -1.0 for label in labels])
    return signs[:, None] * np.array(qualities) + random.normal(size=(number, len(qualities))), labels


def test_better_judges_weigh_more_and_useless_ones_nothing():
    margins, labels = sample_margins([1.0, 0.4, -0.5], 3000, 0)
    good, fair, bad = fit_weights(margins, labels)
    # The log odds of normal margins of unit variance are twice the mean times the margin.
    assert good == pytest.approx(2.0, rel=0.15) and fair == pytest.approx(0.8, rel=0.25)
    assert bad == 0.0
    assert fit_weights(margins[:, ::-1], labels) == pytest.approx((bad, fair, good), abs=1e-3)


def test_fitted_weights_do_not_change_when_answers_are_swapped():
    margins, labels = sample_margins([0.8, 0.3], 200, 1)
    other: dict[Label, Label] = {"a": "b", "b": "a", "tie": "tie"}
    swapped = fit_weights(-margins, [other[label] for label in labels])
    assert swapped == fit_weights(margins, labels)
    with_ties = fit_weights(np.vstack([margins, np.full((5, 2), 9.0)]), [*labels, *["tie"] * 5])
    assert with_ties == fit_weights(margins, labels)


def test_the_weights_are_those_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    margins, labels = sample_margins([0.8, 0.3], 200, 2)
    scale = np.sqrt((margins**2).mean(axis=0))
    theirs = linear_model.LogisticRegression(C=1.0, fit_intercept=False, tol=1e-9)
    theirs.fit(margins / scale, [label == "a" for label in labels])
    assert fit_weights(margins, labels) == pytest.approx(theirs.coef_[0] / scale, rel=1e-3)


def test_judges_that_guess_cannot_be_weighed():
    margins, labels = sample_margins([-1.0], 100, 3)
    with pytest.raises(
        DataError, match="on 100 pairs of the calibration rows, no judge is better than guess"
    ):
        fit_weights(margins, labels)

"""Weights and thresholds from ballots: which pairs are used for what."""

import random

import pytest

from smidgen.data.formats import Label
from smidgen.errors import DataError
from smidgen.tasks.judge.ballots import Ballot
from smidgen.tasks.judge.calibrating import calibrate, confidences, halves, one_per_prompt
from smidgen.tasks.judge.combination import Combination
from smidgen.tasks.judge.judgements import Judgement


def vote(pair: str, cluster: str, better: Label, verdict: Label | None, order: str) -> Judgement:
    gap = {"a": 3.0, "b": -3.0, "tie": 0.0}.get(verdict or "")
    return Judgement(pair, order, better, verdict, verdict, gap, cluster, 0, (), {}, None)


def ballots(
    number: int, prompts: int, accuracy: float = 0.95, judges: int = 2, seed: int = 0
) -> list[Ballot]:
    """Pairs whose judges are right on a share of them, in both orders."""
    draw = random.Random(seed)
    found = []
    for n in range(number):
        better: Label = draw.choice(("a", "b"))
        worse: Label = "b" if better == "a" else "a"
        said: list[Label] = [better if draw.random() < accuracy else worse for _ in range(judges)]
        name = f"c{n % prompts}"
        votes = [[vote(f"p{n}", name, better, verdict, order) for order in ("ab", "ba")] for verdict in said]
        found.append(Ballot(tuple(tuple(judge) for judge in votes)))
    return found


def test_halves_keep_prompts_together_and_one_pair_of_each_is_drawn():
    given = ballots(60, prompts=12)
    first, second = halves(given, 0, "rows")
    prompts = [{ballot.cluster for ballot in half} for half in (first, second)]
    assert not prompts[0] & prompts[1] and [len(each) for each in prompts] == [6, 6]
    drawn = one_per_prompt(given, 0)
    assert sorted(ballot.cluster for ballot in drawn) == sorted({ballot.cluster for ballot in given})
    assert {ballot.pair for ballot in drawn} <= {ballot.pair for ballot in given}
    assert one_per_prompt(given[::-1], 0) == drawn, "the order of the rows decides nothing"
    assert one_per_prompt(given, 1) != drawn


def test_many_pairs_of_few_prompts_are_no_evidence():
    """400 right pairs of 10 prompts are ten independent observations, too few for any test."""
    repeated = calibrate(ballots(400, prompts=10, accuracy=1.0), "majority", risk=0.1, delta=0.1, seed=0)
    assert repeated.threshold is not None and repeated.threshold.prompts == 10
    assert not repeated.threshold.is_reached
    apart = calibrate(ballots(400, prompts=400, accuracy=1.0), "majority", risk=0.1, delta=0.1, seed=0)
    assert apart.threshold is not None and apart.threshold.is_reached and apart.threshold.prompts == 400


def test_weights_and_threshold_come_from_different_prompts():
    given = ballots(200, prompts=200)
    found = calibrate(given, "mean", risk=0.1, delta=0.1, seed=0)
    assert found.threshold is not None and found.threshold.prompts == 100
    fitted, tested = halves(given, 0, "rows")
    alone = calibrate(fitted, "mean", risk=None, delta=0.1, seed=0)
    assert found.combination.weights == alone.combination.weights and alone.threshold is None
    confident, wrong = confidences(tested, found.combination)
    answered = confident >= found.threshold.threshold
    assert (answered.sum(), wrong[answered].sum()) == (found.threshold.answered, found.threshold.wrong)
    whole = calibrate(given, "mean", risk=None, delta=0.1, seed=0)
    assert whole.combination.weights != found.combination.weights, "without a risk all pairs are for weights"


def test_a_plain_majority_needs_nothing():
    found = calibrate(ballots(4, prompts=4), "majority", risk=None, delta=0.1, seed=0)
    assert (found.combination, found.threshold) == (Combination(), None)


def test_pairs_that_do_not_suffice():
    with pytest.raises(DataError, match=r"there is no pair in x\.jsonl; give labelled pairs"):
        calibrate([], "majority", risk=0.1, delta=0.1, seed=0, source="x.jsonl")
    with pytest.raises(DataError, match="there is only one prompt in the calibration rows; expected several"):
        calibrate(ballots(9, prompts=1), "mean", risk=0.1, delta=0.1, seed=0)

"""What an ensemble's judgements of labelled pairs show: its metrics, its judges, and when not to answer."""

from collections.abc import Sequence
from typing import Any

from smidgen.tasks.judge.abstention import Threshold, area, curve
from smidgen.tasks.judge.ballots import Ballot, gather, in_each_order
from smidgen.tasks.judge.calibrating import confidences
from smidgen.tasks.judge.combination import Combination
from smidgen.tasks.judge.judgements import Judgement, both_orders, measures
from smidgen.tasks.measures import Measure, Metric


def ensemble_measures(
    ballots: Sequence[Ballot], combination: Combination, *, abstains: bool
) -> dict[str, Metric]:
    """Compute the metrics of a judge for the ensemble in each order, then those of its verdicts on pairs.

    Unparsed judgements are counted one by one, although others may decide the pair.

    Args:
        ballots: of labelled pairs.
        combination: how they are combined.
        abstains: whether a risk was chosen, so that coverage and risk are of interest.
    """
    every = [vote for ballot in ballots for vote in ballot.all]
    clusters = [vote.cluster for vote in every]
    found = measures(list(in_each_order(ballots, combination)))
    found["unparsed_rate"] = Measure([float(vote.verdict is None) for vote in every], clusters)
    lenient = [float(vote.lenient_verdict is None) for vote in every]
    found["unparsed_rate_lenient"] = Measure(lenient, clusters)
    found["aurc"] = _area(ballots, combination)
    return found | pair_measures(ballots, combination, abstains=abstains)


def pair_measures(
    ballots: Sequence[Ballot], combination: Combination, *, abstains: bool = False
) -> dict[str, Metric]:
    """Compute the accuracy over pairs and, if the judge abstains, its coverage and its risk."""
    decisions = [combination.decide(ballot.votes) for ballot in ballots]
    right = [ballot.is_right(found) for ballot, found in zip(ballots, decisions, strict=True)]
    prompts = [ballot.cluster for ballot in ballots]
    found: dict[str, Metric] = {"pair_accuracy": Measure([float(value) for value in right], prompts)}
    if abstains:
        answered = [number for number, decision in enumerate(decisions) if decision.is_answered]
        found["coverage"] = Measure([float(decision.is_answered) for decision in decisions], prompts)
        found["risk"] = Measure(
            [float(not right[number]) for number in answered], [prompts[number] for number in answered]
        )
    return found


def abstention_facts(
    ballots: Sequence[Ballot], combination: Combination, chosen: Threshold | None = None
) -> dict[str, Any]:
    """Compute the accuracy against the coverage, and describe the threshold that was chosen, if one was."""
    found, wrong = confidences(ballots, combination)
    facts = curve(found.tolist(), (~wrong).tolist(), [ballot.cluster for ballot in ballots])
    facts["method"] = combination.method
    if chosen is not None:
        reached = pair_measures(ballots, combination, abstains=True)
        facts["chosen"] = chosen.to_json() | {"target": chosen.risk}
        facts["chosen"] |= {name: reached[name] for name in ("coverage", "risk")}
    return facts


def judge_alone(judgements: Sequence[Judgement]) -> dict[str, Any] | None:
    """Compute accuracy against coverage of one judge: confident is what both orders say, the more clearly so.

    Returns:
        As `abstention_facts`; None if no pair was judged in both orders.
    """
    ballots, combination = _alone(judgements)
    return abstention_facts(ballots, combination) if ballots else None


def alone_measures(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Compute how well the confidence of one judge tells its right verdicts from its wrong ones."""
    ballots, combination = _alone(judgements)
    return {"aurc": _area(ballots, combination)} if ballots else {}


def _alone(judgements: Sequence[Judgement]) -> tuple[list[Ballot], Combination]:
    """Return the pairs that one judge saw in both orders, and its confidence.

    That is the mean gap between the scores, or without scores the majority of the two orders.
    """
    paired = both_orders(judgements)
    ballots = gather([[judgement for pair in paired for judgement in pair]])
    has_scores = any(judgement.gap is not None for judgement in judgements)
    return ballots, Combination("mean", (1.0,)) if has_scores else Combination()


def _area(ballots: Sequence[Ballot], combination: Combination) -> Metric:
    found, wrong = confidences(ballots, combination)
    return area(found.tolist(), (~wrong).tolist(), [ballot.cluster for ballot in ballots])


def judges_facts(
    ballots: Sequence[Ballot], combination: Combination, names: Sequence[str], samples: int
) -> list[dict[str, Any]]:
    """Describe what an ensemble consists of, each with its accuracy over pairs if it judged alone.

    That are its judges, if it has several, and each of them asked once, if it asks more often. Alone, the
    sign of a judge's own margin or its own majority decides, and it never abstains.
    """
    weights: Sequence[float | None] = combination.weights or [None] * len(names)
    alone = Combination() if combination.weights is None else Combination("mean", (1.0,))
    found = []
    for number, (name, weight) in enumerate(zip(names, weights, strict=True)):
        own = [ballot.of_judge(number) for ballot in ballots]
        parts = {samples: own} if len(names) > 1 or samples == 1 else {}
        if samples > 1:
            parts[1] = [ballot.asked_once() for ballot in own]
        for times, part in parts.items():
            facts: dict[str, Any] = {"model": name, "samples": times, "weight": weight}
            found.append(facts | pair_measures(part, alone))
    return found

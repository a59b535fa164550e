"""The judgements of several judges, gathered by pair, and what an ensemble makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from smidgen.errors import DataError
from smidgen.tasks.judge.combination import Combination, Decision
from smidgen.tasks.judge.judgements import ORDERS, Judgement


@dataclass(frozen=True)
class Ballot:
    """All judgements of one pair.

    Attributes:
        votes: the judgements of each judge, in both orders and of all samples.
    """

    votes: tuple[tuple[Judgement, ...], ...]

    @cached_property
    def all(self) -> tuple[Judgement, ...]:
        """The judgements of all judges."""
        return tuple(vote for judge in self.votes for vote in judge)

    @property
    def pair(self) -> str:
        """Id of the pair."""
        return self.all[0].pair

    @property
    def cluster(self) -> str:
        """The prompt, which several pairs may share."""
        return self.all[0].cluster

    def of_judge(self, number: int) -> "Ballot":
        """The votes of one judge alone."""
        return Ballot((self.votes[number],))

    def asked_once(self) -> "Ballot":
        """The first judgement of each judge in each order."""
        first = ({vote.order: vote for vote in reversed(judge)} for judge in self.votes)
        return Ballot(tuple(tuple(by_order.values()) for by_order in first))

    def in_order(self, order: str) -> "Ballot":
        """The votes on the pair as it was shown in one order."""
        return Ballot(tuple(tuple(vote for vote in judge if vote.order == order) for judge in self.votes))

    def is_right(self, decision: Decision) -> bool:
        """Whether the leaning of a decision is the label."""
        return decision.leaning == self.all[0].better


def gather(judges: Sequence[Sequence[Judgement]]) -> list[Ballot]:
    """Gather the judgements of every pair, in the order of the first judge's.

    Raises:
        DataError: the judges did not judge the same pairs.
    """
    by_judge: list[dict[str, list[Judgement]]] = []
    for judgements in judges:
        found: dict[str, list[Judgement]] = {}
        for judgement in judgements:
            found.setdefault(judgement.pair, []).append(judgement)
        by_judge.append(found)
    for number, found in enumerate(by_judge, start=1):
        if odd := by_judge[0].keys() ^ found.keys():
            raise DataError(
                f"only one of judge 1 and judge {number} judged the pair '{min(odd)}'; judge the same pairs "
                "with every judge"
            )
    return [Ballot(tuple(tuple(found[pair]) for found in by_judge)) for pair in by_judge[0]]


def in_each_order(ballots: Sequence[Ballot], combination: Combination) -> Iterator[Judgement]:
    """Yield what the ensemble says of every pair in each order, as one judge would have said it."""
    for ballot in ballots:
        for order in ORDERS:
            shown = ballot.in_order(order)
            lenient = [
                [replace(vote, verdict=vote.lenient_verdict) for vote in judge] for judge in shown.votes
            ]
            yield replace(
                shown.all[0],
                verdict=combination.decide(shown.votes).leaning,
                lenient_verdict=combination.decide(lenient).leaning,
                gap=_gap(shown, combination),
            )


def _gap(ballot: Ballot, combination: Combination) -> float | None:
    """Return the mean gap of the scores, or the log odds of a weighted mean; None if nothing parsed."""
    if combination.weights is not None:
        return combination.odds(ballot.votes) if any(vote.verdict for vote in ballot.all) else None
    gaps = [vote.gap for vote in ballot.all if vote.gap is not None]
    return sum(gaps) / len(gaps) if gaps else None

"""What a judge is rewarded for besides the right verdict: saying the same in both orders, and clearly."""

from collections.abc import Sequence

from smidgen.data.types import Sample
from smidgen.tasks.judge.forms import JudgeParseError, Verdict
from smidgen.tasks.judge.judgements import side
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.rewards import Answered


def pair_groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the orders of each pair together."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.metadata["pair"], []).append(sample)
    return list(found.values())


class JudgeRewards:
    """Rewards of judgements of one pair.

    Args:
        reader: parses them.
        scale: the highest score minus the lowest of the template; None if it has no scores.
    """

    def __init__(self, reader: Reader, scale: float | None) -> None:
        self._reader, self._scale = reader, scale

    def consistency(self, group: Sequence[Answered]) -> list[float]:
        """Return for each judgement the share of those in the other order that prefer the same answer.

        Judgements that cannot be read agree with none; without the other order, all get 0.
        """
        said = [self._preferred(answer) for answer in group]
        found = []
        for answer, own in zip(group, said, strict=True):
            order = answer.sample.metadata["order"]
            others = [
                theirs
                for other, theirs in zip(group, said, strict=True)
                if other.sample.metadata["order"] != order
            ]
            agreeing = sum(own is not None and theirs == own for theirs in others)
            found.append(agreeing / len(others) if others else 0.0)
        return found

    def margin(self, group: Sequence[Answered]) -> list[float]:
        """Return how far the better answer's score is above the other's, from -1 to 1; 0 for a label of tie.

        Judgements that cannot be read get 0.
        """
        assert self._scale is not None
        found = []
        for answer in group:
            verdict, better = self._verdict(answer), answer.sample.metadata["better"]
            if verdict is None or verdict.first is None or verdict.second is None or better == "tie":
                found.append(0.0)
            else:
                difference = (verdict.first - verdict.second) / self._scale
                found.append(difference if better == "first" else -difference)
        return found

    def _preferred(self, answer: Answered) -> str | None:
        """Return which answer of the pair a judgement prefers, whatever the order: `a`, `b` or `tie`."""
        verdict = self._verdict(answer)
        return None if verdict is None else side(verdict, answer.sample.metadata["order"])

    def _verdict(self, answer: Answered) -> Verdict | None:
        try:
            verdict = self._reader.parse(answer.completion.text)
        except JudgeParseError:
            return None
        return verdict if isinstance(verdict, Verdict) else None

"""What a judge's accuracy is compared with: strategies without a model on the same pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smidgen.data.types import Sample
from smidgen.tasks.judge.judgements import graded_pairs
from smidgen.tasks.measures import Measure, Metric


def baselines(samples: Sequence[Sample], *, singly: bool) -> dict[str, Metric]:
    """Return the accuracy of always choosing the longer or the first answer, and of chance; never ties.

    Args:
        samples: of the pairs.
        singly: whether each sample shows one answer of a pair.
    """
    asked = [sample.metadata for sample in samples]
    if singly:
        asked = [facts for facts, _, _ in graded_pairs(samples)]
    decided = [facts for facts in asked if facts["label"] != "tie"]
    found: dict[str, Metric] = {"longer": _baseline(asked, _longer_is_right)}
    if len(decided) < len(asked):
        found["longer_without_ties"] = _baseline(decided, _longer_is_right)
    if not singly:
        found["first"] = _baseline(asked, lambda facts: float(facts["better"] == "first"))
    return found | {"random": _baseline(asked, lambda facts: 0.5 * (facts["label"] != "tie"))}


def _baseline(asked: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]) -> Measure:
    return Measure([value(facts) for facts in asked], [facts["cluster"] for facts in asked])


def _longer_is_right(facts: Mapping[str, Any]) -> float:
    """Whether the response with more characters is the better one; 0.5 if both have equally many."""
    a, b = facts["characters"]
    label = facts["label"]
    if label == "tie":
        return 0.0
    return 0.5 if a == b else float((a > b) == (label == "a"))

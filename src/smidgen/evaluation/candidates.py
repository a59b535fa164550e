"""Several answers to each sample, and which of them are kept as targets: rejection sampling.

Keeping only what a gold label or a reward confirms is the filter of STaR (https://arxiv.org/abs/2203.14465)
and of RFT (https://arxiv.org/abs/2308.01825). Every answer that is not kept has a reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from smidgen.data.types import UNANSWERED, Completion, Record, Sample, Score
from smidgen.errors import ConfigError, DataError
from smidgen.tasks.measures import Measure
from smidgen.tasks.task import Task


class Reason(StrEnum):
    """Why an answer was not kept; for `CONTRADICTORY`, why a sample was not asked at all."""

    CONTRADICTORY = "contradictory gold"
    UNANSWERED = "not answered"
    CUT_OFF = "cut off at max_tokens"
    EMPTY = "empty"
    UNPARSED = "unparsed"
    WRONG = "wrong"
    UNGRADED = "not graded"
    LOW_GRADE = "graded below the threshold"
    DUPLICATE = "duplicate"
    UNTRAINABLE = "does not fit a training row"
    SURPLUS = "more than at_most"
    ALONE = "another prompt of its group has no kept answer"


class Fault(NamedTuple):
    """A reason and its details."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """One answer to a sample.

    Attributes:
        id: that of the sample, with `#2`, `#3` … for further candidates.
        sample: the sample with the target of its row.
        text: the answer.
        finish_reason: as in `Completion`.
        tokens: generated tokens; 0 if they were not counted.
        score: the task's score by the label of the row.
    """

    id: str
    sample: Sample
    text: str
    finish_reason: str
    tokens: int
    score: Score

    @property
    def is_right(self) -> bool:
        """Whether it is right by the label of the row."""
        return self.score.value >= 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the row of a file, which can be replayed as a recording."""
        score = self.score
        return {
            "id": self.id,
            "sample": self.sample.id,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "tokens": self.tokens,
            "score": score.value,
            "answer": score.answer,
            "parsed": score.parsed,
            "explanation": score.explanation,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], sample: Sample) -> "Candidate":
        """Read a row that `to_json` wrote; `sample` is that of the row."""
        score = Score(row["score"], row["answer"], row["parsed"], row["explanation"])
        return cls(row["id"], sample, row["text"], row["finish_reason"], row["tokens"], score)


class Rejected(NamedTuple):
    """An answer that was not kept, and why."""

    candidate: Candidate
    fault: Fault

    def to_json(self) -> dict[str, Any]:
        """Return the row of a file."""
        return {**self.candidate.to_json(), "reason": self.fault.reason, "detail": self.fault.detail}


def repeated(samples: Sequence[Sample], times: int) -> list[Sample]:
    """Return every sample `times` times, each with its own id, which seeds its sampling.

    The first keeps the id of the sample.
    """
    return [
        sample if time == 1 else replace(sample, id=candidate_id(sample.id, time))
        for sample in samples
        for time in range(1, times + 1)
    ]


def check_times(samples: int, temperature: float) -> None:
    """Check how often each sample is asked.

    Raises:
        ConfigError: it is below 1, or above 1 with greedy decoding, where all answers are equal.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ConfigError(f"samples is {samples}; expected an integer of at least 1")
    if samples > 1 and temperature == 0:
        raise ConfigError(
            f"{samples} samples at temperature 0 would all be equal; set a temperature, such as 0.7"
        )


def candidate_id(sample_id: str, time: int) -> str:
    """Return the id of the n-th candidate of a sample."""
    return sample_id if time == 1 else f"{sample_id}#{time}"


def candidates_of(samples: Sequence[Sample], records: Iterable[Record], times: int) -> list[Candidate]:
    """Return all candidates in the order of their samples, from records in any order."""
    by_id = {record.sample.id: record for record in records}
    found = []
    for sample in samples:
        for time in range(1, times + 1):
            record = by_id[candidate_id(sample.id, time)]
            completion, timing = record.completion, record.completion.timing
            tokens = timing.completion_tokens if timing else 0
            reason = completion.finish_reason
            name = record.sample.id
            found.append(Candidate(name, sample, completion.text, reason, tokens, record.score))
    return found


def refuse_clashing_ids(samples: Sequence[Sample], times: int, source: str) -> None:
    """Refuse samples whose candidates would share an id.

    Raises:
        DataError: names one of them.
    """
    counted = Counter(sample.id for sample in repeated(samples, times))
    if clash := next((name for name, number in counted.items() if number > 1), None):
        raise DataError(
            f"{source}: the id '{clash}' belongs to a row and to a further candidate of another one; rename "
            "the ids that end in # and a number"
        )


def contradictory(task: Task, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples whose prompt another sample has too, with a target that is wrong for one of them.

    Which of the labels is right cannot be told, so all samples of such a prompt are returned.
    """
    groups: dict[Any, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.messages, []).append(sample)

    def disagree(one: Sample, other: Sample) -> bool:
        if one.target == other.target:
            return False
        said = ((one, other.target), (other, one.target))
        return any(task.score(sample, Completion(text or "")).value < 1.0 for sample, text in said)

    return [
        sample
        for group in groups.values()
        if len(group) > 1 and any(disagree(group[0], other) for other in group[1:])
        for sample in group
    ]


def by_gold(candidate: Candidate) -> Fault | None:
    """Accept what the task scores as right by the label of the row."""
    score = candidate.score
    if not score.parsed:
        return Fault(Reason.UNPARSED, score.explanation)
    return None if candidate.is_right else Fault(Reason.WRONG, score.answer or "")


def unusable(candidate: Candidate) -> Fault | None:
    """Return why an answer is none, whatever it says; None if it is one."""
    if why := UNANSWERED.get(candidate.finish_reason):
        return Fault(Reason.UNANSWERED, why)
    if candidate.finish_reason == "length":
        return Fault(Reason.CUT_OFF)
    return None if candidate.text.strip() else Fault(Reason.EMPTY)


def keep_best(
    candidates: Sequence[Candidate],
    accept: Callable[[Candidate], Fault | None],
    *,
    fits: Callable[[Sample], str],
    at_most: int,
    prefer: str,
) -> tuple[list[Candidate], list[Rejected]]:
    """Keep at most some answers of each sample.

    Args:
        candidates: of any number of samples.
        accept: returns why an answer is not acceptable, or None.
        fits: returns why a sample cannot be trained on, or an empty text.
        at_most: maximum number per sample.
        prefer: `first`, in the order of the candidates, or `shortest`, by characters.

    Returns:
        The kept answers and the rejected ones, both in the order of the candidates.
    """
    by_sample: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_sample.setdefault(candidate.sample.id, []).append(candidate)
    faults: dict[str, Fault] = {}
    for group in by_sample.values():
        accepted: dict[str, Candidate] = {}
        for candidate in group:
            fault = unusable(candidate) or accept(candidate)
            text = candidate.text.strip()
            if fault is None and (same := accepted.get(text)):
                fault = Fault(Reason.DUPLICATE, same.id)
            if fault is None and (why := fits(taught(candidate))):
                fault = Fault(Reason.UNTRAINABLE, why)
            if fault is not None:
                faults[candidate.id] = fault
                continue
            accepted[text] = candidate
        ranked = list(accepted.values())
        if prefer == "shortest":
            ranked.sort(key=lambda candidate: len(candidate.text))
        faults |= {candidate.id: Fault(Reason.SURPLUS) for candidate in ranked[at_most:]}
    kept = [candidate for candidate in candidates if candidate.id not in faults]
    rejected = [Rejected(each, faults[each.id]) for each in candidates if each.id in faults]
    return kept, rejected


def keep_whole(
    kept: Sequence[Candidate], rejected: Sequence[Rejected], groups: Sequence[Sequence[Sample]]
) -> tuple[list[Candidate], list[Rejected]]:
    """Keep answers only where every prompt of the group has one, as both orders of a pair of answers.

    Args:
        kept: the answers that were kept.
        rejected: the others.
        groups: the samples that belong together.
    """
    answered = {candidate.sample.id for candidate in kept}
    whole = {sample.id for group in groups if all(one.id in answered for one in group) for sample in group}
    left = [Rejected(one, Fault(Reason.ALONE)) for one in kept if one.sample.id not in whole]
    return [one for one in kept if one.sample.id in whole], [*rejected, *left]


def taught(candidate: Candidate) -> Sample:
    """Return the training sample of an answer: the prompt of the task, and the answer as its target.

    White space around the answer is not part of it.
    """
    return replace(candidate.sample, id=candidate.id, target=candidate.text.strip())


def filter_facts(
    candidates: Sequence[Candidate], kept: Sequence[Candidate], rejected: Sequence[Rejected]
) -> dict[str, Any]:
    """Return what the teacher reached on the training rows and what the filter left of it.

    `accuracy` is that of a single answer; `ceiling` the share of samples with at least one right answer
    (pass@k), of which no filter can keep more. `same_as_gold` counts the kept answers that are, word for
    word, the target of their row: on these, the student learns what it would have learnt from the rows.
    """
    best: dict[str, float] = {}
    for candidate in candidates:
        best[candidate.sample.id] = max(best.get(candidate.sample.id, 0.0), float(candidate.is_right))
    clusters = [candidate.sample.id for candidate in candidates]
    reasons = Counter(one.fault.reason.value for one in rejected)
    return {
        "samples": len(best),
        "answers": len(candidates),
        "accuracy": Measure([float(candidate.is_right) for candidate in candidates], clusters),
        "ceiling": Measure(list(best.values()), list(best)),
        "kept": len(kept),
        "kept_samples": len({candidate.sample.id for candidate in kept}),
        "kept_right": sum(candidate.is_right for candidate in kept),
        "same_as_gold": sum(candidate.text.strip() == candidate.sample.target for candidate in kept),
        "rejected": dict(reasons.most_common()),
        "by_label": _by_label(candidates, kept),
    }


def _by_label(candidates: Sequence[Candidate], kept: Sequence[Candidate]) -> dict[str, dict[str, int]] | None:
    """Count asked and kept samples of each target; None if there are none, or most are unique."""
    asked = {candidate.sample.id: candidate.sample.target or "" for candidate in candidates}
    if not any(asked.values()) or 2 * len(set(asked.values())) > len(asked):
        return None
    found = {label: {"asked": 0, "kept": 0} for label in sorted(set(asked.values()))}
    for label in asked.values():
        found[label]["asked"] += 1
    for name in {candidate.sample.id for candidate in kept}:
        found[asked[name]]["kept"] += 1
    return found

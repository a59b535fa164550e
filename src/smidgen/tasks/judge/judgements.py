"""The judgements in evaluation records, and all metrics computed from them.

Records are converted to judgements: one per order in which a pair was shown, or one per pair whose answers
were graded alone. Sides are called `a` and `b` in both orders. Unparsed completions are `None`: they are
wrong, agree with no label, and are counted separately.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.formats import Label
from smidgen.data.types import UNANSWERED, Record, Sample
from smidgen.tasks.judge.forms import JudgeParseError, JudgeTemplate, Verdict
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.measures import Measure, Metric, Statistic

CLASSES: Mapping[Label | None, int] = {"a": 0, "b": 1, "tie": 2, None: 3}
SHOWN = {"ab": ("a", "b"), "ba": ("b", "a")}
ORDERS = tuple(SHOWN)
LABELS: tuple[Label, ...] = ("a", "b", "tie")


@dataclass(frozen=True)
class Judgement:
    """One verdict on one pair.

    Attributes:
        pair: id of the pair.
        order: `ab` or `ba`, or None if the answers were graded alone.
        better: the label.
        verdict: the side that the judge prefers, `tie`, or None if the completion did not parse.
        lenient_verdict: the same by the lenient parser.
        gap: score of `a` minus that of `b`, if the template has scores.
        cluster: the prompt, which several pairs may share.
        longer: characters of `a` minus those of `b`.
        annotators: the label of each annotator.
        facts: fields of the row that its benchmark needs.
        subset: the subset of the benchmark.
    """

    pair: str
    order: str | None
    better: Label
    verdict: Label | None
    lenient_verdict: Label | None
    gap: float | None
    cluster: str
    longer: int
    annotators: tuple[Label, ...]
    facts: Mapping[str, Any]
    subset: str | None

    @property
    def right(self) -> float:
        """1 if the verdict equals the label, else 0."""
        return float(self.verdict == self.better)

    @property
    def preferred_place(self) -> int:
        """1 if the answer shown first was preferred, -1 if the second, 0 if tied or unparsed."""
        if self.order is None or self.verdict not in ("a", "b"):
            return 0
        return 1 if self.order[0] == self.verdict else -1


def read_judgements(records: Sequence[Record], form: JudgeTemplate | Reader) -> list[Judgement]:
    """Parse the judgements in records."""
    return list(_from_grades(records, form) if form.singly else _from_verdicts(records, form))


def side(verdict: Verdict, order: str) -> Label:
    """Return the side that a verdict prefers."""
    first, second = SHOWN[order]
    return {"first": first, "second": second, "tie": "tie"}[verdict.preferred]  # type: ignore[return-value]


def _from_verdicts(records: Sequence[Record], form: JudgeTemplate | Reader) -> Iterator[Judgement]:
    for record in records:
        order = record.sample.metadata["order"]
        strict, lenient = (read_record(parse, record) for parse in (form.parse, form.parse_leniently))
        gap = None
        if strict and strict.first is not None and strict.second is not None:
            gap = (strict.first - strict.second) * (1 if order == "ab" else -1)
        yield _judgement(
            record.sample.metadata,
            order,
            verdict=side(strict, order) if strict else None,
            lenient_verdict=side(lenient, order) if lenient else None,
            gap=gap,
        )


def _from_grades(records: Sequence[Record], form: JudgeTemplate | Reader) -> Iterator[Judgement]:
    """Judgements of pairs whose answers were both graded: the higher grade is preferred."""
    grades = [
        [read_record(parse, record) for record in records] for parse in (form.parse, form.parse_leniently)
    ]
    for facts, a, b in graded_pairs([record.sample for record in records]):
        strict, lenient = (
            None if None in (given[a], given[b]) else Verdict.of_scores(given[a], given[b])
            for given in grades
        )
        yield _judgement(
            facts,
            None,
            verdict=side(strict, "ab") if strict else None,
            lenient_verdict=side(lenient, "ab") if lenient else None,
            gap=strict.first - strict.second if strict else None,  # type: ignore[operator]
        )


def graded_pairs(samples: Sequence[Sample]) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """Find the pairs among samples of answers that are graded alone.

    Yields:
        The metadata of the pair and the indices of its answers `a` and `b`, for each pair that has both.
    """
    places: dict[str, dict[str, int]] = {}
    for place, sample in enumerate(samples):
        for pair in sample.metadata["pairs"]:
            places.setdefault(pair, {})[sample.metadata["answer"]] = place
    for pair, found in places.items():
        if len(found) < 2:
            continue
        a, b = (samples[found[name]].metadata for name in ("a", "b"))
        facts = {**a, "pair": pair, "characters": [a["characters"][0], b["characters"][1]]}
        if "facts" in a:
            facts["facts"] = {**a["facts"], "rejected": b["facts"]["rejected"]}
        yield facts, found["a"], found["b"]


def read_record(parse: Callable[[str], Any], record: Record) -> Any:
    """Parse a record's completion; None if it has no answer or does not parse."""
    if record.completion.finish_reason in UNANSWERED:
        return None
    try:
        return parse(record.completion.text)
    except JudgeParseError:
        return None


def _judgement(facts: Mapping[str, Any], order: str | None, **verdicts: Any) -> Judgement:
    return Judgement(
        pair=facts["pair"],
        order=order,
        better=facts["label"],
        cluster=facts["cluster"],
        longer=facts["characters"][0] - facts["characters"][1],
        annotators=tuple(facts.get("annotators", ())),
        facts=facts.get("facts", {}),
        subset=facts.get("subset"),
        **verdicts,
    )


def both_orders(judgements: Sequence[Judgement]) -> list[tuple[Judgement, Judgement]]:
    """Return the two judgements of every pair that has both orders."""
    by_pair: dict[str, dict[str | None, Judgement]] = {}
    for judgement in judgements:
        by_pair.setdefault(judgement.pair, {})[judgement.order] = judgement
    return [(orders["ab"], orders["ba"]) for orders in by_pair.values() if {"ab", "ba"} <= orders.keys()]


def consistent(pair: tuple[Judgement, Judgement]) -> bool:
    """Whether both orders have the same verdict, ties included; unparsed ones are never consistent."""
    return pair[0].verdict is not None and pair[0].verdict == pair[1].verdict


def measures(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Compute the metrics that apply to these judgements, by name, the most important first."""
    measured = (
        _accuracy_metrics(judgements)
        | _order_metrics(judgements)
        | _format_metrics(judgements)
        | _length_metrics(judgements)
    )
    if any(judgement.better == "tie" for judgement in judgements):
        measured |= _class_metrics(judgements)
    return measured | _annotator_metrics(judgements)


def _mean(judgements: Sequence[Judgement], value: Callable[[Judgement], float]) -> Measure:
    return Measure(
        [float(value(judgement)) for judgement in judgements], [judgement.cluster for judgement in judgements]
    )


def _pair_mean(
    pairs: Sequence[tuple[Judgement, Judgement]], value: Callable[[tuple[Judgement, Judgement]], float]
) -> Measure:
    return Measure([float(value(pair)) for pair in pairs], [pair[0].cluster for pair in pairs])


def _accuracy_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    pairs = both_orders(judgements)
    measured: dict[str, Metric] = {"accuracy": _mean(judgements, lambda judgement: judgement.right)}
    if pairs:
        measured["accuracy_both_orders"] = _pair_mean(pairs, lambda pair: pair[0].right * pair[1].right)
        measured["consistency"] = _pair_mean(pairs, consistent)
    return measured


def _order_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Position rates over decided verdicts, and JudgeLM's biases over pairs: the place that wins overall."""
    pairs = both_orders(judgements)
    if not pairs:
        return {}
    chosen = [judgement for judgement in judgements if judgement.preferred_place]
    lean = [pair[0].preferred_place + pair[1].preferred_place for pair in pairs]
    clusters = [pair[0].cluster for pair in pairs]
    signs = np.sign(lean)
    return {
        "prefer_first_rate": _mean(chosen, lambda judgement: judgement.preferred_place == 1),
        "prefer_second_rate": _mean(chosen, lambda judgement: judgement.preferred_place == -1),
        "delta_bias": Measure(signs.astype(float).tolist(), clusters, absolute=True),
        "total_bias": Measure([float(sign != 0) for sign in signs], clusters),
    }


def _format_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    return {
        "tie_rate": _mean(judgements, lambda judgement: judgement.verdict == "tie"),
        "unparsed_rate": _mean(judgements, lambda judgement: judgement.verdict is None),
        "accuracy_lenient": _mean(
            judgements, lambda judgement: judgement.lenient_verdict == judgement.better
        ),
        "unparsed_rate_lenient": _mean(judgements, lambda judgement: judgement.lenient_verdict is None),
        "accuracy_decided": _mean(
            [judgement for judgement in judgements if judgement.verdict in ("a", "b")],
            lambda judgement: judgement.right,
        ),
    }


def _length_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Accuracy if the longer or the shorter answer is better, and the correlation of scores with length."""
    sided = [judgement for judgement in judgements if judgement.better != "tie" and judgement.longer]
    longer = [j for j in sided if (j.longer > 0) == (j.better == "a")]
    shorter = [j for j in sided if (j.longer > 0) != (j.better == "a")]
    measured: dict[str, Metric] = {
        "accuracy_longer_better": _mean(longer, lambda judgement: judgement.right),
        "accuracy_shorter_better": _mean(shorter, lambda judgement: judgement.right),
    }
    scored = [judgement for judgement in judgements if judgement.gap is not None]
    if scored:
        gaps = np.array([judgement.gap for judgement in scored], float)
        lengths = np.array([judgement.longer for judgement in scored], float)
        measured["length_correlation"] = Statistic(
            lambda weights: _correlation(gaps, lengths, weights), [j.cluster for j in scored]
        )
    return measured


def _class_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Macro precision, recall and F1 over a, b and tie, and Cohen's κ with the label."""
    truth = np.array([CLASSES[judgement.better] for judgement in judgements])
    predicted = np.array([CLASSES[judgement.verdict] for judgement in judgements])
    clusters = [judgement.cluster for judgement in judgements]
    names = ("macro_precision", "macro_recall", "macro_f1")
    measured: dict[str, Metric] = {
        name: Statistic(lambda weights, which=which: macro_scores(truth, predicted, weights)[which], clusters)
        for which, name in enumerate(names)
    }
    return measured | {"kappa": Statistic(lambda weights: kappa(truth, predicted, weights), clusters)}


def _annotator_metrics(judgements: Sequence[Judgement]) -> dict[str, Metric]:
    """Agreement with each annotator, and κ."""
    measured: dict[str, Metric] = {}
    for person in range(max((len(judgement.annotators) for judgement in judgements), default=0)):
        annotated = [judgement for judgement in judgements if len(judgement.annotators) > person]
        truth = np.array([CLASSES[judgement.annotators[person]] for judgement in annotated])
        predicted = np.array([CLASSES[judgement.verdict] for judgement in annotated])
        clusters = [judgement.cluster for judgement in annotated]
        measured[f"agreement_annotator{person + 1}"] = Measure(
            (truth == predicted).astype(float).tolist(), clusters
        )
        measured[f"kappa_annotator{person + 1}"] = Statistic(
            lambda weights, truth=truth, predicted=predicted: kappa(truth, predicted, weights), clusters
        )
    return measured


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum weights by label (rows) and verdict (columns): (4, 4), the last of each for None."""
    size = len(CLASSES)
    return np.bincount(truth * size + predicted, weights, size * size).astype(np.float64).reshape(size, size)


def kappa(truth: NDArray[np.int64], predicted: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Cohen's κ; NaN if the expected agreement is 1."""
    table = confusion(truth, predicted, weights)
    total = table.sum()
    agreed, chance = np.trace(table) / total, table.sum(0) @ table.sum(1) / total**2
    return float((agreed - chance) / (1 - chance)) if chance < 1 else float("nan")


def macro_scores(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Macro precision, recall and F1 over the classes that occur; 0 for a class that was never predicted."""
    table = confusion(truth, predicted, weights)[:, :3]
    hits = np.diag(table)
    support, predictions = confusion(truth, predicted, weights).sum(1)[:3], table.sum(0)
    precision = np.divide(hits, predictions, out=np.zeros(3), where=predictions > 0)
    recall = np.divide(hits, support, out=np.zeros(3), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(3), where=both > 0)
    occurs = (support > 0) | (predictions > 0)
    return tuple(float(scores[occurs].mean()) for scores in (precision, recall, f1))  # type: ignore[return-value]


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted Pearson correlation; NaN if one of the two does not vary."""
    if not weights.sum():
        return float("nan")
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    scale = np.sqrt((weights * x * x).sum() * (weights * y * y).sum())
    return float((weights * x * y).sum() / scale) if scale > 0 else float("nan")

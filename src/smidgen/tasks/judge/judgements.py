"""What a judge said of each pair, and every number that is made of it.

Records are turned into judgements: one for each order in which a pair was shown, or one for each pair whose
answers were graded alone. Sides are named `a` and `b` whatever the order. What did not parse is `None`: it is
wrong, it agrees with nobody, and it is counted apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.formats import Label
from smidgen.data.types import UNANSWERED, Record, Sample
from smidgen.tasks.judge.forms import Form, JudgeParseError, Verdict
from smidgen.tasks.judge.reader import Reader
from smidgen.tasks.task import Measure, Metric, Statistic

CLASSES: Mapping[Label | None, int] = {"a": 0, "b": 1, "tie": 2, None: 3}
SHOWN = {"ab": ("a", "b"), "ba": ("b", "a")}
ORDERS = tuple(SHOWN)
LABELS: tuple[Label, ...] = ("a", "b", "tie")


@dataclass(frozen=True)
class Judgement:
    """One verdict on one pair.

    Attributes:
        pair: id of the pair.
        order: `ab` or `ba`, or None where the answers were graded alone.
        better: the label.
        said: the side the judge prefers, `tie`, or None where the text did not parse.
        leniently: the same with the form forgiven.
        gap: score of `a` less that of `b`, where the form has scores.
        cluster: what the pair shares with others: its prompt.
        longer: characters of `a` less those of `b`.
        annotators: what each person said.
        facts: of the row, for its benchmark.
        subset: of the benchmark.
    """

    pair: str
    order: str | None
    better: Label
    said: Label | None
    leniently: Label | None
    gap: float | None
    cluster: str
    longer: int
    annotators: tuple[Label, ...]
    facts: Mapping[str, Any]
    subset: str | None

    @property
    def right(self) -> float:
        """1 where the judge says what the label says."""
        return float(self.said == self.better)

    @property
    def preferred_place(self) -> int:
        """1 if the answer shown first was preferred, -1 if the second, 0 for a tie or what did not parse."""
        if self.order is None or self.said not in ("a", "b"):
            return 0
        return 1 if self.order[0] == self.said else -1


def judgements(records: Sequence[Record], form: Form | Reader) -> list[Judgement]:
    """What the records say, in their order."""
    return list(_of_grades(records, form) if form.singly else _of_verdicts(records, form))


def side(verdict: Verdict, order: str) -> Label:
    """The side that a verdict prefers."""
    first, second = SHOWN[order]
    return {"first": first, "second": second, "tie": "tie"}[verdict.preferred]  # type: ignore[return-value]


def _of_verdicts(records: Sequence[Record], form: Form | Reader) -> Iterator[Judgement]:
    for record in records:
        order = record.sample.metadata["order"]
        strict, lenient = (read_record(parse, record) for parse in (form.parse, form.parse_leniently))
        gap = None
        if strict and strict.first is not None and strict.second is not None:
            gap = (strict.first - strict.second) * (1 if order == "ab" else -1)
        yield _judgement(
            record.sample.metadata,
            order,
            said=side(strict, order) if strict else None,
            leniently=side(lenient, order) if lenient else None,
            gap=gap,
        )


def _of_grades(records: Sequence[Record], form: Form | Reader) -> Iterator[Judgement]:
    """Pairs whose two answers were both graded: the higher grade is preferred."""
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
            said=side(strict, "ab") if strict else None,
            leniently=side(lenient, "ab") if lenient else None,
            gap=strict.first - strict.second if strict else None,  # type: ignore[operator]
        )


def graded_pairs(samples: Sequence[Sample]) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """The pairs among answers that are graded alone.

    Yields:
        What is known of the pair, and the positions of its answers `a` and `b`, for each pair that has both.
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
    """What a completion says, or None."""
    if record.completion.finish_reason in UNANSWERED:
        return None
    try:
        return parse(record.completion.text)
    except JudgeParseError:
        return None


def _judgement(facts: Mapping[str, Any], order: str | None, **said: Any) -> Judgement:
    return Judgement(
        pair=facts["pair"],
        order=order,
        better=facts["label"],
        cluster=facts["cluster"],
        longer=facts["characters"][0] - facts["characters"][1],
        annotators=tuple(facts.get("annotators", ())),
        facts=facts.get("facts", {}),
        subset=facts.get("subset"),
        **said,
    )


def both_orders(found: Sequence[Judgement]) -> list[tuple[Judgement, Judgement]]:
    """The two orders of every pair that has both."""
    by_pair: dict[str, dict[str | None, Judgement]] = {}
    for judgement in found:
        by_pair.setdefault(judgement.pair, {})[judgement.order] = judgement
    return [(orders["ab"], orders["ba"]) for orders in by_pair.values() if {"ab", "ba"} <= orders.keys()]


def consistent(pair: tuple[Judgement, Judgement]) -> bool:
    """Whether both orders give the same answer, a tie included; two failures give none."""
    return pair[0].said is not None and pair[0].said == pair[1].said


def measures(found: Sequence[Judgement]) -> dict[str, Metric]:
    """The metrics by name, the most important first; only those that these judgements can have."""
    measured = _about_right(found) | _about_order(found) | _about_form(found) | _about_length(found)
    if any(judgement.better == "tie" for judgement in found):
        measured |= _about_classes(found)
    return measured | _about_people(found)


def _mean(found: Sequence[Judgement], value: Callable[[Judgement], float]) -> Measure:
    return Measure(
        [float(value(judgement)) for judgement in found], [judgement.cluster for judgement in found]
    )


def _pair_mean(
    pairs: Sequence[tuple[Judgement, Judgement]], value: Callable[[tuple[Judgement, Judgement]], float]
) -> Measure:
    return Measure([float(value(pair)) for pair in pairs], [pair[0].cluster for pair in pairs])


def _about_right(found: Sequence[Judgement]) -> dict[str, Metric]:
    pairs = both_orders(found)
    measured: dict[str, Metric] = {"accuracy": _mean(found, lambda judgement: judgement.right)}
    if pairs:
        measured["accuracy_both_orders"] = _pair_mean(pairs, lambda pair: pair[0].right * pair[1].right)
        measured["consistency"] = _pair_mean(pairs, consistent)
    return measured


def _about_order(found: Sequence[Judgement]) -> dict[str, Metric]:
    """Rates over verdicts that choose; over pairs, the bias of JudgeLM: which place wins in both orders."""
    pairs = both_orders(found)
    if not pairs:
        return {}
    chosen = [judgement for judgement in found if judgement.preferred_place]
    lean = [pair[0].preferred_place + pair[1].preferred_place for pair in pairs]
    clusters = [pair[0].cluster for pair in pairs]
    signs = np.sign(lean)
    return {
        "prefer_first_rate": _mean(chosen, lambda judgement: judgement.preferred_place == 1),
        "prefer_second_rate": _mean(chosen, lambda judgement: judgement.preferred_place == -1),
        "delta_bias": Measure(signs.astype(float).tolist(), clusters, absolute=True),
        "total_bias": Measure([float(sign != 0) for sign in signs], clusters),
    }


def _about_form(found: Sequence[Judgement]) -> dict[str, Metric]:
    return {
        "tie_rate": _mean(found, lambda judgement: judgement.said == "tie"),
        "unparsed_rate": _mean(found, lambda judgement: judgement.said is None),
        "accuracy_lenient": _mean(found, lambda judgement: judgement.leniently == judgement.better),
        "unparsed_rate_lenient": _mean(found, lambda judgement: judgement.leniently is None),
        "accuracy_decided": _mean(
            [judgement for judgement in found if judgement.said in ("a", "b")],
            lambda judgement: judgement.right,
        ),
    }


def _about_length(found: Sequence[Judgement]) -> dict[str, Metric]:
    """Accuracy where the better answer is the longer or the shorter one, and whether scores follow length."""
    sided = [judgement for judgement in found if judgement.better != "tie" and judgement.longer]
    longer = [j for j in sided if (j.longer > 0) == (j.better == "a")]
    shorter = [j for j in sided if (j.longer > 0) != (j.better == "a")]
    measured: dict[str, Metric] = {
        "accuracy_longer_better": _mean(longer, lambda judgement: judgement.right),
        "accuracy_shorter_better": _mean(shorter, lambda judgement: judgement.right),
    }
    scored = [judgement for judgement in found if judgement.gap is not None]
    if scored:
        gaps = np.array([judgement.gap for judgement in scored], float)
        lengths = np.array([judgement.longer for judgement in scored], float)
        measured["length_correlation"] = Statistic(
            lambda weights: _correlation(gaps, lengths, weights), [j.cluster for j in scored]
        )
    return measured


def _about_classes(found: Sequence[Judgement]) -> dict[str, Metric]:
    """Macro precision, recall and F1 over a, b and tie, and Cohen's κ with the label."""
    truth = np.array([CLASSES[judgement.better] for judgement in found])
    said = np.array([CLASSES[judgement.said] for judgement in found])
    clusters = [judgement.cluster for judgement in found]
    names = ("macro_precision", "macro_recall", "macro_f1")
    measured: dict[str, Metric] = {
        name: Statistic(lambda weights, which=which: macro_scores(truth, said, weights)[which], clusters)
        for which, name in enumerate(names)
    }
    return measured | {"kappa": Statistic(lambda weights: kappa(truth, said, weights), clusters)}


def _about_people(found: Sequence[Judgement]) -> dict[str, Metric]:
    """Agreement with each annotator, and κ."""
    measured: dict[str, Metric] = {}
    for person in range(max((len(judgement.annotators) for judgement in found), default=0)):
        asked = [judgement for judgement in found if len(judgement.annotators) > person]
        truth = np.array([CLASSES[judgement.annotators[person]] for judgement in asked])
        said = np.array([CLASSES[judgement.said] for judgement in asked])
        clusters = [judgement.cluster for judgement in asked]
        measured[f"agreement_annotator{person + 1}"] = Measure(
            (truth == said).astype(float).tolist(), clusters
        )
        measured[f"kappa_annotator{person + 1}"] = Statistic(
            lambda weights, truth=truth, said=said: kappa(truth, said, weights), clusters
        )
    return measured


def confusion(
    truth: NDArray[np.int64], said: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights by label (rows) and verdict (columns): (4, 4), the last of each for None."""
    size = len(CLASSES)
    return np.bincount(truth * size + said, weights, size * size).astype(np.float64).reshape(size, size)


def kappa(truth: NDArray[np.int64], said: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """Cohen's κ; NaN where chance alone agrees always."""
    table = confusion(truth, said, weights)
    total = table.sum()
    agreed, chance = np.trace(table) / total, table.sum(0) @ table.sum(1) / total**2
    return float((agreed - chance) / (1 - chance)) if chance < 1 else float("nan")


def macro_scores(
    truth: NDArray[np.int64], said: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Macro precision, recall and F1 over the classes that occur; 0 where a class was never said."""
    table = confusion(truth, said, weights)[:, :3]
    hits = np.diag(table)
    labelled, predicted = confusion(truth, said, weights).sum(1)[:3], table.sum(0)
    precision = np.divide(hits, predicted, out=np.zeros(3), where=predicted > 0)
    recall = np.divide(hits, labelled, out=np.zeros(3), where=labelled > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(3), where=both > 0)
    occurs = (labelled > 0) | (predicted > 0)
    return tuple(float(scores[occurs].mean()) for scores in (precision, recall, f1))  # type: ignore[return-value]


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN where one of the two does not vary."""
    if not weights.sum():
        return float("nan")
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    scale = np.sqrt((weights * x * x).sum() * (weights * y * y).sum())
    return float((weights * x * y).sum() / scale) if scale > 0 else float("nan")

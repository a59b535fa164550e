"""Text of a report: metric names, the headline, and remarks on what the results do and do not show."""

from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.figures.formatting import (
    PERCENT,
    count,
    dig,
    finite,
    interval,
    p_value,
    percent,
    points,
    points_interval,
    table_at,
)
from smidgen.tasks import task_class
from smidgen.tasks.words import TaskWords

SIGNIFICANT = 0.05
"""Two-sided p-value below which a paired difference counts as significant."""
MOSTLY_UNREADABLE = 0.5
"""From this unparsed rate on, the headline begins with the format, since it decides the accuracy."""


def words_of(report: Mapping[str, Any]) -> TaskWords:
    """Return the words for the report's task."""
    return task_class(str(report.get("task"))).words


def headline_metric(report: Mapping[str, Any]) -> str:
    """Return the name of the most important metric: the first of the evaluation."""
    return next(iter(table_at(report, "after", "metrics")), "accuracy")


def headline_noun(report: Mapping[str, Any]) -> str:
    """Return the most important metric as in a sentence: `accuracy`, `macro F1`."""
    if (name := headline_metric(report)) == "accuracy":
        return name
    label = words_of(report).metric(name).label
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def headline(report: Mapping[str, Any]) -> str:
    """Return the main result in one sentence that claims no more than its interval supports."""
    accuracy = table_at(report, "after", "metrics", headline_metric(report))
    value = finite(accuracy.get("value"))
    if value is None:
        return _headline_without_evaluation(report)
    chance, words = words_of(report).chance, words_of(report).claim
    subject = f"The trained {words.noun}" if "training" in report else f"The {words.noun}"
    result = f"{words.does} {percent(value)} of {words.things}"
    if headline_metric(report) != "accuracy":
        result = f"reaches {percent(value)} {headline_noun(report)}"
    span, asked, base = interval(accuracy), _evaluated_rows(report), _base_model(report)
    unparsed = finite(dig(report, "after", "metrics", "unparsed_rate", "value")) or 0.0
    if unparsed >= MOSTLY_UNREADABLE:
        answers = f"{percent(unparsed)} of its answers are unreadable and count as wrong"
        claim = f"{subject} does not follow the answer format: {answers}"
        claim += f". On {asked} it {result} ({span})"
    elif finite(accuracy.get("low")) is None:
        claim = f"{subject} {result} on {asked}, too few for an interval"
    elif chance is not None and (finite(accuracy.get("low")) or 0.0) <= chance:
        worse = (finite(accuracy.get("high")) or 1.0) < chance
        verdict = "is worse than guessing" if worse else "is not distinguishable from guessing"
        relation = "lies below" if worse else "contains"
        reason = f"the 95{PERCENT} interval, {span}, {relation} {100 * chance:g}{PERCENT}"
        claim = f"{subject} {verdict}: on {asked} it {result}, and {reason}"
    else:
        claim = f"{subject} {result} (95{PERCENT} interval {span}) on {asked}"
    return f"{claim}; {base}." if base else f"{claim}."


def _headline_without_evaluation(report: Mapping[str, Any]) -> str:
    """Return the headline of a report without an evaluation."""
    steps = finite(dig(report, "training", "steps"))
    if steps is None:
        return "Nothing was evaluated."
    return f"Trained for {count(steps)} steps; the trained model was not evaluated."


def _evaluated_rows(report: Mapping[str, Any]) -> str:
    """Describe the evaluated rows: `240 held-out pairs asked in both orders`."""
    if (words := task_class(str(report.get("task"))).asked(report)) is not None:
        return words
    things = words_of(report).claim.asked
    return f"{count(dig(report, 'after', 'n'))} {f'held-out {things}' if 'training' in report else things}"


def _base_model(report: Mapping[str, Any]) -> str:
    """Return the base model's best accuracy as a clause, with the reason if most answers are unreadable."""
    best = table_at(report, "best_base")
    metrics = table_at(report, str(best.get("name") or "before"), "metrics")
    value = finite(dig(metrics, headline_metric(report), "value"))
    if value is None:
        return ""
    unparsed = finite(dig(metrics, "unparsed_rate", "value")) or 0.0
    why = f", with {percent(unparsed)} of its answers unreadable" if unparsed >= MOSTLY_UNREADABLE else ""
    return f"the {best.get('description') or 'base model'}: {percent(value)}{why}"


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Return the sentences under the headline: gains, baselines, bias, and the effect of quantising."""
    if finite(dig(report, "after", "metrics", headline_metric(report), "value")) is None:
        return []
    own = task_class(str(report.get("task"))).remarks(report)
    found = [_gain(report), *_unbeaten_baselines(report), *own, _unreadable(report), _quantised(report)]
    return [sentence for sentence in found if sentence]


def _gain(report: Mapping[str, Any]) -> str:
    """Describe the effect of training on the headline metric, from the base model at its best."""
    best = table_at(report, "best_base")
    comparison = table_at(report, "comparisons", f"after_vs_{best.get('name') or 'before'}")
    p, difference = finite(comparison.get("p_value")), comparison.get("difference")
    value, metric = finite(dig(difference, "value")), headline_noun(report)
    if p is None or value is None:
        return ""
    if p >= SIGNIFICANT:
        unchanged = f"On these rows, training did not change the {metric} significantly"
        return f"{unchanged} (p = {p_value(p)}){_against(best)}."
    return (
        f"Training changed the {metric} by {points(difference)} "
        f"(95{PERCENT} interval {points_interval(difference)}) on the same rows{_against(best)}."
    )


def _against(best: Mapping[str, Any]) -> str:
    """Name the base evaluation that training is compared with, if there are several."""
    ways = finite(best.get("ways")) or 1
    if ways < 2:
        return ""
    return f", compared with the {best.get('description')}, the best of {count(ways)} ways to ask the base"


def _unbeaten_baselines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every baseline that is not below the interval of the accuracy."""
    words = words_of(report)
    low = finite(dig(report, "after", "metrics", "accuracy", "low"))
    for name, baseline in table_at(report, "after", "baselines").items():
        value = finite(dig(baseline, "value"))
        chance = words.chance is not None and (value == words.chance or name == "random")
        if low is not None and value is not None and value >= low and not chance:
            scores = f"which scores {percent(value)} on these rows"
            yield f"It is not significantly better than the baseline “{words.baseline(name)}”, {scores}."


def _unreadable(report: Mapping[str, Any]) -> str:
    """Describe the unparsed answers, unless the headline does."""
    unparsed = finite(dig(report, "after", "metrics", "unparsed_rate", "value")) or 0.0
    if not 0 < unparsed < MOSTLY_UNREADABLE:
        return ""
    sentence = f"{percent(unparsed)} of its answers are unreadable and count as wrong."
    decided = table_at(report, "after", "metrics", "accuracy_decided")
    low, high = finite(decided.get("low")), finite(decided.get("high"))
    if low is None or high is None or not low <= 0.5 <= high:
        return sentence
    right = f"{percent(decided['value'])} ({interval(decided)}) are right"
    return f"{sentence} Of its other verdicts, {right}, which is not distinguishable from guessing."


def _quantised(report: Mapping[str, Any]) -> str:
    """Describe the accuracy of the quantised model, and whether it differs from the trained one."""
    accuracy = table_at(report, "quantized", "metrics", headline_metric(report))
    if finite(accuracy.get("value")) is None:
        return ""
    summary = dig(report, "quantize", "summary")
    name = f"Quantised to {summary}" if summary else "Quantised"
    sentence = f"{name}, it scores {percent(accuracy['value'])} ({interval(accuracy)})"
    p = finite(dig(report, "comparisons", "quantized_vs_after", "p_value"))
    if p is None:
        return sentence + "."
    if p >= SIGNIFICANT:
        return f"{sentence}; the difference from the full-precision model is not significant."
    change = finite(dig(report, "comparisons", "quantized_vs_after", "difference", "value")) or 0.0
    return f"{sentence}: quantising {'gained' if change > 0 else 'cost'} {100 * abs(change):.1f} points."

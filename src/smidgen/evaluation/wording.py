"""The words of a report: what metrics are called, and sentences for what was shown and what was not."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from smidgen.evaluation.formatting import (
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

SIGNIFICANT = 0.05
"""Two-sided level below which a paired difference is called one."""
MOSTLY_UNREADABLE = 0.5
"""From this unparsed rate on, the headline speaks of the format first: the accuracy says little else."""


class MetricWords(NamedTuple):
    """How a metric is named and explained in a line; the arrow points to where it is better."""

    label: str
    meaning: str = ""
    arrow: str = ""


_JUDGE = {
    "accuracy": MetricWords("Accuracy", "better answer picked, over all judgements", "↑"),
    "accuracy_both_orders": MetricWords("Right in both orders", "whichever answer came first", "↑"),
    "consistency": MetricWords("Swap consistency", "same verdict after swapping the answers", "↑"),
    "prefer_first_rate": MetricWords("Prefers the first", "an unbiased judge: 50" + PERCENT),
    "prefer_second_rate": MetricWords("Prefers the second", "an unbiased judge: 50" + PERCENT),
    "delta_bias": MetricWords("Position bias, net", "pairs leaning to one place more than the other", "↓"),
    "total_bias": MetricWords("Position bias, total", "pairs leaning to either place", "↓"),
    "tie_rate": MetricWords("Ties", "neither answer chosen"),
    "unparsed_rate": MetricWords("Unreadable", "did not parse; counted as wrong", "↓"),
    "unparsed_rate_lenient": MetricWords("Unreadable, form forgiven", "nothing like a verdict in it", "↓"),
    "accuracy_lenient": MetricWords("Accuracy, form forgiven", "read even where the form is broken", "↑"),
    "accuracy_longer_better": MetricWords(
        "Accuracy, longer is better", "the better answer has more text", "↑"
    ),
    "accuracy_shorter_better": MetricWords("Accuracy, shorter is better", "the better answer has less", "↑"),
    "length_correlation": MetricWords("Score gap with length gap", "correlation; an unbiased judge: near 0"),
    "macro_precision": MetricWords("Macro precision", "a, b and tie weigh the same", "↑"),
    "macro_recall": MetricWords("Macro recall", "a, b and tie weigh the same", "↑"),
    "macro_f1": MetricWords("Macro F1", "a, b and tie weigh the same", "↑"),
    "kappa": MetricWords("Cohen's κ", "agreement with the label beyond chance", "↑"),
    "accuracy_decided": MetricWords("Accuracy, where decided", "of the verdicts that choose an answer", "↑"),
}
_INTENT = {
    "accuracy": MetricWords("Accuracy", "intent named right", "↑"),
    "in_scope_accuracy": MetricWords("In-scope accuracy", "queries that have an intent", "↑"),
    "macro_f1": MetricWords("Macro F1", "every intent weighs the same", "↑"),
    "oos_recall": MetricWords("Out-of-scope recall", "queries without an intent, recognised", "↑"),
    "unparsed_rate": MetricWords("Unreadable", "did not parse; counted as wrong", "↓"),
}


class ClaimWords(NamedTuple):
    """`The {noun} {does} 87 % of {things}`; `asked` are the rows."""

    noun: str
    does: str
    things: str
    asked: str


_CLAIMS = {
    "judge": ClaimWords("judge", "picks the better answer in", "judgements", "pairs"),
    "intent": ClaimWords("model", "names the right intent for", "queries", "queries"),
}
_CLAIM = ClaimWords("model", "answers right", "questions", "questions")
METRIC_WORDS = {"judge": _JUDGE, "intent": _INTENT}
_BASELINES = {
    "longer": "always the longer answer",
    "longer_without_ties": "always the longer answer, ties left out",
    "first": "always the first answer",
    "random": "a coin",
    "most_frequent": "the commonest intent",
}


def metric_words(task: str, name: str) -> MetricWords:
    """The words for a metric; a name nobody described is spelt out."""
    return METRIC_WORDS.get(task, {}).get(name) or MetricWords(_spelt(name).capitalize())


def baseline_words(name: str) -> str:
    """What a baseline does."""
    return _BASELINES.get(name) or _spelt(name)


def _spelt(name: str) -> str:
    return name.replace("_", " ").strip()


def headline(report: Mapping[str, Any]) -> str:
    """What the evaluation shows, in one sentence, never more than its interval allows."""
    accuracy = table_at(report, "after", "metrics", "accuracy")
    value = finite(accuracy.get("value"))
    if value is None:
        return _untested(report)
    judge = report.get("task") == "judge"
    words = _CLAIMS.get(str(report.get("task")), _CLAIM)
    subject = f"The trained {words.noun}" if "training" in report else f"The {words.noun}"
    result = f"{words.does} {percent(value)} of {words.things}"
    span, asked, base = interval(accuracy), _asked(report), _base_model(report)
    unparsed = finite(dig(report, "after", "metrics", "unparsed_rate", "value")) or 0.0
    if unparsed >= MOSTLY_UNREADABLE:
        answers = f"{percent(unparsed)} of its answers cannot be read, and those count as wrong"
        claim = f"{subject} does not answer in the form it was asked for: {answers}"
        claim += f". On {asked} it {result} ({span})"
    elif finite(accuracy.get("low")) is None:
        claim = f"{subject} {result} on {asked}, too few for an interval"
    elif judge and (finite(accuracy.get("low")) or 0.0) <= 0.5:
        worse = (finite(accuracy.get("high")) or 1.0) < 0.5
        verdict = "does worse than guessing" if worse else "cannot be told from guessing"
        reason = f"the 95{PERCENT} interval, {span}, {'lies below' if worse else 'contains'} 50{PERCENT}"
        claim = f"{subject} {verdict}: on {asked} it {result}, and {reason}"
    else:
        claim = f"{subject} {result} (95{PERCENT} interval {span}) on {asked}"
    return f"{claim}; {base}." if base else f"{claim}."


def _untested(report: Mapping[str, Any]) -> str:
    """The headline where nothing was evaluated after training."""
    steps = finite(dig(report, "training", "steps"))
    if steps is None:
        return "Nothing was evaluated, so nothing is shown."
    return (
        f"Trained for {count(steps)} steps; nothing was evaluated, so nothing is shown about what it can do."
    )


def _asked(report: Mapping[str, Any]) -> str:
    """What the accuracy was measured on: `240 held-out pairs asked in both orders`."""
    asked = dig(report, "after", "n")
    things = _CLAIMS.get(str(report.get("task")), _CLAIM).asked
    held_out = f"held-out {things}" if "training" in report else things
    if report.get("task") != "judge":
        return f"{count(asked)} {held_out}"
    if dig(report, "after", "graded_alone"):
        pairs = dig(report, "after", "metrics", "accuracy", "n")
        return f"{count(pairs)} {held_out} with each answer graded alone"
    pairs = dig(report, "after", "metrics", "accuracy_both_orders", "n") or dig(report, "data", "test_rows")
    if pairs is None and finite(asked) is not None:
        pairs = asked // 2
    return f"{count(pairs)} {held_out} asked in both orders"


def _base_model(report: Mapping[str, Any]) -> str:
    """The base model's accuracy as a clause, with the reason where it is a matter of form."""
    metrics = table_at(report, "before", "metrics")
    value = finite(dig(metrics, "accuracy", "value"))
    if value is None:
        return ""
    unparsed = finite(dig(metrics, "unparsed_rate", "value")) or 0.0
    why = f", with {percent(unparsed)} of its answers unreadable" if unparsed >= MOSTLY_UNREADABLE else ""
    return f"the base model: {percent(value)}{why}"


def remarks(report: Mapping[str, Any]) -> list[str]:
    """The sentences under the headline: what it beats, what quantising cost, which way it leans."""
    if finite(dig(report, "after", "metrics", "accuracy", "value")) is None:
        return []
    found = [_gain(report), *_beaten(report), _lean(report), _unreadable(report), _quantised(report)]
    return [sentence for sentence in found if sentence]


def _gain(report: Mapping[str, Any]) -> str:
    """Whether training changed the accuracy on the same rows."""
    comparison = table_at(report, "comparisons", "after_vs_before")
    p, difference = finite(comparison.get("p_value")), comparison.get("difference")
    value = finite(dig(difference, "value"))
    if p is None or value is None:
        return ""
    if p >= SIGNIFICANT:
        return f"On these rows, training made no difference that can be told from chance (p = {p_value(p)})."
    return (
        f"Training changed the accuracy by {points(difference)} "
        f"(95{PERCENT} interval {points_interval(difference)}) on the same rows."
    )


def _beaten(report: Mapping[str, Any]) -> Iterator[str]:
    """Every baseline that reaches into the interval of the accuracy, or past it."""
    low = finite(dig(report, "after", "metrics", "accuracy", "low"))
    for name, baseline in table_at(report, "after", "baselines").items():
        value = finite(dig(baseline, "value"))
        chance = report.get("task") == "judge" and (value == 0.5 or name == "random")
        if low is not None and value is not None and value >= low and not chance:
            scores = f"which scores {percent(value)} on these rows"
            yield f"It is not shown to beat “{baseline_words(name)}”, {scores}."


def _lean(report: Mapping[str, Any]) -> str:
    """The position bias of the trained judge, where its interval leaves out 50 %."""
    rate = table_at(report, "after", "metrics", "prefer_first_rate")
    low, high = finite(rate.get("low")), finite(rate.get("high"))
    if low is None or high is None or low <= 0.5 <= high:
        return ""
    where = "first" if low > 0.5 else "second"
    share = finite(rate.get("value")) or 0.0
    share = share if where == "first" else 1 - share
    return f"It leans towards the answer shown {where}: {percent(share)} of its verdicts."


def _unreadable(report: Mapping[str, Any]) -> str:
    """How many answers did not parse, where the headline has not said so."""
    unparsed = finite(dig(report, "after", "metrics", "unparsed_rate", "value")) or 0.0
    if not 0 < unparsed < MOSTLY_UNREADABLE:
        return ""
    sentence = f"{percent(unparsed)} of its answers cannot be read; they count as wrong."
    decided = table_at(report, "after", "metrics", "accuracy_decided")
    low, high = finite(decided.get("low")), finite(decided.get("high"))
    if low is None or high is None or not low <= 0.5 <= high:
        return sentence
    right = f"{percent(decided['value'])} ({interval(decided)}) are right"
    return f"{sentence} Of the verdicts it gives, {right}: that cannot be told from guessing."


def _quantised(report: Mapping[str, Any]) -> str:
    """What the artefact that ships scores, and whether quantising cost anything that can be seen."""
    accuracy = table_at(report, "quantized", "metrics", "accuracy")
    if finite(accuracy.get("value")) is None:
        return ""
    summary = dig(report, "quantize", "summary")
    name = f"Quantised to {summary}" if summary else "Quantised"
    sentence = f"{name}, it scores {percent(accuracy['value'])} ({interval(accuracy)})"
    p = finite(dig(report, "comparisons", "quantized_vs_after", "p_value"))
    if p is None:
        return sentence + "."
    if p >= SIGNIFICANT:
        return f"{sentence}; a difference from the full weights cannot be told from chance."
    change = finite(dig(report, "comparisons", "quantized_vs_after", "difference", "value")) or 0.0
    return f"{sentence}: quantising {'gained' if change > 0 else 'cost'} {100 * abs(change):.1f} points."

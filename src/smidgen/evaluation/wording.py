"""The words and numbers of a report: formats, and the sentences that say what was shown and what was not.

A report is read from JSON that may lack any part of itself, so every format takes whatever `dig` found and answers
with a dash where there is no number.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

ABSENT = "—"
PERCENT = "\N{NARROW NO-BREAK SPACE}%"
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
    "accuracy": MetricWords("Accuracy", "better answer picked, mean over both orders", "↑"),
    "accuracy_both_orders": MetricWords("Right in both orders", "whichever answer came first", "↑"),
    "consistency": MetricWords("Swap consistency", "same verdict after swapping the answers", "↑"),
    "prefer_first_rate": MetricWords("Prefers the first", "an unbiased judge: 50" + PERCENT),
    "tie_rate": MetricWords("Ties", "neither answer chosen"),
    "unparsed_rate": MetricWords("Unreadable", "did not parse; counted as wrong", "↓"),
    "accuracy_lenient": MetricWords("Accuracy, form forgiven", "read even where the form is broken", "↑"),
}
_INTENT = {
    "accuracy": MetricWords("Accuracy", "intent named right", "↑"),
    "in_scope_accuracy": MetricWords("In-scope accuracy", "queries that have an intent", "↑"),
    "macro_f1": MetricWords("Macro F1", "every intent weighs the same", "↑"),
    "oos_recall": MetricWords("Out-of-scope recall", "queries without an intent, recognised", "↑"),
    "unparsed_rate": MetricWords("Unreadable", "did not parse; counted as wrong", "↓"),
}
METRIC_WORDS = {"judge": _JUDGE, "intent": _INTENT}
_BASELINES = {
    "longer": "always the longer answer",
    "first": "always the first answer",
    "most_frequent": "always the commonest intent",
}


def metric_words(task: str, name: str) -> MetricWords:
    """The words for a metric; a name nobody described is spelt out."""
    return METRIC_WORDS.get(task, {}).get(name) or MetricWords(_spelt(name).capitalize())


def baseline_words(name: str) -> str:
    """What a baseline does."""
    return _BASELINES.get(name) or _spelt(name)


def _spelt(name: str) -> str:
    return name.replace("_", " ").strip()


def dig(table: Any, *keys: str) -> Any:
    """The value under nested keys, or None where any of them is missing."""
    for key in keys:
        if not isinstance(table, Mapping):
            return None
        table = table.get(key)
    return table


def table_at(table: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping under nested keys, or an empty one."""
    found = dig(table, *keys)
    return found if isinstance(found, Mapping) else {}


def rows_at(table: Any, *keys: str) -> list[Mapping[str, Any]]:
    """The mappings in the list under nested keys, or an empty list."""
    found = dig(table, *keys)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list | tuple) else []


def finite(value: Any) -> float | None:
    """`value` as a float, or None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _figures(value: float) -> str:
    """A share in percent to one decimal, never as 0 or 100 unless it is exactly that."""
    text = f"{100 * value:.1f}"
    if text == "100.0" and value < 1:
        return ">99.9"
    return "<0.1" if text == "0.0" and value > 0 else text


def percent(value: Any) -> str:
    """A share as a percentage: 0.9125 → `91.2 %`."""
    share = finite(value)
    return ABSENT if share is None else _figures(share) + PERCENT


def interval(metric: Any) -> str:
    """The 95 % interval of a metric: `88.1–94.0 %`."""
    low, high = finite(dig(metric, "low")), finite(dig(metric, "high"))
    return ABSENT if low is None or high is None else f"{_figures(low)}–{_figures(high)}{PERCENT}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def points(difference: Any) -> str:
    """A difference of two shares in percentage points: 0.031 → `+3.1 points`."""
    value = finite(dig(difference, "value"))
    return ABSENT if value is None else f"{_signed(value)}\N{NO-BREAK SPACE}points"


def points_interval(difference: Any) -> str:
    """The 95 % interval of a difference: `+1.2 to +5.0`."""
    low, high = finite(dig(difference, "low")), finite(dig(difference, "high"))
    return ABSENT if low is None or high is None else f"{_signed(low)} to {_signed(high)}"


def p_value(value: Any) -> str:
    """A p-value to the precision that means something."""
    p = finite(value)
    if p is None:
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(value: Any) -> str:
    """A whole number with thousands separated: 1500 → `1,500`."""
    number = finite(value)
    return ABSENT if number is None else f"{number:,.0f}"


def quantity(value: Any) -> str:
    """A measured number to three figures: 0.0312, 4.71, 1,240."""
    number = finite(value)
    if number is None:
        return ABSENT
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def seconds(value: Any) -> str:
    """A duration in the two units that suit it: `42 ms`, `8.1 s`, `12 min 5 s`, `3 h 20 min`."""
    duration = finite(value)
    if duration is None:
        return ABSENT
    if duration < 1:
        return f"{1000 * duration:.3g} ms"
    if duration < 59.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: Any) -> str:
    """Bytes in decimal units: 12_300_000 → `12.3 MB`."""
    number = finite(value)
    if number is None:
        return ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def parameters(value: Any) -> str:
    """A number of parameters: 3_412_000 → `3.41 M`."""
    number = finite(value)
    if number is None:
        return ABSENT
    for unit in ("", " k", " M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} B"


def moment(value: Any) -> str:
    """An ISO time for reading: `21 November 2026, 14:03 UTC`; what is no time is left as it is."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return str(value) if value else ABSENT
    return f"{time.day} {time:%B %Y}, {time:%H:%M %Z}".rstrip()


def headline(report: Mapping[str, Any]) -> str:
    """What the evaluation shows, in one sentence, never more than its interval allows."""
    accuracy = table_at(report, "after", "metrics", "accuracy")
    value = finite(accuracy.get("value"))
    if value is None:
        return _untested(report)
    judge = report.get("task") == "judge"
    subject = "The trained judge" if judge else "The trained model"
    does = "picks the better answer in" if judge else "names the right intent for"
    result = f"{does} {percent(value)} of {'judgements' if judge else 'queries'}"
    span = interval(accuracy)
    trial = "; ".join(part for part in (f"on {_asked(report)}", _base_model(report)) if part)
    unparsed = finite(dig(report, "after", "metrics", "unparsed_rate", "value")) or 0.0
    if unparsed >= MOSTLY_UNREADABLE:
        answers = f"{percent(unparsed)} of its answers cannot be read, and those count as wrong"
        return f"{subject} does not answer in the form it was asked for: {answers}. It {result} ({span}) {trial}."
    low, high = finite(accuracy.get("low")), finite(accuracy.get("high"))
    if judge and low is not None and high is not None and low <= 0.5:
        verdict = "does worse than guessing" if high < 0.5 else "cannot be told from guessing"
        place = "lies below" if high < 0.5 else "contains"
        reason = f"the 95{PERCENT} interval, {span}, {place} 50{PERCENT}"
        return f"{subject} {verdict}: it {result}, and {reason}; {trial}."
    return f"{subject} {result} (95{PERCENT} interval {span}) {trial}."


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
    if report.get("task") != "judge":
        return f"{count(asked)} held-out queries"
    pairs = dig(report, "after", "metrics", "accuracy_both_orders", "n") or dig(report, "data", "test_rows")
    if pairs is None and finite(asked) is not None:
        pairs = asked // 2
    return f"{count(pairs)} held-out pairs asked in both orders"


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
        chance = report.get("task") == "judge" and value == 0.5
        if low is not None and value is not None and value >= low and not chance:
            yield f"It is not shown to beat “{baseline_words(name)}”, which scores {percent(value)} on these rows."


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
    return f"{percent(unparsed)} of its answers cannot be read; they count as wrong."


def _quantised(report: Mapping[str, Any]) -> str:
    """What the artefact that ships scores, and whether quantising cost anything that can be seen."""
    accuracy = table_at(report, "quantized", "metrics", "accuracy")
    if finite(accuracy.get("value")) is None:
        return ""
    bits = dig(report, "quantize", "bits")
    name = f"Quantised to {bits} bits" if bits else "Quantised"
    sentence = f"{name}, it scores {percent(accuracy['value'])} ({interval(accuracy)})"
    p = finite(dig(report, "comparisons", "quantized_vs_after", "p_value"))
    if p is None:
        return sentence + "."
    if p >= SIGNIFICANT:
        return f"{sentence}; a difference from the full weights cannot be told from chance."
    change = finite(dig(report, "comparisons", "quantized_vs_after", "difference", "value")) or 0.0
    return f"{sentence}: quantising {'gained' if change > 0 else 'cost'} {100 * abs(change):.1f} points."

"""What a report shows of a judge alone: order, length, calibration, ways of judging and their cost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from smidgen.evaluation import formatting
from smidgen.evaluation.disagreements import KINDS
from smidgen.evaluation.evidence import BY_LOGITS, TALL_ROW, Stage, evaluated, numbers, plain
from smidgen.evaluation.formatting import ABSENT, dig, finite, rows_at, table_at
from smidgen.evaluation.plots import Interval, interval_plot, reliability_plot

KIND_WORDS = {
    "first": "the first both times",
    "second": "the second both times",
    "tie": "a tie once",
    "unreadable": "what cannot be read",
}
_LENGTH = {
    "accuracy_longer_better": "the longer answer is better",
    "accuracy_shorter_better": "the shorter answer is better",
}
_QUALITY = {
    "accuracy": "Accuracy",
    "accuracy_both_orders": "Right in both orders",
    "consistency": "Swap consistency",
    "unparsed_rate": "Unreadable",
}


class Disagreement(NamedTuple):
    """One pair whose orders disagree, for reading."""

    id: str
    subset: str
    kind: str
    words: str
    prompt: str
    answers: list[tuple[str, str, bool]]
    said: list[tuple[str, str, str]]


def position_bias(report: Mapping[str, Any], stages: Sequence[Stage]) -> list[tuple[Stage, Markup, str, str]]:
    """The prefer-first rate of every stage that has one, each with its figure."""
    rows = []
    for stage in stages:
        rate = table_at(report, stage.key, "metrics", "prefer_first_rate")
        if not rate:
            continue
        value, span = numbers(rate)
        span = span or "no verdicts"
        spoken = f"{stage.label} chose the first answer in {value} of its verdicts ({span})"
        figure = interval_plot(
            [Interval(stage.key, spoken, rate)], reference=0.5, row_height=TALL_ROW, description=spoken
        )
        rows.append((stage, figure, value, span))
    return rows


def reliability(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The calibration of the model that ships or was evaluated last, with its diagram."""
    stage = next((s for s in reversed(evaluated(report)) if table_at(report, s.key, "calibration")), None)
    if stage is None:
        return None
    found = table_at(report, stage.key, "calibration")
    brier, ece = found.get("brier"), finite(found.get("ece"))
    value, span = plain(brier if isinstance(brier, Mapping) else {})
    error = ABSENT if ece is None else f"{ece:.3f}"
    spoken = f"Reliability of the {stage.long}: expected calibration error {error}, Brier score {value}"
    return {
        "stage": stage,
        "figure": reliability_plot(rows_at(found, "bins"), spoken),
        "ece": error,
        "brier": value,
        "interval": span,
        "n": formatting.count(found.get("n")),
    }


def length_bias(report: Mapping[str, Any], stages: Sequence[Stage]) -> dict[str, Any] | None:
    """Accuracy where the better answer is the longer and where it is the shorter one, for every stage."""
    rows = []
    for stage in stages:
        for name, words in _LENGTH.items():
            rate = table_at(report, stage.key, "metrics", name)
            if finite(rate.get("value")) is None:
                continue
            value, span = numbers(rate)
            spoken = f"{stage.label}, {words}: {value} right ({span}), n = {formatting.count(rate.get('n'))}"
            figure = interval_plot(
                [Interval(stage.key, spoken, rate)], reference=0.5, row_height=TALL_ROW, description=spoken
            )
            rows.append((stage, words, figure, value, span))
    if not rows:
        return None
    correlations = [
        (stage, *plain(metric))
        for stage in stages
        if (metric := table_at(report, stage.key, "metrics", "length_correlation"))
        and finite(metric.get("value")) is not None
    ]
    return {"rows": rows, "correlations": correlations}


def ways(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Each way of judging with what it is worth and what it costs; None where no cost was counted."""
    cost = table_at(report, "cost")
    counted = table_at(cost, "ways")
    if not counted:
        return None
    currency = formatting.text(cost.get("currency"))
    rows: list[tuple[str, list[str]]] = []
    for name, label in _QUALITY.items():
        metrics = [table_at(report, key, "metrics", name) for key in counted]
        rows.append((label, [_value(metric) for metric in metrics]))
    for label, key, form in (
        ("Tokens read, each judgement", "prompt_tokens", formatting.quantity),
        ("Tokens written, each judgement", "completion_tokens", formatting.quantity),
        ("Time for 1,000 judgements", "seconds_per_1000", formatting.seconds),
        ("Peak memory", "peak_memory_bytes", formatting.size),
        (f"Price of 1,000 judgements, {currency}", "money_per_1000", formatting.money),
    ):
        rows.append((label, [form(way.get(key)) for way in counted.values()]))
    return {
        "labels": [_way(report, key) for key in counted],
        "rows": rows,
        "currency": currency,
        "per_hour": formatting.money(cost.get("machine_per_hour")),
        "making": _making(cost),
        "apis": [
            (
                formatting.text(api.get("name")),
                formatting.money(api.get("money_per_1000")),
                _break_even(api),
            )
            for api in rows_at(cost, "apis")
        ],
    }


def _way(report: Mapping[str, Any], key: str) -> str:
    """How the evaluation of that name was asked."""
    by_logits = key == BY_LOGITS.key or dig(report, key, "method") == "logits"
    return BY_LOGITS.label if by_logits else "Written out"


def _value(metric: Mapping[str, Any]) -> str:
    value, span = numbers(metric)
    return f"{value} ({span})" if span else value


def _making(cost: Mapping[str, Any]) -> str:
    """What the model itself took, as a clause; nothing where it was not made here."""
    seconds, money = (finite(dig(cost, "making", key)) for key in ("seconds", "money"))
    if not seconds:
        return ""
    return f"{formatting.seconds(seconds)} of training, {formatting.money(money)} {cost.get('currency')}"


def _break_even(api: Mapping[str, Any]) -> str:
    number = finite(api.get("cheaper_here_after"))
    if number is None:
        return "never at these prices"
    return "from the first judgement" if number == 0 else f"after {formatting.count(number)} judgements"


def disagreements(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pairs on which the two orders of the judge that was evaluated last do not agree."""
    stage = next((s for s in reversed(evaluated(report)) if table_at(report, s.key, "disagreements")), None)
    if stage is None:
        return None
    found = table_at(report, stage.key, "disagreements")
    rows = [_disagreement(row) for row in rows_at(found, "rows")]
    subsets = sorted({row.subset for row in rows if row.subset})
    return {
        "stage": stage,
        "total": formatting.count(found.get("total")),
        "pairs": formatting.count(found.get("pairs")),
        "shown": formatting.count(len(rows)),
        "is_cut": (finite(found.get("total")) or 0) > len(rows),
        "kinds": [
            (kind, KIND_WORDS[kind], formatting.count(dig(found, "kinds", kind)))
            for kind in KINDS
            if dig(found, "kinds", kind)
        ],
        "subsets": [(f"s{i}", name) for i, name in enumerate(subsets)] if len(subsets) > 1 else [],
        "rows": [(f"s{subsets.index(row.subset)}" if row.subset else "", row) for row in rows],
    }


def _disagreement(row: Mapping[str, Any]) -> Disagreement:
    kind = str(row.get("kind"))
    return Disagreement(
        id=formatting.text(row.get("id")),
        subset=str(row.get("subset") or ""),
        kind=kind if kind in KINDS else "unreadable",
        words=KIND_WORDS.get(kind, kind),
        prompt=formatting.text(row.get("prompt")),
        answers=[
            (f"Answer {side.upper()}", formatting.text(row.get(side)), row.get("better") == side)
            for side in ("a", "b")
        ],
        said=[
            (
                f"{order[0].upper()} shown first",
                str(dig(row, "said", order) or "unreadable").upper().replace("UNREADABLE", "unreadable"),
                formatting.text(dig(row, "texts", order)),
            )
            for order in ("ab", "ba")
        ],
    )

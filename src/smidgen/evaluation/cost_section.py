"""The cost section of a report: quality, tokens, time and price, on this machine and from APIs."""

from collections.abc import Mapping
from typing import Any

from smidgen.evaluation.wording import headline_metric, words_of
from smidgen.figures import formatting
from smidgen.figures.columns import BY_LOGITS, numbers
from smidgen.figures.formatting import dig, finite, rows_at, table_at

QUALITY = ("accuracy_both_orders", "consistency", "unparsed_rate")
"""Metrics shown above the cost, after the headline metric, if measured."""


def ways(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the quality and cost of each answering method; None without a cost table."""
    cost = table_at(report, "cost")
    counted = table_at(cost, "ways")
    words = words_of(report)
    if not counted or not words.claim.answer:
        return None
    currency = formatting.text(cost.get("currency"))
    rows: list[tuple[str, list[str]]] = []
    for name in (headline_metric(report), *QUALITY):
        metrics = [table_at(report, key, "metrics", name) for key in counted]
        if any(metrics):
            rows.append((words.metric(name).label, [_value(metric) for metric in metrics]))
    answer = words.claim.answer
    for label, key, form in (
        (f"Prompt tokens per {answer}", "prompt_tokens", formatting.quantity),
        (f"Completion tokens per {answer}", "completion_tokens", formatting.quantity),
        (f"Time per 1,000 {answer}s", "seconds_per_1000", formatting.seconds),
        ("Peak memory", "peak_memory_bytes", formatting.size),
        (f"Cost per 1,000 {answer}s, {currency}", "money_per_1000", formatting.money),
    ):
        rows.append((label, [form(way.get(key)) for way in counted.values()]))
    return {
        "labels": [_method_label(report, key) for key in counted],
        "rows": rows,
        "answer": answer,
        "currency": currency,
        "per_hour": formatting.money(cost.get("machine_per_hour")),
        "making": _training_cost(cost),
        "apis": [
            (
                formatting.text(api.get("name")),
                formatting.money(api.get("money_per_1000")),
                _break_even(api, answer),
            )
            for api in rows_at(cost, "apis")
        ],
    }


def _method_label(report: Mapping[str, Any], key: str) -> str:
    """Return the label of an evaluation's answering method."""
    by_logits = key == BY_LOGITS.key or dig(report, key, "method") == "logits"
    return BY_LOGITS.label if by_logits else "Generated"


def _value(metric: Mapping[str, Any]) -> str:
    value, span = numbers(metric)
    return f"{value} ({span})" if span else value


def _training_cost(cost: Mapping[str, Any]) -> str:
    """Describe the cost of training; empty if the model was not trained in this run."""
    seconds, money = (finite(dig(cost, "making", key)) for key in ("seconds", "money"))
    if not seconds:
        return ""
    return f"{formatting.seconds(seconds)} of training, {formatting.money(money)} {cost.get('currency')}"


def _break_even(api: Mapping[str, Any], answer: str) -> str:
    number = finite(api.get("cheaper_here_after"))
    if number is None:
        return "never at these prices"
    return f"from the first {answer}" if number == 0 else f"after {formatting.count(number)} {answer}s"

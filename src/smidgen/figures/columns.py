"""Columns of a report's tables, one per evaluated model, and the text of their cells."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from smidgen.figures import formatting
from smidgen.figures.formatting import ABSENT, dig, finite, table_at

TALL_ROW = 42
"""Height in pixels of an interval next to two lines of numbers."""


class ReportColumn(NamedTuple):
    """One evaluated model: its key in the report and its names."""

    key: str
    label: str
    long: str


COLUMNS = (
    ReportColumn("before", "Base", "base model"),
    ReportColumn("base_constrained", "Base, constrained", "base model under the output constraint"),
    ReportColumn("base_examples", "Base, examples", "base model with worked examples"),
    ReportColumn("after", "Trained", "trained model"),
    ReportColumn("quantized", "Quantised", "quantised model"),
    ReportColumn("teacher", "Teacher", "teacher"),
)
BASES = COLUMNS[:3]
"""The base model, asked in several ways."""
BY_LOGITS = ReportColumn("logits", "By log-probability", "trained model, scored by log-probability")
"""The trained model with log-probability scoring instead of generation."""


def evaluated(report: Mapping[str, Any]) -> list[ReportColumn]:
    """Return the columns that have metrics; a report without training has one, the evaluated model."""
    if "training" not in report and "before" not in report:
        found = table_at(report, "after", "metrics")
        return [ReportColumn("after", "Model", "model")] if found else []
    return [column for column in COLUMNS if table_at(report, column.key, "metrics")]


def plain(metric: Mapping[str, Any]) -> tuple[str, str]:
    """Format the value and the interval of a metric that is not a rate."""
    value, low, high = (finite(metric.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return ABSENT, ""
    return f"{value:.2f}", "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def numbers(metric: Any) -> tuple[str, str]:
    """Format a rate and its interval; the interval is empty without a rate."""
    value = formatting.percent(dig(metric, "value"))
    return value, "" if value == ABSENT else formatting.interval(metric)

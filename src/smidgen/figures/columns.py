"""The columns of a report's tables, one for each evaluated model, and metrics as the text of their cells."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from smidgen.figures import formatting
from smidgen.figures.formatting import ABSENT, dig, finite, table_at

TALL_ROW = 42
"""Height in pixels of an interval that stands beside two lines of numbers."""


class ReportColumn(NamedTuple):
    """One evaluated model: its key in the report and its names."""

    key: str
    label: str
    long: str


COLUMNS = (
    ReportColumn("before", "Base", "base model"),
    ReportColumn("after", "Trained", "trained model"),
    ReportColumn("quantized", "Quantised", "quantised model"),
)
BY_LOGITS = ReportColumn("logits", "By log-probability", "trained model, scored by log-probability")
"""The trained model again, with its answers scored instead of generated."""


def evaluated(report: Mapping[str, Any]) -> list[ReportColumn]:
    """The columns that have metrics; a report without training has one, for the model as it was found."""
    if "training" not in report and "before" not in report:
        found = table_at(report, "after", "metrics")
        return [ReportColumn("after", "Model", "model")] if found else []
    return [column for column in COLUMNS if table_at(report, column.key, "metrics")]


def plain(metric: Mapping[str, Any]) -> tuple[str, str]:
    """The value and the interval of a number that is not a rate."""
    value, low, high = (finite(metric.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return ABSENT, ""
    return f"{value:.2f}", "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def numbers(metric: Any) -> tuple[str, str]:
    """A rate and its interval; without a rate there is no interval."""
    value = formatting.percent(dig(metric, "value"))
    return value, "" if value == ABSENT else formatting.interval(metric)

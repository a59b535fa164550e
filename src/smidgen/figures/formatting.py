"""Formatting of a report's numbers, and safe access to its dictionary.

Any part of a report may be missing, so every formatter accepts whatever `dig` returns, and returns a dash for
anything that is not a number.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

ABSENT = "—"
PERCENT = "\N{NARROW NO-BREAK SPACE}%"


def dig(table: Any, *keys: str) -> Any:
    """Return the value under nested keys, or None if any of them is missing."""
    for key in keys:
        if not isinstance(table, Mapping):
            return None
        table = table.get(key)
    return table


def table_at(table: Any, *keys: str) -> Mapping[str, Any]:
    """Return the mapping under nested keys, or an empty one."""
    found = dig(table, *keys)
    return found if isinstance(found, Mapping) else {}


def rows_at(table: Any, *keys: str) -> list[Mapping[str, Any]]:
    """Return the mappings in the list under nested keys, or an empty list."""
    found = dig(table, *keys)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list | tuple) else []


def finite(value: Any) -> float | None:
    """Return `value` as a float, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _figures(value: float) -> str:
    """Format a fraction in percent with one decimal; 0 and 100 only if exact."""
    text = f"{100 * value:.1f}"
    if text == "100.0" and value < 1:
        return ">99.9"
    return "<0.1" if text == "0.0" and value > 0 else text


def percent(value: Any) -> str:
    """Format a fraction as a percentage: 0.9125 → `91.2 %`."""
    share = finite(value)
    return ABSENT if share is None else _figures(share) + PERCENT


def interval(metric: Any) -> str:
    """Format the 95 % interval of a metric: `88.1–94.0 %`."""
    low, high = finite(dig(metric, "low")), finite(dig(metric, "high"))
    return ABSENT if low is None or high is None else f"{_figures(low)}–{_figures(high)}{PERCENT}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def points(difference: Any) -> str:
    """Format a difference of two fractions in percentage points: 0.031 → `+3.1 points`."""
    value = finite(dig(difference, "value"))
    return ABSENT if value is None else f"{_signed(value)}\N{NO-BREAK SPACE}points"


def points_interval(difference: Any) -> str:
    """Format the 95 % interval of a difference: `+1.2 to +5.0`."""
    low, high = finite(dig(difference, "low")), finite(dig(difference, "high"))
    return ABSENT if low is None or high is None else f"{_signed(low)} to {_signed(high)}"


def p_value(value: Any) -> str:
    """Format a p-value with a sensible precision."""
    p = finite(value)
    if p is None:
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(value: Any) -> str:
    """Format an integer with thousands separators: 1500 → `1,500`."""
    number = finite(value)
    return ABSENT if number is None else f"{number:,.0f}"


def quantity(value: Any) -> str:
    """Format a measured number with three significant digits: 0.0312, 4.71, 1,240."""
    number = finite(value)
    if number is None:
        return ABSENT
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def seconds(value: Any) -> str:
    """Format a duration in suitable units: `42 ms`, `8.1 s`, `12 min 5 s`, `3 h 20 min`."""
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


def money(value: Any) -> str:
    """A price to two figures, never in powers of ten: 0.00042 → `0.00042`."""
    number = finite(value)
    if number is None:
        return ABSENT
    if number == 0 or abs(number) >= 10:
        return f"{number:,.2f}".removesuffix(".00")
    digits = max(2, 1 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}"


def size(value: Any) -> str:
    """Format a number of bytes in decimal units: 12_300_000 → `12.3 MB`."""
    number = finite(value)
    if number is None:
        return ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:  # from there on, three digits would round to 1000
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def parameters(value: Any) -> str:
    """Format a number of parameters: 3_412_000 → `3.41 M`."""
    number = finite(value)
    if number is None:
        return ABSENT
    for unit in ("", " k", " M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} B"


def moment(value: Any) -> str:
    """Format an ISO time: `21 November 2026, 14:03 UTC`; other values are returned as text."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return str(value) if value else ABSENT
    return f"{time.day} {time:%B %Y}, {time:%H:%M %Z}".rstrip()


def text(value: Any) -> str:
    """Format any value as text; a dash if empty."""
    return ABSENT if value is None or value == "" else str(value)

"""Numbers of a report as a model card shows them."""

from collections.abc import Mapping
from typing import Any


def with_interval(metric: Mapping[str, Any]) -> str:
    """Format a metric as `value (low to high), n = …`."""
    return f"{rate(metric)}, n = {metric['n']:,}"


def rate(metric: Mapping[str, Any]) -> str:
    """Format a metric as `value (low to high)`."""
    value, low, high = (number(metric[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def number(value: Any) -> str:
    """Format a value; a dash if there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.3f}"


def at(tree: Mapping[str, Any] | None, *names: str) -> Any:
    """Return the value at a path of keys, or None."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree

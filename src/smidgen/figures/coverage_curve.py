"""Accuracy against coverage, how right a model is where it answers, as SVG; see `smidgen.figures.svg`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from smidgen.figures.formatting import finite, percent, table_at
from smidgen.figures.step_axes import Scale, line, plot_area
from smidgen.figures.svg import coordinate, figure, mark, markup, percentage

HEIGHT = 220
"""Height of the plot in pixels, without its axis."""
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class CurvePoint(NamedTuple):
    """The accuracy of the most confident answers.

    Attributes:
        coverage: their share of all.
        accuracy: share of right ones among them.
        low: lower bound of its interval; the accuracy itself without one.
        high: upper bound.
    """

    coverage: float
    accuracy: float
    low: float
    high: float


def curve_points(rows: Sequence[Mapping[str, Any]]) -> list[CurvePoint]:
    """Read points with `coverage` and `accuracy` from a report; those without numbers are left out."""
    found = []
    for row in rows:
        metric = table_at(row, "accuracy")
        coverage, accuracy = finite(row.get("coverage")), finite(metric.get("value"))
        if coverage is None or accuracy is None:
            continue
        low, high = finite(metric.get("low")), finite(metric.get("high"))
        found.append(
            CurvePoint(
                coverage, accuracy, accuracy if low is None else low, accuracy if high is None else high
            )
        )
    return found


def coverage_curve(
    points: Sequence[CurvePoint], description: str, *, chosen: tuple[float, float] | None = None
) -> Markup | None:
    """Draw accuracy against coverage with its interval as a band, dots, and a ring at the chosen point.

    Args:
        points: by coverage.
        description: text alternative for screen readers.
        chosen: coverage and accuracy at the chosen threshold.

    Returns:
        The figure; None without points.
    """
    if not points:
        return None
    least = min(*(point.low for point in points), chosen[1] if chosen else 1.0)
    low = max(0.0, (int(least * 20) - 1) / 20)
    scale = Scale(0.0, 1.0, low, 1.0, False, HEIGHT)
    svg = figure(HEIGHT + 20, description)
    for value in (low, (low + 1) / 2, 1.0):
        y = scale.y(value)
        mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        mark(svg, "text", "tick", x=0, y=coordinate(float(y) + (12 if value == 1 else -4))).text = percent(
            value
        )
    for tick in TICKS:
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        label = mark(svg, "text", "tick", x=percentage(tick), y=HEIGHT + 16, text_anchor=anchor)
        label.text = f"{tick:.0%}"
    plot = plot_area(svg, HEIGHT)
    edge = [(p.coverage, p.high) for p in points] + [(p.coverage, p.low) for p in reversed(points)]
    places = (f"{coordinate(1000 * x)},{coordinate(1000 * scale.down(y))}" for x, y in edge)
    mark(plot, "polygon", "band", points=" ".join(places))
    line(plot, "training", [(point.coverage, point.accuracy) for point in points], scale)
    for point in points:
        group = mark(svg, "g", "after")
        mark(group, "title").text = (
            f"{percent(point.coverage)} answered, {percent(point.accuracy)} of them right "
            f"({percent(point.low)} to {percent(point.high)})"
        )
        x, y = percentage(point.coverage), scale.y(point.accuracy)
        mark(group, "circle", "dot", cx=x, cy=y, r=3)
    if chosen is not None:
        group = mark(svg, "g", "chosen")
        x = percentage(chosen[0])
        mark(group, "line", "", x1=x, x2=x, y1=0, y2=HEIGHT)
        mark(group, "circle", "", cx=x, cy=scale.y(chosen[1]), r=7)
        right = chosen[0] < 0.6
        label = mark(
            group, "text", "", x=x, y=HEIGHT - 8, dx=7 if right else -7,
            text_anchor="start" if right else "end",
        )  # fmt: skip
        label.text = "chosen"
    return markup(svg)

"""Interval plots, reliability diagrams and heat maps as SVG figures; see `smidgen.figures.svg`."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from smidgen.figures.formatting import dig, finite
from smidgen.figures.svg import figure, mark, markup, percentage

ROW = 22
"""Height of one interval in pixels."""
OVERHANG = 7
"""Pixels by which grid lines extend beyond a plot, to meet those of the row above."""
SQUARE = 260
"""Height of a reliability diagram in pixels; the page makes it square."""


class Interval(NamedTuple):
    """One row of an interval plot: a value with its bounds, in the units of the axis.

    Attributes:
        kind: CSS class and shape: the key of a `ReportColumn`, or `baseline`.
        label: tooltip.
        metric: a table with `value`, `low` and `high`; anything missing leaves the row empty.
    """

    kind: str
    label: str
    metric: Any


class Shade(NamedTuple):
    """One cell of a heat map.

    Attributes:
        row: name of its row.
        column: name of its column.
        depth: opacity, from 0 to 1.
        text: text in the cell.
        label: tooltip.
    """

    row: str
    column: str
    depth: float
    text: str
    label: str


def interval_plot(
    rows: Sequence[Interval],
    *,
    domain: tuple[float, float] = (0.0, 1.0),
    ticks: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    reference: float | None = None,
    row_height: int = ROW,
    description: str,
) -> Markup:
    """Draw dots with their intervals, one per row, over grid lines.

    Args:
        rows: from top to bottom.
        domain: values at the left and the right edge.
        ticks: values of the grid lines.
        reference: value of a dashed line to compare with, such as chance.
        row_height: in pixels.
        description: text alternative for screen readers.
    """

    def place(value: float) -> str:
        return percentage((min(max(value, domain[0]), domain[1]) - domain[0]) / (domain[1] - domain[0]))

    height = row_height * len(rows)
    svg = figure(height, description)
    lines = [("grid", tick) for tick in ticks if tick != reference]
    for kind, at in lines if reference is None else [*lines, ("reference", reference)]:
        mark(svg, "line", kind, x1=place(at), x2=place(at), y1=-OVERHANG, y2=height + OVERHANG)
    for index, row in enumerate(rows):
        value, low, high = (finite(dig(row.metric, key)) for key in ("value", "low", "high"))
        if value is None:
            continue
        y = row_height * index + row_height // 2
        group = mark(svg, "g", row.kind)
        mark(group, "title").text = row.label
        if low is not None and high is not None:
            mark(group, "line", "span", x1=place(low), x2=place(high), y1=y, y2=y)
        _dot(group, row.kind, place(value), y)
    return markup(svg)


def reliability_plot(bins: Sequence[Any], description: str) -> Markup:
    """Draw observed frequency against predicted probability; a calibrated judge lies on the diagonal.

    Args:
        bins: tables with `predicted`, `observed` and `n`.
        description: text alternative for screen readers.
    """
    svg = figure(SQUARE, description)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = round(SQUARE * (1 - tick))
        mark(svg, "line", "grid", x1=percentage(tick), x2=percentage(tick), y1=0, y2=SQUARE)
        mark(svg, "line", "grid", x1="0%", x2="100%", y1=y, y2=y)
    mark(svg, "line", "reference", x1="0%", x2="100%", y1=SQUARE, y2=0)
    for entry in bins:
        predicted, observed = (finite(dig(entry, key)) for key in ("predicted", "observed"))
        if predicted is None or observed is None:
            continue
        group = mark(svg, "g", "after")
        mark(
            group, "title"
        ).text = f"{predicted:.0%} predicted, {observed:.0%} observed, n = {dig(entry, 'n')}"
        _dot(group, "after", percentage(predicted), round(SQUARE * (1 - observed)))
    return markup(svg)


def axis(labels: Sequence[tuple[float, str]]) -> Markup:
    """Draw labels for the grid lines of interval plots, each with its position from 0 to 1."""
    svg = figure(16, "")
    for share, label in labels:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        mark(svg, "text", "tick", x=percentage(share), y=12, text_anchor=anchor).text = label
    return markup(svg)


def shade_plot(cells: Sequence[Shade], *, description: str) -> Markup:
    """Draw a heat map with rows and columns in order of first occurrence.

    Args:
        cells: at most one per row and column.
        description: text alternative for screen readers.
    """
    rows, columns = (
        list(dict.fromkeys(names)) for names in zip(*((c.row, c.column) for c in cells), strict=True)
    )
    svg = figure(ROW * (1 + len(rows)), description)
    width = 1 / (1 + len(columns))
    for index, name in enumerate(columns):
        mark(svg, "text", "tick", x=percentage((1.5 + index) * width), y=15).text = name
    for index, name in enumerate(rows):
        mark(svg, "text", "tick", x=percentage(width / 2), y=ROW * (1 + index) + 15).text = name
    for cell in cells:
        x, y = (1 + columns.index(cell.column)) * width, ROW * (1 + rows.index(cell.row))
        group = mark(svg, "g", "shade")
        mark(group, "title").text = cell.label
        mark(
            group, "rect", x=percentage(x), y=y + 1, width=percentage(0.98 * width), height=ROW - 2,
            fill_opacity=0.05 + 0.6 * cell.depth,
        )  # fmt: skip
        mark(group, "text", x=percentage(x + width / 2), y=y + 15).text = cell.text
    return markup(svg)


def _dot(group: ElementTree.Element, kind: str, x: str, y: int) -> None:
    """Draw the mark of a stage; shapes differ so that stages are distinct without colour."""
    if kind in ("quantized", "base_constrained"):
        corner = mark(group, "svg", "", x=x, y=y, overflow="visible")
        mark(corner, "rect", "dot", x=-4, y=-4, width=8, height=8)
    elif kind == "base_examples":
        corner = mark(group, "svg", "", x=x, y=y, overflow="visible")
        mark(corner, "path", "dot", d="M0 -5 5 0 0 5 -5 0Z")
    elif kind == "baseline":
        mark(group, "line", "dot", x1=x, x2=x, y1=y - 5, y2=y + 5)
    else:
        mark(group, "circle", "dot", cx=x, cy=y, r=4.5)

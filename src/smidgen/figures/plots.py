"""The figures of a report as inline SVG that keeps its type size at every width.

Horizontal places are percentages of the figure, vertical places are pixels, and curves stretch inside a
nested viewport, so a phone and a printed page get the same lettering as a wide screen. Colours come from CSS
classes, which is how one figure serves light, dark and paper. Equal data give equal bytes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from smidgen.figures.formatting import dig, finite

ROW = 22
"""Height of one interval in pixels."""
OVERHANG = 7
"""Pixels by which grid lines reach out of a plot, to meet those of the row above."""
SQUARE = 260
"""Height of a reliability diagram in pixels; the page makes it as wide."""
CURVE_HEIGHT = 260
"""Height of the loss curve in pixels, without its axis."""
CURVE_POINTS = 1200
"""A curve is drawn with at most so many points: the lowest and the highest of each stretch."""
LOG_FROM = 12.0
"""A loss that falls by this factor is drawn on a logarithmic axis, or its end would be a flat line."""
SMOOTHED_SHARE = 25
"""The running mean spans one 25th of the steps."""


class Interval(NamedTuple):
    """One row of an interval plot: a value with its bounds, in the units of the axis.

    Attributes:
        kind: CSS class and shape, one of `before`, `after`, `quantized`, `baseline`.
        label: what hovering says.
        metric: a table with `value`, `low` and `high`; anything missing leaves the row empty.
    """

    kind: str
    label: str
    metric: Any


class Shade(NamedTuple):
    """One cell of a shaded table.

    Attributes:
        row: its row's name.
        column: its column's name.
        depth: how dark it is, from 0 to 1.
        text: what stands in it.
        label: what hovering says.
    """

    row: str
    column: str
    depth: float
    text: str
    label: str


class Curve(NamedTuple):
    """A loss curve and what its caption must say about it.

    Attributes:
        svg: the figure.
        window: steps in the running mean; 1 where the line is the loss itself.
        logarithmic: whether the vertical axis is.
    """

    svg: Markup
    window: int
    logarithmic: bool


def interval_plot(
    rows: Sequence[Interval],
    *,
    domain: tuple[float, float] = (0.0, 1.0),
    ticks: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    reference: float | None = None,
    row_height: int = ROW,
    description: str,
) -> Markup:
    """Dots with their intervals, one row each, over faint grid lines.

    Args:
        rows: from top to bottom.
        domain: the values at the left and the right edge.
        ticks: values with a grid line.
        reference: the value to compare with, such as chance; a dashed line.
        row_height: in pixels.
        description: the figure in words, for those who cannot see it.
    """

    def place(value: float) -> str:
        return _percent((min(max(value, domain[0]), domain[1]) - domain[0]) / (domain[1] - domain[0]))

    height = row_height * len(rows)
    svg = _svg(height, description)
    lines = [("grid", tick) for tick in ticks if tick != reference]
    for kind, at in lines if reference is None else [*lines, ("reference", reference)]:
        _mark(svg, "line", kind, x1=place(at), x2=place(at), y1=-OVERHANG, y2=height + OVERHANG)
    for index, row in enumerate(rows):
        value, low, high = (finite(dig(row.metric, key)) for key in ("value", "low", "high"))
        if value is None:
            continue
        y = row_height * index + row_height // 2
        group = _mark(svg, "g", row.kind)
        _mark(group, "title").text = row.label
        if low is not None and high is not None:
            _mark(group, "line", "span", x1=place(low), x2=place(high), y1=y, y2=y)
        _dot(group, row.kind, place(value), y)
    return _markup(svg)


def reliability_plot(bins: Sequence[Any], description: str) -> Markup:
    """How often what was predicted with each probability was so; a calibrated judge lies on the diagonal.

    Args:
        bins: tables with `predicted`, `observed` and `n`.
        description: the figure in words.
    """
    svg = _svg(SQUARE, description)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = round(SQUARE * (1 - tick))
        _mark(svg, "line", "grid", x1=_percent(tick), x2=_percent(tick), y1=0, y2=SQUARE)
        _mark(svg, "line", "grid", x1="0%", x2="100%", y1=y, y2=y)
    _mark(svg, "line", "reference", x1="0%", x2="100%", y1=SQUARE, y2=0)
    for entry in bins:
        predicted, observed = (finite(dig(entry, key)) for key in ("predicted", "observed"))
        if predicted is None or observed is None:
            continue
        group = _mark(svg, "g", "after")
        _mark(group, "title").text = f"{predicted:.0%} predicted, {observed:.0%} so, n = {dig(entry, 'n')}"
        _dot(group, "after", _percent(predicted), round(SQUARE * (1 - observed)))
    return _markup(svg)


def axis(labels: Sequence[tuple[float, str]]) -> Markup:
    """Labels for the grid lines of interval plots; each comes with its place, from 0 to 1."""
    svg = _svg(16, "")
    for share, label in labels:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        _mark(svg, "text", "tick", x=_percent(share), y=12, text_anchor=anchor).text = label
    return _markup(svg)


def shade_plot(cells: Sequence[Shade], *, description: str) -> Markup:
    """A table of shaded cells, rows and columns in the order in which they first come.

    Args:
        cells: one at most for each row and column.
        description: the figure in words.
    """
    rows, columns = (
        list(dict.fromkeys(names)) for names in zip(*((c.row, c.column) for c in cells), strict=True)
    )
    svg = _svg(ROW * (1 + len(rows)), description)
    width = 1 / (1 + len(columns))
    for index, name in enumerate(columns):
        _mark(svg, "text", "tick", x=_percent((1.5 + index) * width), y=15).text = name
    for index, name in enumerate(rows):
        _mark(svg, "text", "tick", x=_percent(width / 2), y=ROW * (1 + index) + 15).text = name
    for cell in cells:
        x, y = (1 + columns.index(cell.column)) * width, ROW * (1 + rows.index(cell.row))
        group = _mark(svg, "g", "shade")
        _mark(group, "title").text = cell.label
        _mark(
            group, "rect", x=_percent(x), y=y + 1, width=_percent(0.98 * width), height=ROW - 2,
            fill_opacity=0.05 + 0.6 * cell.depth,
        )  # fmt: skip
        _mark(group, "text", x=_percent(x + width / 2), y=y + 15).text = cell.text
    return _markup(svg)


def loss_curve(
    training: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]] = (),
    chosen_step: float | None = None,
) -> Curve | None:
    """Training loss (every step faint, running mean strong), validation points, and the step that was kept.

    Args:
        training: (step, loss in nats) in order.
        validation: (step, loss in nats) in order.
        chosen_step: the step whose weights were kept.

    Returns:
        None where there are fewer than two points to draw.
    """
    if len(training) + len(validation) < 2:
        return None
    losses = [loss for _, loss in (*training, *validation)]
    logarithmic = min(losses) > 0 and max(losses) / min(losses) >= LOG_FROM
    first = min(step for step, _ in (*training, *validation))
    last = max(step for step, _ in (*training, *validation))
    scale = _Scale(first, max(last, first + 1), *_bounds(losses, logarithmic), logarithmic)
    window = max(1, len(training) // SMOOTHED_SHARE) | 1
    svg = _svg(CURVE_HEIGHT + 20, "Loss against training step")
    _grid(svg, scale)
    plot = _mark(svg, "svg", "", width="100%", height=CURVE_HEIGHT, viewBox="0 0 1000 1000")
    plot.set("preserveAspectRatio", "none")
    if window > 1:
        _line(plot, "raw", _thinned(training), scale)
    _line(plot, "training", _thinned(_running_mean(training, window)), scale)
    _line(plot, "validation", validation, scale)
    for step, loss in validation:
        point = _mark(svg, "circle", "validation", cx=scale.x(step), cy=scale.y(loss), r=3)
        _mark(point, "title").text = f"validation at step {step:,.0f}: {loss:.4g}"
    if chosen_step is not None:
        _chosen(svg, scale, chosen_step, validation)
    return Curve(_markup(svg), window, logarithmic)


class _Scale(NamedTuple):
    """Steps and losses to places in a loss curve."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool

    def across(self, step: float) -> float:
        """A step as a share of the width."""
        return (step - self.first) / (self.last - self.first)

    def down(self, loss: float) -> float:
        """A loss as a share of the height, from the top."""
        low, high, loss = map(math.log if self.logarithmic else float, (self.low, self.high, loss))
        return (high - loss) / (high - low)

    def x(self, step: float) -> str:
        return _percent(self.across(step))

    def y(self, loss: float) -> str:
        return _short(CURVE_HEIGHT * self.down(loss))


def _bounds(losses: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The lowest and the highest loss of the axis, with a little air."""
    low, high = min(losses), max(losses)
    if logarithmic:
        return low / 1.15, high * 1.15
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - air, high + air


def _grid(svg: ElementTree.Element, scale: _Scale) -> None:
    """Horizontal lines with the loss standing on them, and the steps underneath."""
    for loss in _round_values(scale.low, scale.high, scale.logarithmic):
        y = scale.y(loss)
        _mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        _mark(svg, "text", "tick", x=0, y=_short(float(y) - 4)).text = f"{loss:g}"
    bottom = CURVE_HEIGHT
    _mark(svg, "line", "axis", x1=0, x2="100%", y1=bottom, y2=bottom)
    for step in _round_values(scale.first, scale.last, False):
        share = scale.across(step)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        label = _mark(svg, "text", "tick", x=_percent(share), y=bottom + 16, text_anchor=anchor)
        label.text = f"{step:,.0f}"


def _chosen(
    svg: ElementTree.Element, scale: _Scale, step: float, validation: Sequence[tuple[float, float]]
) -> None:
    """A line at the step that was kept, and a ring round its validation point."""
    x, right = scale.x(step), scale.across(step) < 0.6
    group = _mark(svg, "g", "chosen")
    _mark(group, "line", "", x1=x, x2=x, y1=0, y2=CURVE_HEIGHT)
    for at, loss in validation:
        if at == step:
            _mark(group, "circle", "", cx=x, cy=scale.y(loss), r=6)
    label = _mark(
        group, "text", "", x=x, y=12, dx=7 if right else -7, text_anchor="start" if right else "end"
    )
    label.text = f"kept: step {step:,.0f}"


def _round_values(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between two bounds: about five of them, or 1, 2, 5 times the powers of ten."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        multiples = (1, 2, 5) if high / low < 300 else (1,)
        return [v for power in powers for v in (m * 10.0**power for m in multiples) if low <= v <= high]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The mean over `window` steps centred on each.

    At the start, where the loss falls fast, it narrows so that it lags on neither side; at the end it
    reaches over what there is, or the last point would be as noisy as one step.
    """
    losses = np.concatenate([[0.0], np.cumsum([loss for _, loss in points])])
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(window // 2, index)
        begin, end = index - reach, min(index + reach + 1, len(points))
        smooth.append((step, float((losses[end] - losses[begin]) / (end - begin))))
    return smooth


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most `CURVE_POINTS` of the points, keeping the extremes of each stretch in their order."""
    if len(points) <= CURVE_POINTS:
        return points
    kept: list[tuple[float, float]] = []
    for stretch in np.array_split(np.arange(len(points)), CURVE_POINTS // 2):
        part = [points[i] for i in stretch]
        ends = {
            min(range(len(part)), key=lambda i: part[i][1]),
            max(range(len(part)), key=lambda i: part[i][1]),
        }
        kept.extend(part[i] for i in sorted(ends))
    return kept


def _line(plot: ElementTree.Element, kind: str, points: Sequence[tuple[float, float]], scale: _Scale) -> None:
    """A polyline in the stretched viewport; its width stays in pixels."""
    if len(points) < 2:
        return
    places = (f"{_short(1000 * scale.across(x))},{_short(1000 * scale.down(y))}" for x, y in points)
    _mark(plot, "polyline", kind, points=" ".join(places), vector_effect="non-scaling-stroke")


def _dot(group: ElementTree.Element, kind: str, x: str, y: int) -> None:
    """The mark of a stage; shapes differ, so that it survives a grey printer and colour-blind eyes."""
    if kind == "quantized":
        corner = _mark(group, "svg", "", x=x, y=y, overflow="visible")
        _mark(corner, "rect", "dot", x=-4, y=-4, width=8, height=8)
    elif kind == "baseline":
        _mark(group, "line", "dot", x1=x, x2=x, y1=y - 5, y2=y + 5)
    else:
        _mark(group, "circle", "dot", cx=x, cy=y, r=4.5)


def _svg(height: float, description: str) -> ElementTree.Element:
    """A figure as wide as its place, with words for those who cannot see it."""
    svg = ElementTree.Element("svg", {"class": "figure", "width": "100%", "height": _short(height)})
    svg.attrib |= {"role": "img", "aria-label": description} if description else {"aria-hidden": "true"}
    return svg


def _mark(
    parent: ElementTree.Element, tag: str, kind: str = "", **places: float | str
) -> ElementTree.Element:
    """Add an element of a CSS class; underscores of attribute names become hyphens."""
    attributes = {
        name.replace("_", "-"): value if isinstance(value, str) else _short(value)
        for name, value in places.items()
    }
    return ElementTree.SubElement(parent, tag, {"class": kind, **attributes} if kind else attributes)


def _markup(svg: ElementTree.Element) -> Markup:
    """The element as text that a template may include: the serialiser has escaped what needs it."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _percent(share: float) -> str:
    return _short(100 * share) + "%"


def _short(value: float) -> str:
    """A coordinate to a hundredth, without trailing zeros."""
    return f"{round(value, 2) + 0.0:g}"

"""The loss curve of a training run, and that of a metric, as SVG figures; see `smidgen.figures.svg`."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from smidgen.figures.svg import coordinate, figure, mark, markup, percentage

CURVE_HEIGHT = 260
"""Height of the loss curve in pixels, without its axis."""
CURVE_POINTS = 1200
"""Maximum number of points of a drawn curve: the lowest and the highest of each segment."""
LOG_FROM = 12.0
"""Ratio of highest to lowest loss from which the axis is logarithmic; else its end would be flat."""
SMOOTHED_SHARE = 25
"""The running mean spans one 25th of the steps."""
METRIC_HEIGHT = 90
"""Height of a metric's curve in pixels, without its axis."""


class Curve(NamedTuple):
    """A loss curve with facts for its caption.

    Attributes:
        svg: the figure.
        window: number of steps in the running mean; 1 if the line is not smoothed.
        logarithmic: whether the vertical axis is logarithmic.
        gap: validation loss minus mean training loss at the kept step, marked in the figure; None if unknown.
    """

    svg: Markup
    window: int
    logarithmic: bool
    gap: float | None = None


def loss_curve(
    training: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]] = (),
    chosen_step: float | None = None,
) -> Curve | None:
    """Draw training loss (raw and running mean), validation points, and the kept step with its gap.

    Args:
        training: (step, loss in nats) in order.
        validation: (step, loss in nats) in order.
        chosen_step: the step of the kept checkpoint.

    Returns:
        The curve, or None if there are fewer than two points.
    """
    if len(training) + len(validation) < 2:
        return None
    losses = [loss for _, loss in (*training, *validation)]
    logarithmic = min(losses) > 0 and max(losses) / min(losses) >= LOG_FROM
    first = min(step for step, _ in (*training, *validation))
    last = max(step for step, _ in (*training, *validation))
    scale = _Scale(first, max(last, first + 1), *_bounds(losses, logarithmic), logarithmic)
    window = window_of(len(training))
    svg = figure(CURVE_HEIGHT + 20, "Loss against training step")
    _grid(svg, scale)
    plot = mark(svg, "svg", "", width="100%", height=CURVE_HEIGHT, viewBox="0 0 1000 1000")
    plot.set("preserveAspectRatio", "none")
    if window > 1:
        _line(plot, "raw", _thinned(training), scale)
    smooth = running_mean(training, window)
    _line(plot, "training", _thinned(smooth), scale)
    _line(plot, "validation", validation, scale)
    for step, loss in validation:
        point = mark(svg, "circle", "validation", cx=scale.x(step), cy=scale.y(loss), r=3)
        mark(point, "title").text = f"validation at step {step:,.0f}: {loss:.4g}"
    gap = None
    if chosen_step is not None:
        _chosen(svg, scale, chosen_step, validation)
        trained, validated = dict(smooth).get(chosen_step), dict(validation).get(chosen_step)
        if trained is not None and validated is not None:
            gap = _gap(svg, scale, chosen_step, trained, validated)
    return Curve(markup(svg), window, logarithmic, gap)


def metric_curve(
    points: Sequence[tuple[float, float]], steps: tuple[float, float], chosen_step: float | None = None
) -> Markup | None:
    """Draw a metric over the steps of a loss curve, below which it stands.

    Args:
        points: (step, value) in order.
        steps: first and last step of the axis.
        chosen_step: the step of the kept checkpoint.

    Returns:
        The figure, or None if there are fewer than two points.
    """
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    is_rate = min(values) >= 0 and max(values) <= 1
    low, high = (0.0, 1.0) if is_rate else _bounds(values, False)
    scale = _Scale(steps[0], max(steps[1], steps[0] + 1), low, high, False, METRIC_HEIGHT)
    svg = figure(METRIC_HEIGHT + 4, "Metric on validation rows against training step")
    for value in (low, (low + high) / 2, high):
        y = scale.y(value)
        mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        label = mark(svg, "text", "tick", x=0, y=coordinate(float(y) + (12 if value == high else -4)))
        label.text = f"{value:g}"
    plot = mark(svg, "svg", "", width="100%", height=METRIC_HEIGHT, viewBox="0 0 1000 1000")
    plot.set("preserveAspectRatio", "none")
    _line(plot, "validation", points, scale)
    for step, value in points:
        point = mark(svg, "circle", "validation", cx=scale.x(step), cy=scale.y(value), r=3)
        mark(point, "title").text = f"step {step:,.0f}: {value:.4g}"
    if chosen_step is not None:
        x = scale.x(chosen_step)
        group = mark(svg, "g", "chosen")
        mark(group, "line", "", x1=x, x2=x, y1=0, y2=METRIC_HEIGHT)
        for at, value in points:
            if at == chosen_step:
                mark(group, "circle", "", cx=x, cy=scale.y(value), r=6)
    return markup(svg)


def window_of(num_steps: int) -> int:
    """Return the steps of the running mean: odd, so that it can be centred on a step."""
    return max(1, num_steps // SMOOTHED_SHARE) | 1


class _Scale(NamedTuple):
    """Mapping of steps and losses to positions in the figure."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool
    height: float = CURVE_HEIGHT

    def across(self, step: float) -> float:
        """Return the horizontal position of a step as a fraction of the width."""
        return (step - self.first) / (self.last - self.first)

    def down(self, loss: float) -> float:
        """Return the vertical position of a loss as a fraction of the height, from the top."""
        low, high, loss = map(math.log if self.logarithmic else float, (self.low, self.high, loss))
        return (high - loss) / (high - low)

    def x(self, step: float) -> str:
        return percentage(self.across(step))

    def y(self, loss: float) -> str:
        return coordinate(self.height * self.down(loss))


def _bounds(losses: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """Return the lowest and the highest loss of the axis, with a margin."""
    low, high = min(losses), max(losses)
    if logarithmic:
        return low / 1.15, high * 1.15
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - air, high + air


def _grid(svg: ElementTree.Element, scale: _Scale) -> None:
    """Draw horizontal grid lines labelled with the loss, and the steps below."""
    for loss in _round_values(scale.low, scale.high, scale.logarithmic):
        y = scale.y(loss)
        mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        mark(svg, "text", "tick", x=0, y=coordinate(float(y) - 4)).text = f"{loss:g}"
    bottom = CURVE_HEIGHT
    mark(svg, "line", "axis", x1=0, x2="100%", y1=bottom, y2=bottom)
    for step in _round_values(scale.first, scale.last, False):
        share = scale.across(step)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        label = mark(svg, "text", "tick", x=percentage(share), y=bottom + 16, text_anchor=anchor)
        label.text = f"{step:,.0f}"


def _chosen(
    svg: ElementTree.Element, scale: _Scale, step: float, validation: Sequence[tuple[float, float]]
) -> None:
    """Draw a line at the kept step, and a ring around its validation point."""
    x, right = scale.x(step), scale.across(step) < 0.6
    group = mark(svg, "g", "chosen")
    mark(group, "line", "", x1=x, x2=x, y1=0, y2=CURVE_HEIGHT)
    for at, loss in validation:
        if at == step:
            mark(group, "circle", "", cx=x, cy=scale.y(loss), r=6)
    label = mark(group, "text", "", x=x, y=12, dx=7 if right else -7, text_anchor="start" if right else "end")
    label.text = f"kept: step {step:,.0f}"


def _gap(svg: ElementTree.Element, scale: _Scale, step: float, training: float, validation: float) -> float:
    """Draw the gap between the two losses at the kept step, beside its line, and return it."""
    right = scale.across(step) < 0.6
    group = mark(svg, "g", "gap", transform=f"translate({7 if right else -7} 0)")
    x, top, bottom = scale.x(step), *sorted((float(scale.y(training)), float(scale.y(validation))))
    mark(group, "line", "", x1=x, x2=x, y1=top, y2=bottom)
    y = bottom + 18 if bottom + 24 < CURVE_HEIGHT else top - 12  # where neither curve runs through it
    label = mark(group, "text", "", x=x, y=y, text_anchor="start" if right else "end")
    label.text = f"gap {validation - training:.2g}"
    return validation - training


def _round_values(low: float, high: float, logarithmic: bool) -> list[float]:
    """Return round numbers between two bounds: about five, or 1, 2, 5 times powers of ten."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        multiples = (1, 2, 5) if high / low < 300 else (1,)
        return [v for power in powers for v in (m * 10.0**power for m in multiples) if low <= v <= high]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Return the mean over `window` steps centred on each step.

    At the start, where the loss falls fast, the window narrows to stay symmetric. At the end it is truncated
    on the right only; a symmetric one would make the last point as noisy as a single step.
    """
    losses = np.concatenate([[0.0], np.cumsum([loss for _, loss in points])])
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(window // 2, index)
        begin, end = index - reach, min(index + reach + 1, len(points))
        smooth.append((step, float((losses[end] - losses[begin]) / (end - begin))))
    return smooth


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most `CURVE_POINTS` of the points, keeping the extremes of each segment in order."""
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
    """Draw a polyline in the stretched viewport; its width stays in pixels."""
    if len(points) < 2:
        return
    places = (f"{coordinate(1000 * scale.across(x))},{coordinate(1000 * scale.down(y))}" for x, y in points)
    mark(plot, "polyline", kind, points=" ".join(places), vector_effect="non-scaling-stroke")

"""Axes and lines of curves over the steps of a training, as SVG; see `smidgen.figures.svg`."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from smidgen.figures.svg import coordinate, mark, percentage

Points = Sequence[tuple[float, float]]
"""(step, value) in order."""
CURVE_POINTS = 1200
"""Maximum number of points of a drawn curve: the lowest and the highest of each segment."""
LOG_FROM = 12.0
"""Ratio of highest to lowest loss from which the axis is logarithmic; else its end would be flat."""
SMOOTHED_SHARE = 25
"""The running mean spans one 25th of the steps."""


class Scale(NamedTuple):
    """Mapping of steps and losses to positions in the figure."""

    first: float
    last: float
    low: float
    high: float
    logarithmic: bool
    height: float

    def across(self, step: float) -> float:
        """Return the horizontal position of a step as a fraction of the width."""
        return (step - self.first) / (self.last - self.first)

    def down(self, loss: float) -> float:
        """Return the vertical position of a loss as a fraction of the height, from the top."""
        low, high, loss = map(math.log if self.logarithmic else float, (self.low, self.high, loss))
        return (high - loss) / (high - low)

    def x(self, step: float) -> str:
        """Return the horizontal position as an attribute."""
        return percentage(self.across(step))

    def y(self, loss: float) -> str:
        """Return the vertical position as an attribute."""
        return coordinate(self.height * self.down(loss))


def scale_of(losses: Sequence[float], steps: tuple[float, float], height: float) -> Scale:
    """Return the axes of some losses over steps; the vertical one is logarithmic if the losses fall far."""
    logarithmic = min(losses) > 0 and max(losses) / min(losses) >= LOG_FROM
    first, last = steps
    return Scale(first, max(last, first + 1), *bounds(losses, logarithmic), logarithmic, height)


def bounds(losses: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """Return the lowest and the highest loss of the axis, with a margin."""
    low, high = min(losses), max(losses)
    if logarithmic:
        return low / 1.15, high * 1.15
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - air, high + air


def plot_area(svg: ElementTree.Element, height: float) -> ElementTree.Element:
    """Add the viewport in which lines stretch with the width of the figure."""
    plot = mark(svg, "svg", "", width="100%", height=height, viewBox="0 0 1000 1000")
    plot.set("preserveAspectRatio", "none")
    return plot


def grid(svg: ElementTree.Element, scale: Scale) -> None:
    """Draw horizontal grid lines labelled with the loss, and the steps below."""
    for loss in round_values(scale.low, scale.high, scale.logarithmic):
        y = scale.y(loss)
        mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        mark(svg, "text", "tick", x=0, y=coordinate(float(y) - 4)).text = f"{loss:g}"
    bottom = scale.height
    mark(svg, "line", "axis", x1=0, x2="100%", y1=bottom, y2=bottom)
    for step in round_values(scale.first, scale.last, False):
        share = scale.across(step)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        label = mark(svg, "text", "tick", x=percentage(share), y=bottom + 16, text_anchor=anchor)
        label.text = f"{step:,.0f}"


def phase_lines(svg: ElementTree.Element, scale: Scale, starts: Sequence[float], *, named: bool) -> None:
    """Draw a line where each phase after the first begins, with its number if `named`."""
    for number, step in enumerate(starts[1:], start=2):
        x = scale.x(step)
        group = mark(svg, "g", "phase")
        mark(group, "line", "", x1=x, x2=x, y1=0, y2=scale.height)
        if named:
            mark(group, "text", "", x=x, y=scale.height - 6, dx=5).text = f"phase {number}"


def round_values(low: float, high: float, logarithmic: bool) -> list[float]:
    """Return round numbers between two bounds: about five, or 1, 2, 5 times powers of ten."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        multiples = (1, 2, 5) if high / low < 300 else (1,)
        return [v for power in powers for v in (m * 10.0**power for m in multiples) if low <= v <= high]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def window_of(num_steps: int) -> int:
    """Return the steps of the running mean: odd, so that it can be centred on a step."""
    return max(1, num_steps // SMOOTHED_SHARE) | 1


def running_mean(points: Points, window: int) -> list[tuple[float, float]]:
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


def thinned(points: Points) -> Points:
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


def line(plot: ElementTree.Element, kind: str, points: Points, scale: Scale) -> None:
    """Draw a polyline in the stretched viewport; its width stays in pixels."""
    if len(points) < 2:
        return
    places = (f"{coordinate(1000 * scale.across(x))},{coordinate(1000 * scale.down(y))}" for x, y in points)
    mark(plot, "polyline", kind, points=" ".join(places), vector_effect="non-scaling-stroke")


def dots(svg: ElementTree.Element, points: Points, scale: Scale, what: str) -> None:
    """Draw a dot for each measurement, with its step and value as a tooltip."""
    for step, value in points:
        point = mark(svg, "circle", "validation", cx=scale.x(step), cy=scale.y(value), r=3)
        mark(point, "title").text = f"{what}step {step:,.0f}: {value:.4g}"

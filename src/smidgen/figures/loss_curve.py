"""The loss curve of a training run, and that of a metric, as SVG figures; see `smidgen.figures.svg`."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from smidgen.figures.step_axes import (
    Points,
    Scale,
    bounds,
    dots,
    grid,
    line,
    phase_lines,
    plot_area,
    running_mean,
    scale_of,
    thinned,
    window_of,
)
from smidgen.figures.svg import coordinate, figure, mark, markup

CURVE_HEIGHT = 260
"""Height of the loss curve in pixels, without its axis."""
METRIC_HEIGHT = 90
"""Height of a metric's curve in pixels, without its axis."""
LABEL_SHARE, LABEL_TOP, LABEL_ROOM = 0.12, 34, 12
"""Share of the width that a label takes; the highest place of the gap's; pixels from it to a curve."""


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
    training: Points,
    validation: Points = (),
    chosen_step: float | None = None,
    phases: Sequence[float] = (),
) -> Curve | None:
    """Draw training loss (raw and running mean), validation points, and the kept step with its gap.

    Args:
        training: (step, loss) in order.
        validation: (step, loss) in order.
        chosen_step: the step of the kept checkpoint.
        phases: first step of each phase of the training, if it has several.

    Returns:
        The curve, or None if there are fewer than two points.
    """
    both = (*training, *validation)
    if len(both) < 2:
        return None
    steps = [step for step, _ in both]
    scale = scale_of([loss for _, loss in both], (min(steps), max(steps)), CURVE_HEIGHT)
    window = window_of(len(training))
    svg = figure(CURVE_HEIGHT + 20, "Loss against training step")
    grid(svg, scale)
    phase_lines(svg, scale, phases, named=True)
    plot = plot_area(svg, CURVE_HEIGHT)
    if window > 1:
        line(plot, "raw", thinned(training), scale)
    smooth = running_mean(training, window)
    line(plot, "training", thinned(smooth), scale)
    line(plot, "validation", validation, scale)
    dots(svg, validation, scale, "validation at ")
    gap = None
    if chosen_step is not None:
        _chosen(svg, scale, chosen_step, validation)
        trained, validated = dict(smooth).get(chosen_step), dict(validation).get(chosen_step)
        if trained is not None and validated is not None:
            _gap(svg, scale, chosen_step, (trained, validated), (smooth, validation))
            gap = validated - trained
    return Curve(markup(svg), window, scale.logarithmic, gap)


def metric_curve(
    points: Points, steps: tuple[float, float], chosen_step: float | None = None
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
    low, high = (0.0, 1.0) if is_rate else bounds(values, False)
    scale = Scale(steps[0], max(steps[1], steps[0] + 1), low, high, False, METRIC_HEIGHT)
    svg = figure(METRIC_HEIGHT + 4, "Metric on validation rows against training step")
    for value in (low, (low + high) / 2, high):
        y = scale.y(value)
        mark(svg, "line", "grid", x1=0, x2="100%", y1=y, y2=y)
        label = mark(svg, "text", "tick", x=0, y=coordinate(float(y) + (12 if value == high else -4)))
        label.text = f"{value:g}"
    line(plot_area(svg, METRIC_HEIGHT), "validation", points, scale)
    dots(svg, points, scale, "")
    if chosen_step is not None:
        x = scale.x(chosen_step)
        group = mark(svg, "g", "chosen")
        mark(group, "line", "", x1=x, x2=x, y1=0, y2=METRIC_HEIGHT)
        for at, value in points:
            if at == chosen_step:
                mark(group, "circle", "", cx=x, cy=scale.y(value), r=6)
    return markup(svg)


def _chosen(svg: ElementTree.Element, scale: Scale, step: float, validation: Points) -> None:
    """Draw a line at the kept step, and a ring around its validation point."""
    x, right = scale.x(step), scale.across(step) < 0.6
    group = mark(svg, "g", "chosen")
    mark(group, "line", "", x1=x, x2=x, y1=0, y2=CURVE_HEIGHT)
    for at, loss in validation:
        if at == step:
            mark(group, "circle", "", cx=x, cy=scale.y(loss), r=6)
    label = mark(group, "text", "", x=x, y=12, dx=7 if right else -7, text_anchor="start" if right else "end")
    label.text = f"kept: step {step:,.0f}"


def _gap(
    svg: ElementTree.Element,
    scale: Scale,
    step: float,
    ends: tuple[float, float],
    curves: Sequence[Points],
) -> None:
    """Draw the gap from the training loss to the validation loss at the kept step, beside its line."""
    right = scale.across(step) < 0.6
    group = mark(svg, "g", "gap", transform=f"translate({7 if right else -7} 0)")
    x, top, bottom = scale.x(step), *sorted(float(scale.y(loss)) for loss in ends)
    mark(group, "line", "", x1=x, x2=x, y1=top, y2=bottom)
    y = _free_height(scale, scale.across(step), right, curves, (top + bottom) / 2)
    label = mark(group, "text", "", x=x, y=y, dx=6 if right else -6, text_anchor="start" if right else "end")
    label.text = f"gap {ends[1] - ends[0]:.2g}"


def _free_height(scale: Scale, share: float, right: bool, curves: Sequence[Points], wanted: float) -> float:
    """Return the height, nearest to `wanted`, of a short text beside a step that no curve runs through.

    The label of the kept step is at the top. Where no place is free, it is that farthest from the curves.
    """
    side = np.linspace(0, LABEL_SHARE if right else -LABEL_SHARE, 12)
    steps = scale.first + (share + side) * (scale.last - scale.first)
    heights = np.concatenate(
        [
            [scale.height * scale.down(loss) for loss in np.interp(steps, *np.transpose(points))]
            for points in curves
        ]
    )
    places = np.arange(LABEL_TOP, scale.height - 4, 2.0)
    room = np.abs(places[:, None] - 4 - heights).min(axis=1)  # from the middle of the letters
    free = places[room >= LABEL_ROOM]
    best = free[np.argmin(np.abs(free - wanted))] if free.size else places[np.argmax(room)]
    return float(best)

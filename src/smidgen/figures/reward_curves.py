"""Small figures of what happened in a training on rewards, one for each quantity."""

from markupsafe import Markup

from smidgen.figures.step_axes import (
    Points,
    grid,
    line,
    plot_area,
    running_mean,
    scale_of,
    thinned,
    window_of,
)
from smidgen.figures.svg import figure, markup

HEIGHT = 90
"""Height of a figure in pixels, without its axis."""


def reward_curve(name: str, points: Points, steps: tuple[float, float]) -> Markup | None:
    """Draw a quantity of each step, and its running mean.

    Args:
        name: of the quantity.
        points: (step, value) in order.
        steps: first and last step of the axis.

    Returns:
        The figure, or None if there are fewer than two points.
    """
    if len(points) < 2:
        return None
    scale = scale_of([value for _, value in points], steps, HEIGHT)
    svg = figure(HEIGHT + 20, f"{name} against training step")
    grid(svg, scale)
    plot = plot_area(svg, HEIGHT)
    window = window_of(len(points))
    if window > 1:
        line(plot, "raw", thinned(points), scale)
    line(plot, "training", thinned(running_mean(points, window)), scale)
    return markup(svg)

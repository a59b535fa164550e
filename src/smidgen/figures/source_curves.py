"""The loss of each source of a mix over the steps of a training, as small figures with the same axes."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from smidgen.figures.step_axes import (
    Points,
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
from smidgen.figures.svg import figure, markup

HEIGHT = 120
"""Height of a figure in pixels, without its axis."""


class SourceLosses(NamedTuple):
    """The losses of one source.

    Attributes:
        name: of the source.
        training: (step, loss) of the steps with rows of it, in order.
        validation: (step, loss) in order.
    """

    name: str
    training: Points
    validation: Points


def source_curves(
    sources: Sequence[SourceLosses], steps: tuple[float, float], phases: Sequence[float] = ()
) -> list[Markup]:
    """Draw the running mean of the training loss of each source, and its validation points.

    Args:
        sources: the sources.
        steps: first and last step of the axis.
        phases: first step of each phase of the training, if it has several.

    Returns:
        A figure for each source; none if there are no losses.
    """
    losses = [loss for source in sources for points in source[1:] for _, loss in points]
    if not losses:
        return []
    scale = scale_of(losses, steps, HEIGHT)
    figures = []
    for source in sources:
        svg = figure(HEIGHT + 20, f"Loss of {source.name} against training step")
        grid(svg, scale)
        phase_lines(svg, scale, phases, named=False)
        plot = plot_area(svg, HEIGHT)
        smooth = running_mean(source.training, window_of(len(source.training)))
        line(plot, "training", thinned(smooth), scale)
        line(plot, "validation", source.validation, scale)
        dots(svg, source.validation, scale, "validation at ")
        figures.append(markup(svg))
    return figures

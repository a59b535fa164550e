"""The losses of several sources: the same axes, and gaps where a source is not drawn."""

import re

from smidgen.figures.source_curves import SourceLosses, source_curves

STEPS = (1.0, 100.0)


def test_every_source_has_a_figure_on_the_same_axes() -> None:
    low = SourceLosses("low", [(float(step), 1.0) for step in range(1, 101)], [(50.0, 1.5), (100.0, 1.25)])
    high = SourceLosses("high <b>", [(float(step), 3.0) for step in range(40, 61)], [])
    first, second = source_curves([low, high], STEPS, phases=[1, 40])
    ticks = [re.findall(r'class="tick"[^>]*>([\d.,]+)<', figure) for figure in (first, second)]
    assert ticks[0] == ticks[1] and ticks[0]
    assert first.count("<circle") == 2 and second.count("<circle") == 0
    assert "validation at step 50: 1.5" in first and "high &lt;b&gt;" in second
    assert first.count('class="phase"') == 1 and "phase 2" not in first

    def across(figure: str) -> list[float]:
        points = re.search(r'<polyline[^>]*class="training"[^>]*points="([^"]+)"', figure)
        points = points or re.search(r'<polyline[^>]*points="([^"]+)"[^>]*class="training"', figure)
        assert points
        return [float(point.split(",")[0]) for point in points[1].split()]

    assert (across(first)[0], across(first)[-1]) == (0, 1000)
    assert 390 < across(second)[0] < 400 and 590 < across(second)[-1] < 600


def test_no_figures_without_losses() -> None:
    assert source_curves([], STEPS) == source_curves([SourceLosses("a", [], [])], STEPS) == []

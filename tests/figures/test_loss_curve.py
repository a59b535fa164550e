"""The loss curve: long runs, steep runs, and hardly any run at all."""

import re
from xml.etree import ElementTree

import pytest

from smidgen.figures.loss_curve import loss_curve, metric_curve
from smidgen.figures.step_axes import CURVE_POINTS


def test_loss_curve_keeps_the_extremes_of_a_long_run() -> None:
    points = [(float(step), 1.0) for step in range(1, 20_001)]
    points[7000] = (7001.0, 3.0)
    curve = loss_curve(points, [(10_000.0, 1.1)], chosen_step=10_000.0)
    assert curve is not None and not curve.logarithmic
    svg = ElementTree.fromstring(curve.svg)
    raw = svg.find(".//polyline[@class='raw']").attrib["points"].split()  # type: ignore[union-attr]
    heights = [float(point.split(",")[1]) for point in raw]
    assert len(raw) <= CURVE_POINTS and min(heights) < 100 < 800 < max(heights)
    assert "kept: step 10,000" in curve.svg


def test_loss_curve_turns_logarithmic_when_the_loss_falls_far() -> None:
    curve = loss_curve([(float(step), 10.0 ** (1 - step / 10)) for step in range(31)])
    assert curve is not None and curve.logarithmic
    labels = re.findall(r'class="tick" x="0" y="[\d.-]+">([\d.]+)<', curve.svg)
    assert {"0.01", "0.1", "1", "10"} <= set(labels)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)]])
def test_no_curve_from_less_than_two_points(points: list[tuple[float, float]]) -> None:
    assert loss_curve(points) is None


def test_flat_and_single_step_curves_are_drawn() -> None:
    assert loss_curve([(1.0, 0.0), (2.0, 0.0)]) is not None
    assert loss_curve([(1.0, 2.0)], [(1.0, 2.1)], chosen_step=1.0) is not None


def test_the_gap_is_marked_at_the_kept_step() -> None:
    training = [(float(step), 0.3) for step in range(1, 101)]
    curve = loss_curve(training, [(50.0, 0.5), (100.0, 0.7)], chosen_step=50.0)
    assert curve is not None and curve.gap == pytest.approx(0.2)
    svg = ElementTree.fromstring(curve.svg)
    line = svg.find("./g[@class='gap']/line")
    point = svg.find("./circle[@class='validation']")
    assert line is not None and point is not None and "gap 0.2" in curve.svg
    assert line.attrib["x1"] == point.attrib["cx"] and line.attrib["y1"] == point.attrib["cy"]
    assert float(line.attrib["y2"]) > float(line.attrib["y1"])
    unmarked = loss_curve(training, [(50.0, 0.5)], chosen_step=70.0)
    assert unmarked is not None and unmarked.gap is None and "gap" not in unmarked.svg


def test_a_metric_has_the_steps_of_the_losses() -> None:
    points = [(50.0, 0.25), (100.0, 0.75)]
    svg = ElementTree.fromstring(metric_curve(points, (1.0, 100.0), 100.0) or "")
    places = [(p.attrib["cx"], p.attrib["cy"]) for p in svg.findall("./circle[@class='validation']")]
    assert places == [("49.49%", "67.5"), ("100%", "22.5")], "a rate has the axis from 0 to 1"
    assert svg.find("./g[@class='chosen']/circle") is not None
    beyond = metric_curve([(1.0, -3.0), (2.0, 5.0)], (1.0, 2.0))
    assert beyond is not None and "-3.48" in beyond
    assert metric_curve(points[:1], (1.0, 100.0)) is None

"""The curve of accuracy against coverage: places, its band, and the chosen point."""

from xml.etree import ElementTree

import pytest

from smidgen.figures.coverage_curve import HEIGHT, CurvePoint, coverage_curve, curve_points


def test_points_band_and_the_chosen_one():
    points = [CurvePoint(0.25, 0.9, 0.8, 1.0), CurvePoint(1.0, 0.6, 0.55, 0.65)]
    drawn = coverage_curve(points, "<of a judge>", chosen=(0.25, 0.9))
    svg = ElementTree.fromstring(str(drawn))
    assert svg.attrib["aria-label"] == "<of a judge>"
    places = [circle.attrib for circle in svg.findall(".//g[@class='after']/circle")]
    low = 0.5  # a twentieth below the band
    assert [(place["cx"], float(place["cy"])) for place in places] == [
        ("25%", pytest.approx(HEIGHT * (1 - 0.9) / (1 - low))),
        ("100%", pytest.approx(HEIGHT * (1 - 0.6) / (1 - low))),
    ]
    band = svg.find(".//polygon")
    assert band is not None and band.attrib["points"].split() == ["250,0", "1000,700", "1000,900", "250,400"]
    ring = svg.find(".//g[@class='chosen']/circle")
    assert ring is not None and ring.attrib["cx"] == "25%"
    assert svg.findtext(".//g[@class='after']/title") == (
        "25.0\N{NARROW NO-BREAK SPACE}% answered, 90.0\N{NARROW NO-BREAK SPACE}% of them right "
        "(80.0\N{NARROW NO-BREAK SPACE}% to 100.0\N{NARROW NO-BREAK SPACE}%)"
    )


def test_a_report_without_numbers_has_no_curve():
    assert coverage_curve([], "") is None
    rows = [
        {"coverage": 0.5, "accuracy": {"value": None}},
        {"coverage": None},
        {"coverage": 0.5, "accuracy": 3},
    ]
    assert curve_points(rows) == []
    assert curve_points([{"coverage": 0.5, "accuracy": {"value": 0.9}}]) == [CurvePoint(0.5, 0.9, 0.9, 0.9)]

"""Interval plots: values at their shares of the width."""

from xml.etree import ElementTree

from smidgen.figures.plots import Interval, interval_plot


def test_interval_plot_places_values_as_shares() -> None:
    drawn = interval_plot(
        [Interval("after", "<here>", {"value": 0.25, "low": 0.2, "high": 1.7})],
        reference=0.5,
        description='"a"',
    )
    svg = ElementTree.fromstring(drawn)
    assert svg.find(".//circle").attrib["cx"] == "25%"  # type: ignore[union-attr]
    span = svg.find(".//line[@class='span']")
    assert span is not None and (span.attrib["x1"], span.attrib["x2"]) == ("20%", "100%")
    assert svg.findtext(".//title") == "<here>"
    assert (
        ElementTree.fromstring(interval_plot([Interval("after", "", {})], description="")).find(".//circle")
        is None
    )

"""Inline SVG figures with a fixed font size at every width.

Horizontal positions are percentages of the figure, vertical positions are pixels, and curves stretch inside a
nested viewport, so that text has the same size on phones, in print and on wide screens. Colours come from CSS
classes, so that one figure works in light and dark mode and in print. Equal data give equal bytes.
"""

from xml.etree import ElementTree

from markupsafe import Markup


def figure(height: float, description: str) -> ElementTree.Element:
    """Create a figure of full width, with a text alternative for screen readers."""
    svg = ElementTree.Element("svg", {"class": "figure", "width": "100%", "height": coordinate(height)})
    svg.attrib |= {"role": "img", "aria-label": description} if description else {"aria-hidden": "true"}
    return svg


def mark(parent: ElementTree.Element, tag: str, kind: str = "", **places: float | str) -> ElementTree.Element:
    """Add an element with a CSS class; underscores in attribute names become hyphens."""
    attributes = {
        name.replace("_", "-"): value if isinstance(value, str) else coordinate(value)
        for name, value in places.items()
    }
    return ElementTree.SubElement(parent, tag, {"class": kind, **attributes} if kind else attributes)


def markup(svg: ElementTree.Element) -> Markup:
    """Serialise the element for inclusion in a template; text is already escaped."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def percentage(share: float) -> str:
    """Format a horizontal position or width, given as a fraction of the figure's width."""
    return coordinate(100 * share) + "%"


def coordinate(value: float) -> str:
    """Format a coordinate with at most two decimals."""
    return f"{round(value, 2) + 0.0:g}"  # + 0.0 turns -0.0 into 0.0

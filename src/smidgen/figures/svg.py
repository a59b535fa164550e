"""Figures as inline SVG that keep their type size at every width.

Horizontal places are percentages of the figure, vertical places are pixels, and curves stretch inside a
nested viewport, so a phone and a printed page get the same lettering as a wide screen. Colours come from CSS
classes, which is how one figure serves light, dark and paper. Equal data give equal bytes.
"""

from xml.etree import ElementTree

from markupsafe import Markup


def figure(height: float, description: str) -> ElementTree.Element:
    """A figure as wide as its place, with words for those who cannot see it."""
    svg = ElementTree.Element("svg", {"class": "figure", "width": "100%", "height": coordinate(height)})
    svg.attrib |= {"role": "img", "aria-label": description} if description else {"aria-hidden": "true"}
    return svg


def mark(parent: ElementTree.Element, tag: str, kind: str = "", **places: float | str) -> ElementTree.Element:
    """Add an element of a CSS class; underscores of attribute names become hyphens."""
    attributes = {
        name.replace("_", "-"): value if isinstance(value, str) else coordinate(value)
        for name, value in places.items()
    }
    return ElementTree.SubElement(parent, tag, {"class": kind, **attributes} if kind else attributes)


def markup(svg: ElementTree.Element) -> Markup:
    """The element as text that a template may include: the serialiser has escaped what needs it."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def percentage(share: float) -> str:
    """A horizontal place or width, as a share of the figure's."""
    return coordinate(100 * share) + "%"


def coordinate(value: float) -> str:
    """A coordinate to a hundredth, without trailing zeros."""
    return f"{round(value, 2) + 0.0:g}"

"""What the model card of a judge tells besides its metrics: manipulations, and where it is confident."""

from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.export.card_figures import at, number, rate, with_interval

CONFIDENT_SHARE = 0.8
"""Share of the pairs on which a judge's accuracy is told beside that on all."""


def resistance(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield group or family, flips, flips with a benign edit, and n; nothing if no attack was asked."""
    found = at(report, "after", "attacks") or {}
    trained = found.get("trained_on") or ()
    names = {"all": "all", "trained": "all trained on", "held_out": "all held out"}
    rows = [(names[name], facts) for name, facts in (found.get("groups") or {}).items()]
    for name, facts in (found.get("families") or {}).items():
        mark = f" ({'trained on' if name in trained else 'held out'})" if trained else ""
        rows.append((name + mark, facts))
    for label, facts in rows:
        yield label, rate(facts["flips"]), rate(facts["benign_flips"]), f"{facts['flips']['n']:,}"


def confident(report: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the accuracy of a judge where it is most confident, on about four fifths of the pairs."""
    points = at(report, "after", "abstention", "points") or []
    if len(points) < 2:
        return None
    kept = min(points[:-1], key=lambda point: abs(point["coverage"] - CONFIDENT_SHARE))
    return {
        "share": f"{kept['coverage']:.1%}",
        "accuracy": with_interval(kept["accuracy"]),
        "everywhere": number(points[-1]["accuracy"]["value"]),
    }

"""The training in the report: its curves, what they say, and its figures."""

from collections.abc import Mapping
from typing import Any

from smidgen.evaluation.curve_reading import read_curve
from smidgen.figures import formatting
from smidgen.figures.formatting import ABSENT, dig, finite, rows_at, table_at
from smidgen.figures.loss_curve import Curve, loss_curve, metric_curve
from smidgen.figures.pages import Fact
from smidgen.figures.source_curves import SourceLosses, source_curves


def training_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the formatted content of the section."""
    return {
        "curve": _curve(report),
        "sources": _sources(report),
        "reading": _reading(report),
        "metric": _metric(report),
        "training": _training(report),
    }


def _points(report: Mapping[str, Any], name: str, value: str = "loss") -> list[tuple[float, float]]:
    """Return the points of a curve of the training."""
    return _finite_points(table_at(report, "training"), name, value)


def _finite_points(curves: Mapping[str, Any], name: str, value: str = "loss") -> list[tuple[float, float]]:
    """Return the finite (step, value) points of one of several curves, sorted by step."""
    pairs = [(finite(row.get("step")), finite(row.get(value))) for row in rows_at(curves, name)]
    return sorted((step, loss) for step, loss in pairs if step is not None and loss is not None)


def _phases(report: Mapping[str, Any]) -> list[float]:
    """Return the first step of each phase of the training; empty if it has only one."""
    phases = dig(report, "training", "phases")
    found = map(finite, phases if isinstance(phases, list | tuple) else ())
    return [step for step in found if step is not None]


def _curve(report: Mapping[str, Any]) -> Curve | None:
    chosen = finite(dig(report, "training", "chosen_step"))
    return loss_curve(_points(report, "curve"), _points(report, "validation"), chosen, _phases(report))


def _sources(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the curve of each source of a mix with its name, and its last validation loss in words."""
    losses = [
        SourceLosses(str(row.get("name")), _finite_points(row, "curve"), _finite_points(row, "validation"))
        for row in rows_at(report, "training", "sources")
    ]
    steps = [step for step, _ in _points(report, "curve")]
    if not steps:
        return []
    figures = source_curves(losses, (steps[0], steps[-1]), _phases(report))
    return [
        {
            "name": source.name,
            "svg": svg,
            "last": f"{source.validation[-1][1]:.4g}" if source.validation else "",
        }
        for source, svg in zip(losses, figures, strict=True)
    ]


def _reading(report: Mapping[str, Any]) -> list[str]:
    """Return what the curves say, and which settings changed on the way."""
    training = table_at(report, "training")
    said = read_curve(
        _points(report, "curve"),
        _points(report, "validation"),
        chosen_step=finite(training.get("chosen_step")),
        planned_steps=finite(training.get("planned_steps")),
    )
    changes = [f"The settings changed on the way: {change}." for change in training.get("changes") or ()]
    return [sentence for sentence in (said, *changes) if sentence]


def _metric(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the curve of the task's metric with its caption; None if it was measured less than twice."""
    training, losses = table_at(report, "training"), _points(report, "curve")
    points = _points(report, "metric", "value")
    if not losses or not points:
        return None
    steps = losses[0][0], max(losses[-1][0], points[-1][0])
    svg = metric_curve(points, steps, finite(training.get("chosen_step")))
    name = str(training.get("metric_name") or "metric").replace("_", " ")
    rows = formatting.count(training.get("metric_rows"))
    chose = training.get("chosen_by") == "metric"
    return {"svg": svg, "name": name, "rows": rows, "chose": chose} if svg else None


def _training(report: Mapping[str, Any]) -> list[Fact]:
    training, validation = table_at(report, "training"), _points(report, "validation")
    chosen = finite(training.get("chosen_step"))
    kept = next((f"validation loss {loss:.4g}" for step, loss in validation if step == chosen), "")
    return [
        Fact(
            "Steps",
            formatting.count(training.get("steps")),
            f"{formatting.quantity(training.get('epochs'))} epochs",
        ),
        Fact("Checkpoint kept", ABSENT if chosen is None else f"step {formatting.count(chosen)}", kept),
        Fact("Speed", f"{formatting.quantity(training.get('tokens_per_second'))} tokens/s"),
        Fact("Time", formatting.seconds(training.get("seconds"))),
    ]

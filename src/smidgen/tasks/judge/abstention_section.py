"""The sections of a judge's report on abstention and on the judges of an ensemble."""

from collections.abc import Mapping
from typing import Any

from smidgen.figures import formatting
from smidgen.figures.columns import evaluated, numbers
from smidgen.figures.coverage_curve import coverage_curve, curve_points
from smidgen.figures.formatting import ABSENT, finite, percent, rows_at, table_at

CONFIDENCES = {
    "majority": "the lead of the winner, as a share of all judgements",
    "mean": "the gap between the two scores, averaged over both orders",
}
WEIGHTED = "the probability that a regression on the margins of the judges gives"


def abstention(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return accuracy against coverage of the last evaluated stage, and what its threshold keeps."""
    stage = next((s for s in reversed(evaluated(report)) if table_at(report, s.key, "abstention")), None)
    if stage is None:
        return None
    found = table_at(report, stage.key, "abstention")
    chosen = table_at(found, "chosen")
    points = curve_points(rows_at(found, "points"))
    coverage, risk = (finite(table_at(chosen, name).get("value")) for name in ("coverage", "risk"))
    place = None if coverage is None or risk is None else (coverage, 1 - risk)
    area, span = numbers(table_at(report, stage.key, "metrics", "aurc"))
    description = f"Accuracy of the {stage.long} against the share of pairs that it answers"
    drawn = coverage_curve(points, description, chosen=place)
    if drawn is None:
        return None
    is_weighted = "ensemble" in table_at(report, stage.key)
    method = str(found.get("method"))
    return {
        "stage": stage,
        "figure": drawn,
        "pairs": formatting.count(found.get("pairs")),
        "confidence": WEIGHTED if is_weighted and method == "mean" else CONFIDENCES.get(method, method),
        "aurc": area,
        "span": span,
        "meaningless": percent(1 - points[-1].accuracy),
        "sentence": guarantee_in_words(chosen) if chosen else "",
    }


def guarantee_in_words(chosen: Mapping[str, Any]) -> str:
    """Say what a threshold guarantees and what it does on the reported pairs."""
    target, delta = finite(chosen.get("target")), finite(chosen.get("delta"))
    if target is None or delta is None:
        return ""
    if finite(chosen.get("threshold")) is None:
        return (
            f"No threshold keeps the share of wrong verdicts at {percent(target)} on the calibration rows, "
            "so it answers no pair."
        )
    coverage, span = numbers(table_at(chosen, "coverage"))
    wrong, wrong_span = numbers(table_at(chosen, "risk"))
    errors = f", and {wrong} of these verdicts are wrong ({wrong_span})" if wrong != ABSENT else ""
    return (
        f"It answers {coverage} of the pairs ({span}){errors}; its threshold was chosen on other pairs so "
        f"that, with a probability of {percent(1 - delta)}, at most {percent(target)} are wrong."
    )


def ensemble(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the judges of an ensemble with their accuracy over pairs, and what the ensemble adds to each."""
    found = table_at(report, "after", "ensemble")
    rows = [
        (
            formatting.text(row.get("model")),
            formatting.count(row.get("samples")),
            ABSENT if finite(row.get("weight")) is None else f"{row['weight']:.3g}",
            *numbers(table_at(row, "pair_accuracy")),
            formatting.points(row.get("difference")),
            formatting.points_interval(row.get("difference")),
        )
        for row in rows_at(found, "judges")
    ]
    if not rows:
        return None
    value, span = numbers(table_at(report, "after", "metrics", "pair_accuracy"))
    return {
        "rows": rows,
        "combine": str(found.get("combine")),
        "samples": formatting.count(found.get("samples")),
        "value": value,
        "span": span,
    }

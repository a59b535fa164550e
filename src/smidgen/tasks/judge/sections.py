"""The judge's sections of a report: position bias, abstention, disagreements, length bias, calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from smidgen.figures import formatting
from smidgen.figures.columns import TALL_ROW, ReportColumn, evaluated, numbers, plain
from smidgen.figures.formatting import ABSENT, PERCENT, dig, finite, rows_at, table_at
from smidgen.figures.pages import page_template
from smidgen.figures.plots import Interval, axis, interval_plot, reliability_plot
from smidgen.tasks.judge.abstention_section import abstention, ensemble, guarantee_in_words
from smidgen.tasks.judge.disagreements import KINDS
from smidgen.tasks.judge.judge_words import lean_in_words
from smidgen.tasks.judge.resistance_section import resistance_section

KIND_WORDS = {
    "first": "first answer in both orders",
    "second": "second answer in both orders",
    "tie": "a tie in one order",
    "unreadable": "unparsed",
}
_LENGTH = {
    "accuracy_longer_better": "the longer answer is better",
    "accuracy_shorter_better": "the shorter answer is better",
}


class Disagreement(NamedTuple):
    """One pair whose orders disagree, formatted for display."""

    id: str
    subset: str
    kind: str
    words: str
    prompt: str
    answers: list[tuple[str, str, bool]]
    said: list[tuple[str, str, str]]


def judge_sections(report: Mapping[str, Any]) -> list[str]:
    """Render the sections as HTML; sections without data are left out."""
    columns = evaluated(report)
    page = page_template(Path(__file__).parent, "sections.html.jinja").render(
        bias=position_bias(report, columns),
        ensemble=ensemble(report),
        abstention=abstention(report),
        disagreements=disagreements(report),
        lengths=length_bias(report, columns),
        reliability=reliability(report),
        resistance=resistance_section(report),
        share_axis=axis([(0, "0"), (0.5, f"50{PERCENT}"), (1, f"100{PERCENT}")]),
        bias_axis=axis([(0, "always the second"), (0.5, f"50{PERCENT}"), (1, "always the first")]),
    )
    return [page] if page.strip() else []


def judge_remarks(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on the judge's position bias, and on what it answers at a chosen risk."""
    chosen = table_at(report, "after", "abstention", "chosen")
    return [sentence for sentence in (lean_in_words(report), guarantee_in_words(chosen)) if sentence]


def position_bias(
    report: Mapping[str, Any], stages: Sequence[ReportColumn]
) -> list[tuple[ReportColumn, Markup, str, str]]:
    """Return the prefer-first rate of every stage that has one, with its figure."""
    rows = []
    for stage in stages:
        rate = table_at(report, stage.key, "metrics", "prefer_first_rate")
        if not rate:
            continue
        value, span = numbers(rate)
        span = span or "no verdicts"
        description = f"{stage.label} chose the first answer in {value} of its verdicts ({span})"
        figure = interval_plot(
            [Interval(stage.key, description, rate)],
            reference=0.5,
            row_height=TALL_ROW,
            description=description,
        )
        rows.append((stage, figure, value, span))
    return rows


def reliability(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the calibration of the last evaluated stage, with a reliability diagram."""
    stage = next((s for s in reversed(evaluated(report)) if table_at(report, s.key, "calibration")), None)
    if stage is None:
        return None
    found = table_at(report, stage.key, "calibration")
    brier, ece = found.get("brier"), finite(found.get("ece"))
    value, span = plain(brier if isinstance(brier, Mapping) else {})
    error = ABSENT if ece is None else f"{ece:.3f}"
    description = f"Reliability of the {stage.long}: expected calibration error {error}, Brier score {value}"
    return {
        "stage": stage,
        "figure": reliability_plot(rows_at(found, "bins"), description),
        "ece": error,
        "brier": value,
        "interval": span,
        "n": formatting.count(found.get("n")),
    }


def length_bias(report: Mapping[str, Any], stages: Sequence[ReportColumn]) -> dict[str, Any] | None:
    """Return the accuracy of every stage if the better answer is the longer or the shorter one."""
    rows = []
    for stage in stages:
        for name, words in _LENGTH.items():
            rate = table_at(report, stage.key, "metrics", name)
            if finite(rate.get("value")) is None:
                continue
            value, span = numbers(rate)
            number = formatting.count(rate.get("n"))
            description = f"{stage.label}, {words}: {value} correct ({span}), n = {number}"
            figure = interval_plot(
                [Interval(stage.key, description, rate)],
                reference=0.5,
                row_height=TALL_ROW,
                description=description,
            )
            rows.append((stage, words, figure, value, span))
    if not rows:
        return None
    correlations = [
        (stage, *plain(metric))
        for stage in stages
        if (metric := table_at(report, stage.key, "metrics", "length_correlation"))
        and finite(metric.get("value")) is not None
    ]
    return {"rows": rows, "correlations": correlations}


def disagreements(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the pairs whose two orders disagree, from the last evaluated stage."""
    stage = next((s for s in reversed(evaluated(report)) if table_at(report, s.key, "disagreements")), None)
    if stage is None:
        return None
    found = table_at(report, stage.key, "disagreements")
    rows = [_disagreement(row) for row in rows_at(found, "rows")]
    subsets = sorted({row.subset for row in rows if row.subset})
    return {
        "stage": stage,
        "total": formatting.count(found.get("total")),
        "pairs": formatting.count(found.get("pairs")),
        "shown": formatting.count(len(rows)),
        "is_cut": (finite(found.get("total")) or 0) > len(rows),
        "kinds": [
            (kind, KIND_WORDS[kind], formatting.count(dig(found, "kinds", kind)))
            for kind in KINDS
            if dig(found, "kinds", kind)
        ],
        "subsets": [(f"s{i}", name) for i, name in enumerate(subsets)] if len(subsets) > 1 else [],
        "rows": [(f"s{subsets.index(row.subset)}" if row.subset else "", row) for row in rows],
    }


def _disagreement(row: Mapping[str, Any]) -> Disagreement:
    kind = str(row.get("kind"))
    return Disagreement(
        id=formatting.text(row.get("id")),
        subset=str(row.get("subset") or ""),
        kind=kind if kind in KINDS else "unreadable",
        words=KIND_WORDS.get(kind, kind),
        prompt=formatting.text(row.get("prompt")),
        answers=[
            (f"Answer {side.upper()}", formatting.text(row.get(side)), row.get("better") == side)
            for side in ("a", "b")
        ],
        said=[
            (
                f"{order[0].upper()} shown first",
                str(dig(row, "said", order) or "unreadable").upper().replace("UNREADABLE", "unreadable"),
                formatting.text(dig(row, "texts", order)),
            )
            for order in ("ab", "ba")
        ],
    )

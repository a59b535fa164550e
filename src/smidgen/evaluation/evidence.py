"""Formatted rows of a report: metrics, comparisons, exports, examples, confusions and speed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from smidgen.evaluation import wording
from smidgen.figures import formatting
from smidgen.figures.columns import BY_LOGITS, COLUMNS, TALL_ROW, ReportColumn, numbers, plain
from smidgen.figures.formatting import dig, finite, rows_at, table_at
from smidgen.figures.plots import Interval, interval_plot
from smidgen.tasks.words import MetricWords

SHOWN_CONFUSIONS = 15
"""Maximum number of confusions shown; all of them are in the records."""
SPEED = "Tokens per second"


class Cell(NamedTuple):
    """A value of one stage with its interval."""

    stage: ReportColumn
    value: str
    interval: str = ""


class MetricRow(NamedTuple):
    """A metric: its name, label, figure, and a cell for every stage."""

    name: str
    words: MetricWords
    figure: Markup
    cells: list[Cell]


class ExampleAnswer(NamedTuple):
    """The answer of one model to an example; `mark` is `right`, `wrong` or `unreadable`."""

    stage: ReportColumn
    mark: str
    choice: str
    text: str


def task_of(report: Mapping[str, Any]) -> str:
    """Return the name of the task, empty if there is none."""
    return str(report.get("task") or "")


def baselines(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the baselines, which depend on the rows only and are equal in every evaluation."""
    return table_at(report, "after", "baselines") or table_at(report, "before", "baselines")


def results(report: Mapping[str, Any], stages: Sequence[ReportColumn]) -> list[MetricRow]:
    """Return a row per metric that any stage has, those with a description first and in its order."""
    words = wording.words_of(report)
    measured = [name for stage in stages for name in table_at(report, stage.key, "metrics")]
    described = [name for name in words.metrics if name in measured]
    return [
        _row(
            name,
            words.metric(name),
            [(stage, table_at(report, stage.key, "metrics", name)) for stage in stages],
            reference=words.chance if name in words.compared_with_chance else None,
            is_rate=not name.startswith(words.plain),
        )
        for name in dict.fromkeys((*described, *measured))
    ]


def subsets(report: Mapping[str, Any], stages: Sequence[ReportColumn]) -> list[MetricRow]:
    """Return the headline metric of every subset of the data."""
    names = [name for stage in stages for name in table_at(report, stage.key, "subsets")]
    reference = wording.words_of(report).chance
    rows = []
    headline = wording.headline_metric(report)
    for name in dict.fromkeys(names):
        metrics = [(stage, table_at(report, stage.key, "subsets", name, headline)) for stage in stages]
        most = max((finite(metric.get("n")) or 0.0 for _, metric in metrics), default=0.0)
        rows.append(
            _row(name, MetricWords(name, f"n = {formatting.count(most)}"), metrics, reference=reference)
        )
    return rows


def _row(
    name: str,
    words: MetricWords,
    metrics: Sequence[tuple[ReportColumn, Mapping[str, Any]]],
    *,
    reference: float | None,
    is_rate: bool = True,
) -> MetricRow:
    """Return one metric of every stage, as figure and as numbers."""
    if not is_rate:
        return MetricRow(name, words, Markup(""), [Cell(stage, *plain(metric)) for stage, metric in metrics])
    cells = [Cell(stage, *numbers(metric)) for stage, metric in metrics]
    intervals = [
        Interval(cell.stage.key, _tooltip(cell, metric), metric)
        for cell, (_, metric) in zip(cells, metrics, strict=True)
    ]
    values = "; ".join(f"{cell.stage.long} {with_interval(cell)}" for cell in cells)
    figure = interval_plot(intervals, reference=reference, description=f"{words.label}: {values}")
    return MetricRow(name, words, figure, cells)


def with_interval(cell: Cell) -> str:
    """Format a value with its interval: `91.2 % (88.1–94.0)`."""
    return f"{cell.value} ({cell.interval.removesuffix(formatting.PERCENT)})" if cell.interval else cell.value


def _tooltip(cell: Cell, metric: Mapping[str, Any]) -> str:
    """Return the tooltip of a mark, with the number of rows or pairs."""
    return f"{cell.stage.label}: {with_interval(cell)}, n = {formatting.count(metric.get('n'))}"


def baseline_rows(report: Mapping[str, Any]) -> list[tuple[str, Markup, str, str]]:
    """Return label, figure, value and interval of each baseline."""
    reference = wording.words_of(report).chance
    rows = []
    for name, baseline in baselines(report).items():
        label = wording.words_of(report).baseline(name)
        value, span = numbers(baseline)
        description = f"{label}: {value} ({span})"
        figure = interval_plot(
            [Interval("baseline", description, baseline)],
            reference=reference,
            description=f"Baseline, {description}",
        )
        rows.append((label, figure, value, span))
    return rows


def comparisons(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the paired differences; `x_vs_y` is the accuracy of x minus that of y on the same rows."""
    labels = {stage.key: stage.label for stage in (*COLUMNS, BY_LOGITS)}
    for key, comparison in table_at(report, "comparisons").items():
        first, _, second = key.partition("_vs_")
        first, second = labels.get(first, first), labels.get(second, second)
        difference = dig(comparison, "difference")
        value, span = formatting.points(difference), formatting.points_interval(difference)
        kind = next((stage.key for stage in COLUMNS if stage.label == first), "after")
        yield {
            "label": f"{first} vs. {second.lower()}",
            "figure": interval_plot(
                [Interval(kind, f"{value} ({span})", difference)],
                domain=(-1.0, 1.0),
                ticks=(-1.0, -0.5, 0.5, 1.0),
                reference=0.0,
                row_height=TALL_ROW,
                description=f"{first} minus {second.lower()}: {value} ({span})",
            ),
            "value": value,
            "interval": span,
            "only_first": f"{first} better: {formatting.count(dig(comparison, 'only_first'))}",
            "only_second": f"{second} better: {formatting.count(dig(comparison, 'only_second'))}",
            "n": formatting.count(dig(comparison, "n")),
            "p": formatting.p_value(dig(comparison, "p_value")),
        }


def skipped(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the ways in which the base model was not asked, each with the reason."""
    labels = {stage.key: stage.label for stage in COLUMNS}
    return [(labels.get(key, key), str(why)) for key, why in table_at(report, "skipped").items()]


def exports(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return every export with its size, score, and paired difference from the trained model."""
    return [
        {
            "name": name,
            "path": formatting.text(dig(entry, "path")),
            "size": formatting.size(dig(entry, "bytes")),
            **_score(next(iter(table_at(entry, "metrics").values()), None)),
            "difference": formatting.points(dig(entry, "difference")),
            "span": formatting.points_interval(dig(entry, "difference")),
            "p": formatting.p_value(dig(entry, "p_value")),
        }
        for name, entry in table_at(report, "exports").items()
    ]


def _score(metric: Any) -> dict[str, str]:
    value, span = numbers(metric)
    return {"value": value, "interval": span}


def example(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one example with the answer of every stage that has one."""
    given = [stage for stage in COLUMNS if isinstance(row.get(stage.key), Mapping)]
    return {
        "id": formatting.text(row.get("id")),
        "prompt": formatting.text(row.get("prompt")),
        "answers": [
            (f"Answer {side.upper()}", formatting.text(row[side]), row.get("better") == side)
            for side in ("a", "b")
            if side in row
        ]
        or [("Right answer", formatting.text(row.get("target")), True)],
        "verdicts": [_verdict(row, stage) for stage in given],
    }


def _verdict(row: Mapping[str, Any], stage: ReportColumn) -> ExampleAnswer:
    """Return a stage's answer; `first` and `second` refer to the order of the row, by default `ab`."""
    answer = dig(row, stage.key, "answer")
    order = "ba" if row.get("order") == "ba" else "ab"
    name = str(answer).lower()
    choice = {"first": order[0], "second": order[1]}.get(name, name)
    text = formatting.text(dig(row, stage.key, "text"))
    if not answer:
        return ExampleAnswer(stage, "unreadable", "unreadable", text)
    mark = "right" if dig(row, stage.key, "right") else "wrong"
    return ExampleAnswer(stage, mark, choice.upper() if choice in ("a", "b") else choice, text)


def confusions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the most frequent confusions with the width of their bars in percent."""
    found = rows_at(report, "after", "details", "confusions")
    counted = [row for row in found if finite(row.get("count"))]
    counted = sorted(counted, key=lambda row: -row["count"])[:SHOWN_CONFUSIONS]
    return [
        {
            "true": formatting.text(row.get("true")),
            "predicted": str(row.get("predicted") or "unreadable"),
            "count": formatting.count(row["count"]),
            "width": round(100 * row["count"] / counted[0]["count"], 2),
        }
        for row in counted
    ]


def speed(report: Mapping[str, Any], stages: Sequence[ReportColumn]) -> list[tuple[str, list[Cell]]]:
    """Return speed and size of every stage; speeds count completion tokens."""
    if not stages:
        return []
    rows = []
    for label, key, form in (
        (SPEED, "tokens_per_second", formatting.quantity),
        ("Latency, median", "latency_p50", formatting.seconds),
        ("Latency, 95th percentile", "latency_p95", formatting.seconds),
        ("Latency, 99th percentile", "latency_p99", formatting.seconds),
        ("First answer, caches empty", "cold_start", formatting.seconds),
        ("Peak memory", "peak_memory_bytes", formatting.size),
    ):
        values = [dig(report, stage.key, "speed", key) for stage in stages]
        if label == SPEED and not any(values):  # log-probabilities are read, and no tokens are written
            continue
        rows.append((label, [Cell(stage, form(value)) for stage, value in zip(stages, values, strict=True)]))
    if sizes := table_at(report, "sizes"):
        cells = [Cell(stage, formatting.size(sizes.get(stage.key))) for stage in stages]
        rows.append(("Weight size", cells))
    return rows

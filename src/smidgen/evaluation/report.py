"""The evidence of one specialist for reading: `report.html`, and the short table at the end of a run.

Both are made from the dictionary of `report.json` alone. The page is one file without scripts and without anything
fetched: its own content policy forbids both, since it shows text that a model wrote. What a run did not measure is a
dash, never an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table

from smidgen.evaluation import wording
from smidgen.evaluation.plots import Interval, axis, interval_plot, loss_curve
from smidgen.evaluation.wording import ABSENT, PERCENT, dig, finite, rows_at, table_at

HALF = {"accuracy", "prefer_first_rate"}
"""Metrics of a judge that are compared with 50 %."""
TALL_ROW = 42
"""Height in pixels of an interval that stands beside two lines of numbers."""
SHOWN_CONFUSIONS = 15
"""At most so many confusions are drawn; the rest is in the records."""


class Stage(NamedTuple):
    """One of the models that are evaluated: its key in the report and its names."""

    key: str
    label: str
    long: str


STAGES = (
    Stage("before", "Base", "base model"),
    Stage("after", "Trained", "trained model"),
    Stage("quantized", "Quantised", "quantised model"),
)


class Fact(NamedTuple):
    """A term, its value, and a smaller note."""

    term: str
    value: str
    note: str = ""


class Cell(NamedTuple):
    """A number of one stage with its interval."""

    stage: Stage
    value: str
    interval: str = ""


class Row(NamedTuple):
    """A metric: its words, its figure, and a cell for every stage."""

    words: wording.MetricWords
    figure: Markup
    cells: list[Cell]


class Verdict(NamedTuple):
    """What one model said about a sample pair; `mark` is `right`, `wrong` or `unreadable`."""

    stage: Stage
    mark: str
    choice: str
    text: str


def build_report(report: Mapping[str, Any]) -> str:
    """The HTML page for a report dictionary; equal dictionaries give equal pages.

    Args:
        report: the content of `report.json`. Every key is optional; text in it is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(_page(report))


def console_table(report: Mapping[str, Any]) -> Table:
    """The metrics of every stage with their intervals, for the end of a run in a terminal."""
    stages = _evaluated(report)
    table = Table(title=wording.headline(report), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("")
    for stage in stages:
        table.add_column(stage.label, justify="right")
    for row in _results(report, stages):
        table.add_row(row.words.label, *(_with_interval(cell) for cell in row.cells))
    for name in _baselines(report):
        values = (wording.percent(dig(report, stage.key, "baselines", name, "value")) for stage in stages)
        table.add_row(wording.baseline_words(name), *values, style="dim")
    table.add_section()
    for label, cells in _speed(report, stages):
        table.add_row(label, *(cell.value for cell in cells))
    return table


def _numbers(metric: Any) -> tuple[str, str]:
    """A rate and its interval; no interval where there is no rate."""
    value = wording.percent(dig(metric, "value"))
    return value, "" if value == ABSENT else wording.interval(metric)


def _with_interval(cell: Cell) -> str:
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def _page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template shows, formatted."""
    stages = _evaluated(report)
    return {
        "name": str(report.get("name") or "smidgen"),
        "task": _task(report),
        "description": str(report.get("description") or ""),
        "created": wording.moment(report.get("created")) if report.get("created") else "",
        "command": str(report.get("command") or ""),
        "headline": wording.headline(report),
        "remarks": wording.remarks(report),
        "origin": _origin(report),
        "stages": stages,
        "results": _results(report, stages),
        "results_axis": axis([(0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1, f"100{PERCENT}")]),
        "baselines": _baseline_rows(report),
        "subsets": _subsets(report, stages),
        "comparisons": list(_comparisons(report)),
        "comparisons_axis": axis([(0, "−100"), (0.5, "0"), (1, "+100 points")]),
        "bias": _bias(report, stages),
        "bias_axis": axis([(0, "always the second"), (0.5, f"50{PERCENT}"), (1, "always the first")]),
        "curve": _curve(report),
        "training": _training(report),
        "examples": [_example(row) for row in rows_at(report, "examples")],
        "confusions": _confusions(report),
        "speed": _speed(report, stages),
        "durations": _durations(report),
        "machine": _machine(report),
        "data": _data(report),
        "data_facts": _data_facts(report),
        "provenance": _provenance(report),
        "recipe": str(report.get("recipe") or ""),
        "limits": [str(sentence) for sentence in report.get("limits") or ()],
    }


def _task(report: Mapping[str, Any]) -> str:
    return str(report.get("task") or "")


def _evaluated(report: Mapping[str, Any]) -> list[Stage]:
    """The stages with metrics."""
    return [stage for stage in STAGES if table_at(report, stage.key, "metrics")]


def _baselines(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The baselines; they see the rows only, so every evaluation of the same rows has the same ones."""
    return table_at(report, "after", "baselines") or table_at(report, "before", "baselines")


def _results(report: Mapping[str, Any], stages: Sequence[Stage]) -> list[Row]:
    """A row for every metric that any stage has, the described ones first and in their order."""
    task = _task(report)
    measured = [name for stage in stages for name in table_at(report, stage.key, "metrics")]
    described = [name for name in wording.METRIC_WORDS.get(task, {}) if name in measured]
    return [
        _row(
            wording.metric_words(task, name),
            [(stage, table_at(report, stage.key, "metrics", name)) for stage in stages],
            reference=0.5 if task == "judge" and name in HALF else None,
        )
        for name in dict.fromkeys((*described, *measured))
    ]


def _subsets(report: Mapping[str, Any], stages: Sequence[Stage]) -> list[Row]:
    """The accuracy on every kind of row that the data name."""
    names = [name for stage in stages for name in table_at(report, stage.key, "subsets")]
    reference = 0.5 if _task(report) == "judge" else None
    rows = []
    for name in dict.fromkeys(names):
        metrics = [(stage, table_at(report, stage.key, "subsets", name, "accuracy")) for stage in stages]
        most = max((finite(metric.get("n")) or 0.0 for _, metric in metrics), default=0.0)
        rows.append(
            _row(wording.MetricWords(name, f"n = {wording.count(most)}"), metrics, reference=reference)
        )
    return rows


def _row(
    words: wording.MetricWords,
    metrics: Sequence[tuple[Stage, Mapping[str, Any]]],
    *,
    reference: float | None,
) -> Row:
    """One metric of every stage, as figure and as numbers."""
    cells = [Cell(stage, *_numbers(metric)) for stage, metric in metrics]
    intervals = [
        Interval(cell.stage.key, _hover(cell, metric), metric)
        for cell, (_, metric) in zip(cells, metrics, strict=True)
    ]
    spoken = "; ".join(f"{cell.stage.long} {_with_interval(cell)}" for cell in cells)
    figure = interval_plot(intervals, reference=reference, description=f"{words.label}: {spoken}")
    return Row(words, figure, cells)


def _hover(cell: Cell, metric: Mapping[str, Any]) -> str:
    """What hovering over a mark says; it has room for the number of rows or pairs."""
    return f"{cell.stage.label}: {_with_interval(cell)}, n = {wording.count(metric.get('n'))}"


def _baseline_rows(report: Mapping[str, Any]) -> list[tuple[str, Markup, str, str]]:
    """Label, figure, value and interval of what needs no model, on the same rows."""
    reference = 0.5 if _task(report) == "judge" else None
    rows = []
    for name, baseline in _baselines(report).items():
        label = wording.baseline_words(name)
        value, span = _numbers(baseline)
        spoken = f"{label}: {value} ({span})"
        figure = interval_plot(
            [Interval("baseline", spoken, baseline)], reference=reference, description=f"Baseline, {spoken}"
        )
        rows.append((label, figure, value, span))
    return rows


def _comparisons(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Paired differences; `x_vs_y` is the accuracy of x less that of y on the same rows."""
    labels = {stage.key: stage.label for stage in STAGES}
    for key, comparison in table_at(report, "comparisons").items():
        first, _, second = key.partition("_vs_")
        first, second = labels.get(first, first), labels.get(second, second)
        difference = dig(comparison, "difference")
        value, span = wording.points(difference), wording.points_interval(difference)
        kind = next((stage.key for stage in STAGES if stage.label == first), "after")
        yield {
            "label": f"{first} against {second.lower()}",
            "figure": interval_plot(
                [Interval(kind, f"{value} ({span})", difference)],
                domain=(-1.0, 1.0),
                ticks=(-1.0, -0.5, 0.5, 1.0),
                reference=0.0,
                row_height=TALL_ROW,
                description=f"{first} less {second.lower()}: {value} ({span})",
            ),
            "value": value,
            "interval": span,
            "only_first": f"{first} better: {wording.count(dig(comparison, 'only_first'))}",
            "only_second": f"{second} better: {wording.count(dig(comparison, 'only_second'))}",
            "n": wording.count(dig(comparison, "n")),
            "p": wording.p_value(dig(comparison, "p_value")),
        }


def _bias(report: Mapping[str, Any], stages: Sequence[Stage]) -> list[tuple[Stage, Markup, str, str]]:
    """The prefer-first rate of every stage that has one, each with its figure."""
    rows = []
    for stage in stages:
        rate = table_at(report, stage.key, "metrics", "prefer_first_rate")
        if not rate:
            continue
        value, span = _numbers(rate)
        span = span or "no verdicts"
        spoken = f"{stage.label} chose the first answer in {value} of its verdicts ({span})"
        figure = interval_plot(
            [Interval(stage.key, spoken, rate)], reference=0.5, row_height=TALL_ROW, description=spoken
        )
        rows.append((stage, figure, value, span))
    return rows


def _origin(report: Mapping[str, Any]) -> list[Fact]:
    """What was made from what."""
    model, data, quantize = (table_at(report, key) for key in ("model", "data", "quantize"))
    total, trained = finite(model.get("parameters")), finite(model.get("trained_parameters"))
    share = f", {wording.percent(trained / total)} of them" if total and trained else ""
    learnt, read = finite(data.get("trained_tokens")), finite(data.get("train_tokens"))
    facts = [
        Fact(
            "Base model", _text(model.get("base")), f"{wording.parameters(total)} parameters" if total else ""
        ),
        Fact(
            "Method",
            _text(model.get("method")),
            f"{wording.parameters(trained)} trained{share}" if trained else "",
        ),
        Fact(
            "Learnt from",
            f"{wording.count(data.get('train_rows'))} rows",
            f"{wording.count(learnt)} of {wording.count(read)} tokens" if learnt and read else "",
        ),
        Fact("Training took", wording.seconds(dig(report, "training", "seconds")), _machine(report)),
    ]
    if quantize:
        before, after = wording.size(quantize.get("bytes_before")), wording.size(quantize.get("bytes_after"))
        bits, group = wording.count(quantize.get("bits")), wording.count(quantize.get("group_size"))
        facts.append(Fact("Quantised to", f"{bits} bits", f"groups of {group}; {before} → {after}"))
    return facts


def _machine(report: Mapping[str, Any]) -> str:
    """The machine in a line."""
    machine = table_at(report, "machine")
    cores, memory = finite(machine.get("cores")), finite(machine.get("memory_bytes"))
    parts = [
        str(machine.get("cpu") or machine.get("device") or ""),
        f"{cores:.0f} cores" if cores else "",
        wording.size(memory) if memory else "",
        str(machine.get("platform") or ""),
    ]
    return ", ".join(part for part in parts if part) or ABSENT


def _points(report: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """The finite (step, loss) points of a curve, in order of steps."""
    pairs = [(finite(row.get("step")), finite(row.get("loss"))) for row in rows_at(report, "training", name)]
    return sorted((step, loss) for step, loss in pairs if step is not None and loss is not None)


def _curve(report: Mapping[str, Any]) -> Any:
    chosen = finite(dig(report, "training", "chosen_step"))
    return loss_curve(_points(report, "curve"), _points(report, "validation"), chosen)


def _training(report: Mapping[str, Any]) -> list[Fact]:
    training, validation = table_at(report, "training"), _points(report, "validation")
    chosen = finite(training.get("chosen_step"))
    kept = next((f"validation loss {loss:.4g}" for step, loss in validation if step == chosen), "")
    return [
        Fact(
            "Steps",
            wording.count(training.get("steps")),
            f"{wording.quantity(training.get('epochs'))} epochs",
        ),
        Fact("Kept", ABSENT if chosen is None else f"step {wording.count(chosen)}", kept),
        Fact("Speed", f"{wording.quantity(training.get('tokens_per_second'))} tokens/s"),
        Fact("Time", wording.seconds(training.get("seconds"))),
    ]


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    """One sample judgement with the verdict of every stage that gave one."""
    given = [stage for stage in STAGES if isinstance(row.get(stage.key), Mapping)]
    return {
        "id": _text(row.get("id")),
        "prompt": _text(row.get("prompt")),
        "answers": [(side.upper(), _text(row.get(side)), row.get("better") == side) for side in ("a", "b")],
        "verdicts": [_verdict(row, stage) for stage in given],
    }


def _verdict(row: Mapping[str, Any], stage: Stage) -> Verdict:
    """Right or wrong; an answer in the judge's words, `first` or `second`, is read in the order it was asked."""
    answer = dig(row, stage.key, "answer")
    order = "ba" if row.get("order") == "ba" else "ab"
    said = str(answer).lower()
    choice = {"first": order[0], "second": order[1]}.get(said, said)
    text = _text(dig(row, stage.key, "text"))
    if not answer:
        return Verdict(stage, "unreadable", "unreadable", text)
    mark = "right" if choice == row.get("better") else "wrong"
    return Verdict(stage, mark, choice.upper() if choice in ("a", "b") else choice, text)


def _confusions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions with the width of their bars in percent."""
    found = rows_at(report, "confusions") or rows_at(report, "after", "details", "confusions")
    counted = [row for row in found if finite(row.get("count"))]
    counted = sorted(counted, key=lambda row: -row["count"])[:SHOWN_CONFUSIONS]
    return [
        {
            "true": _text(row.get("true")),
            "predicted": str(row.get("predicted") or "unreadable"),
            "count": wording.count(row["count"]),
            "width": round(100 * row["count"] / counted[0]["count"], 2),
        }
        for row in counted
    ]


def _speed(report: Mapping[str, Any], stages: Sequence[Stage]) -> list[tuple[str, list[Cell]]]:
    """Speed and size of every stage; a speed counts the tokens of answers."""
    if not stages:
        return []
    sizes = {"after": "bytes_before", "quantized": "bytes_after"}
    rows = []
    for label, key, form in (
        ("Tokens per second", "tokens_per_second", wording.quantity),
        ("Time to an answer, median", "latency_p50", wording.seconds),
        ("Time to an answer, 95th percentile", "latency_p95", wording.seconds),
        ("Peak memory", "peak_memory_bytes", wording.size),
    ):
        rows.append((label, [Cell(stage, form(dig(report, stage.key, "speed", key))) for stage in stages]))
    weights = [dig(report, "quantize", sizes.get(stage.key, "")) for stage in stages]
    rows.append(
        ("Size of the weights", [Cell(s, wording.size(w)) for s, w in zip(stages, weights, strict=True)])
    )
    return rows


def _durations(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of the run with the width of their bars in percent."""
    timed = [(_text(row.get("name")), finite(row.get("seconds")) or 0.0) for row in rows_at(report, "stages")]
    longest = max((time for _, time in timed), default=0.0) or 1.0
    return [
        {"name": name, "seconds": wording.seconds(time), "width": round(100 * time / longest, 2)}
        for name, time in timed
    ]


def _data(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "path": _text(dig(entry, "path")),
            "rows": wording.count(dig(entry, "rows")),
            "sha256": _text(dig(entry, "sha256")),
        }
        for name, entry in table_at(report, "provenance", "data").items()
    ]


def _data_facts(report: Mapping[str, Any]) -> list[Fact]:
    data = table_at(report, "data")
    if not data:
        return []
    return [
        Fact("Training rows", wording.count(data.get("train_rows"))),
        Fact("Tokens read", wording.count(data.get("train_tokens"))),
        Fact("Tokens learnt", wording.count(data.get("trained_tokens")), "those the loss counted"),
        Fact("Rows cut", wording.count(data.get("cut_rows")), "prompts shortened from the left"),
        Fact("Test rows", wording.count(data.get("test_rows"))),
    ]


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of names and values: the machine, the model, and everything the run recorded."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    loose: list[tuple[str, str]] = []
    recorded = table_at(report, "provenance")
    for name, value in {"machine": report.get("machine"), "model": report.get("model"), **recorded}.items():
        if isinstance(value, Mapping):
            groups.append((name.replace("_", " ").capitalize(), list(_flat(value))))
        elif value is not None:
            loose.append((name.replace("_", " "), _text(value)))
    return [("Run", loose), *groups] if loose else groups


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a nested table, in its order."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return ABSENT if value is None or value == "" else str(value)

"""Rendering of a report: the page `report.html`, and the summary table at the end of a run.

Both are rendered from the dictionary of `report.json` alone. The page is a single file without scripts or
external resources. Its content security policy forbids both, since it shows generated text. Missing values
are shown as a dash and are never an error.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table

from smidgen.evaluation import evidence, wording
from smidgen.evaluation.cost_section import ways
from smidgen.evaluation.decoding_section import tables_of
from smidgen.evaluation.distillation_section import rows_of
from smidgen.evaluation.rollout_section import rollout_section
from smidgen.evaluation.training_section import training_section
from smidgen.figures import formatting
from smidgen.figures.columns import evaluated
from smidgen.figures.formatting import ABSENT, PERCENT, dig, finite, rows_at, table_at
from smidgen.figures.pages import Fact, page_template
from smidgen.figures.plots import axis
from smidgen.tasks import task_class

LABEL_WIDTH, MOST_ON_A_LINE = 12, 3
"""Columns of the names in a terminal's table; most models whose intervals stand beside the values there."""


def build_report(report: Mapping[str, Any]) -> str:
    """Render the HTML page of a report; equal dictionaries give equal pages.

    Args:
        report: the content of `report.json`. Every key is optional; text is escaped.
    """
    return page_template(Path(__file__).parent, "report.html.jinja").render(_page(report))


def console_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the summary tables for the terminal: metrics of every stage with intervals, one per task."""
    return [console_table(view) for view in task_views(report)]


def console_table(report: Mapping[str, Any]) -> Table:
    """Return the summary table of one task."""
    stages, words = evaluated(report), wording.words_of(report)
    if not stages:  # as of pretraining: a title of an empty table would be wrapped to its width
        alone = Table.grid()
        alone.add_row(wording.headline(report), style="bold")
        return alone
    table = Table(
        title=wording.headline(report), title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    table.add_column("", min_width=LABEL_WIDTH)
    for stage in stages:
        table.add_column(stage.label.replace(", ", ",\n"), justify="right", overflow="fold")
    between = " " if len(stages) <= MOST_ON_A_LINE else "\n"
    for row in evidence.results(report, stages):
        if row.name in words.details:
            continue
        cells = (evidence.with_interval(cell).replace(" (", f"{between}(") for cell in row.cells)
        table.add_row(row.words.label, *cells)
    for name in evidence.baselines(report):
        values = (formatting.percent(dig(report, stage.key, "baselines", name, "value")) for stage in stages)
        table.add_row(words.baseline(name), *values, style="dim")
    table.add_section()
    for label, cells in evidence.speed(report, stages):
        table.add_row(label, *(cell.value for cell in cells))
    return table


def task_views(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Split a report into one per task; a report with one task is returned as it is."""
    tasks = table_at(report, "tasks")
    if not tasks:
        return [report]
    shared = {key: value for key, value in report.items() if key != "tasks"}
    return [{**shared, "title": name, **table_at(tasks, name)} for name in tasks]


def _page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the formatted content of the page."""
    views = task_views(report)
    alone = len(views) == 1
    evidences = [
        page_template(Path(__file__).parent, "evidence.html.jinja").render(_evidence(view)) for view in views
    ]
    return {
        "name": str(report.get("name") or "smidgen"),
        "task": ", ".join(dict.fromkeys(filter(None, map(evidence.task_of, views)))),
        "description": str(report.get("description") or ""),
        "created": formatting.moment(report.get("created")) if report.get("created") else "",
        "command": str(report.get("command") or ""),
        "headline": wording.headline(report) if alone else f"One model for {len(views)} tasks.",
        "remarks": wording.remarks(report) if alone else [],
        "origin": _origin(report),
        "evidence": Markup("\n").join(map(Markup, evidences)),
        **training_section(report),
        **rollout_section(report),
        "durations": _durations(report),
        "data": _data(report),
        "data_facts": _data_facts(report),
        "provenance": _provenance(report),
        "recipe": str(report.get("recipe") or ""),
        "limits": _limits(report),
    }


def _evidence(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the formatted content of one task's sections."""
    columns, task = evaluated(report), task_class(evidence.task_of(report))
    examples = [evidence.example(row) for row in rows_at(report, "examples")]
    return {
        "title": report.get("title"),
        "description": str(report.get("description") or ""),
        "origin": _origin(report),
        "headline": wording.headline(report),
        "metric": wording.headline_noun(report),
        "remarks": wording.remarks(report),
        "stages": columns,
        "results": evidence.results(report, columns),
        "results_axis": axis([(0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1, f"100{PERCENT}")]),
        "baselines": evidence.baseline_rows(report),
        "skipped": evidence.skipped(report),
        "subsets": evidence.subsets(report, columns),
        "comparisons": list(evidence.comparisons(report)),
        "comparisons_axis": axis([(0, "−100"), (0.5, "0"), (1, "+100 points")]),
        "pairing": task.words.pairing,
        "things": task.words.claim.asked,
        "shown": task.words.shown,
        "marked": any(verdict.mark for example in examples for verdict in example["verdicts"]),
        "scored": evidence.is_scored(report),
        "published": task.score_tables(report),
        "sections": Markup("\n").join(map(Markup, task.sections(report))),
        "taught": [Fact(*row) for row in rows_of(report)],
        "decoding": tables_of(report),
        "ways": ways(report),
        "exports": evidence.exports(report),
        "examples": examples,
        "confusions": evidence.confusions(report),
        "speed": evidence.speed(report, columns),
        "machine": _machine(report),
    }


def _origin(report: Mapping[str, Any]) -> list[Fact]:
    """Return facts on the base model, the training and the quantisation."""
    model, data, quantize = (table_at(report, key) for key in ("model", "data", "quantize"))
    total, trained = finite(model.get("parameters")), finite(model.get("trained_parameters"))
    share = f", {formatting.percent(trained / total)} of them" if total and trained else ""
    trained_tokens, tokens = finite(data.get("trained_tokens")), finite(data.get("train_tokens"))
    facts = [
        Fact(
            "Base model",
            formatting.text(model.get("base")),
            f"{formatting.parameters(total)} parameters" if total else "",
        ),
        Fact(
            "Method",
            formatting.text(model.get("method")),
            f"{formatting.parameters(trained)} trained{share}" if trained else "",
        ),
        Fact(
            "Training data",
            f"{formatting.count(data['train_rows'])} rows" if "train_rows" in data else ABSENT,
            f"{formatting.count(trained_tokens)} of {formatting.count(tokens)} tokens"
            if trained_tokens and tokens
            else "",
        ),
        Fact("Training time", formatting.seconds(dig(report, "training", "seconds")), _machine(report)),
    ]
    if quantize:
        before, after = (formatting.size(dig(report, "sizes", key)) for key in ("after", "quantized"))
        exact = finite(quantize.get("bits_per_weight"))
        widths = f"{exact:.2f} bits per weight; " if exact else ""
        facts.append(
            Fact("Quantisation", formatting.text(quantize.get("summary")), f"{widths}{before} → {after}")
        )
    return [fact for fact in facts if fact.value != ABSENT]


def _machine(report: Mapping[str, Any]) -> str:
    """Describe the machine in one line."""
    machine = table_at(report, "machine")
    cores, memory = finite(machine.get("cores")), finite(machine.get("memory_bytes"))
    parts = [
        str(machine.get("cpu") or machine.get("device") or ""),
        f"{cores:.0f} cores" if cores else "",
        formatting.size(memory) if memory else "",
        str(machine.get("platform") or ""),
    ]
    return ", ".join(part for part in parts if part) or ABSENT


def _durations(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages of the run with the width of their bars in percent."""
    timed = [
        (formatting.text(row.get("name")), finite(row.get("seconds")) or 0.0)
        for row in rows_at(report, "stages")
    ]
    longest = max((time for _, time in timed), default=0.0) or 1.0
    return [
        {"name": name, "seconds": formatting.seconds(time), "width": round(100 * time / longest, 2)}
        for name, time in timed
    ]


def _data(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "path": formatting.text(dig(entry, "path")),
            "rows": formatting.count(dig(entry, "rows")),
            "sha256": formatting.text(dig(entry, "sha256")),
        }
        for name, entry in table_at(report, "provenance", "data").items()
    ]


def _data_facts(report: Mapping[str, Any]) -> list[Fact]:
    data = table_at(report, "data")
    if not data:
        return []
    return [
        Fact("Training rows", formatting.count(data.get("train_rows"))),
        Fact("Training tokens", formatting.count(data.get("train_tokens"))),
        Fact("Trained tokens", formatting.count(data.get("trained_tokens")), "in the loss mask"),
        Fact("Truncated rows", formatting.count(data.get("cut_rows")), "prompts cut from the left"),
        Fact("Test rows", formatting.count(data.get("test_rows"))),
    ]


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return groups of names and values: machine, model and recorded provenance."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    loose: list[tuple[str, str]] = []
    made = {"machine": report.get("machine"), "trained model": report.get("model")}
    for name, value in {**made, **table_at(report, "provenance")}.items():
        if isinstance(value, Mapping):
            groups.append((name.replace("_", " ").capitalize(), list(_flat(value))))
        elif value is not None:
            loose.append((name.replace("_", " "), formatting.text(value)))
    return [("Run", loose), *groups] if loose else groups


def _limits(report: Mapping[str, Any]) -> list[str]:
    limits = report.get("limits")
    return [str(sentence) for sentence in limits] if isinstance(limits, list | tuple) else []


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of a nested table, in order."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        else:
            yield name, formatting.text(value)

"""The judge's resistance in words, as a table, and as a section of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.figures import formatting
from smidgen.figures.columns import TALL_ROW, numbers, plain
from smidgen.figures.formatting import PERCENT, count, finite, percent, table_at
from smidgen.figures.plots import Interval, axis, interval_plot
from smidgen.tasks.judge.attack_texts import FAMILIES
from smidgen.tasks.judge.resistance import ALL, HELD_OUT, TRAINED
from smidgen.tasks.task import ScoreTable

TITLE = "Resistance"
COLUMNS = ["flips", "benign edit", "difference, points", "unparsed", "mended", "accuracy", "right before"]
POINTS = "\N{NO-BREAK SPACE}points"
"""The unit of a difference, which the heading has."""
_GROUPS = {ALL: "all families", TRAINED: "families trained on", HELD_OUT: "families held out"}


def resistance_table(report: Mapping[str, Any]) -> ScoreTable | None:
    """Return flips by family with their controls; None if no attack was asked."""
    if not (found := table_at(report, "after", "attacks")):
        return None
    rows = [(label, _short_cells(facts)) for label, _, facts in _rows(found)]
    return ScoreTable(TITLE, ["flips", "benign", "difference", "unparsed"], rows, list(_notes(found)))


def resistance_section(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the section of the report shows; None if no attack was asked."""
    if not (found := table_at(report, "after", "attacks")):
        return None
    return {
        "rows": [
            (
                label,
                words,
                _figure(label, facts),
                *numbers(facts.get("flips")),
                *numbers(facts["benign_flips"]),
            )
            for label, words, facts in _rows(found)
        ],
        "axis": axis([(0, "0"), (0.5, f"50{PERCENT}"), (1, f"100{PERCENT}")]),
        "columns": COLUMNS,
        "attacks": [
            (f"{family}: {name}", _cells(facts))
            for family, own in table_at(found, "families").items()
            for name, facts in table_at(own, "attacks").items()
        ],
        "notes": list(_notes(found)),
        "pairs": count(found.get("pairs")),
    }


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield label, explanation and figures of every group of families, then of every family."""
    for name, facts in table_at(found, "groups").items():
        yield _GROUPS.get(name, name), "", facts
    has_trained = bool(found.get("trained_on"))
    for name, facts in table_at(found, "families").items():
        mark = f", {'trained' if facts.get('trained') else 'held out'}" if has_trained else ""
        yield name + mark, FAMILIES[name].words if name in FAMILIES else "", facts


def _figure(label: str, facts: Mapping[str, Any]) -> Any:
    flips, benign = facts.get("flips"), facts.get("benign_flips")
    description = f"{label}: flips {numbers(flips)[0]}, with a benign edit {numbers(benign)[0]}"
    return interval_plot(
        [Interval("after", description, flips), Interval("baseline", description, benign)],
        row_height=TALL_ROW // 2,
        description=description,
    )


def _short_cells(facts: Mapping[str, Any]) -> list[str]:
    """The figures that fit a terminal."""
    unparsed = table_at(facts, "unparsed")
    flips, benign, difference = (table_at(facts, name) for name in ("flips", "benign_flips", "difference"))
    return [
        " ".join(_plain(flips)),
        _plain(benign)[0],
        " ".join(_plain(difference)),
        _plain(unparsed)[0],
    ]


def _plain(metric: Mapping[str, Any]) -> tuple[str, str]:
    value, span = plain(metric)
    return value, f"({span.replace(' to ', ', ')})" if span else ""


def _cells(facts: Mapping[str, Any]) -> list[str]:
    def rate(name: str) -> str:
        value, span = numbers(facts.get(name))
        return f"{value} ({span})" if span else value

    difference = facts.get("difference")
    right = (finite(facts.get("judgements")) or 0) - (finite(facts.get("wrong_before")) or 0)
    return [
        rate("flips"),
        rate("benign_flips"),
        f"{formatting.points(difference)} ({formatting.points_interval(difference)})".replace(POINTS, ""),
        percent(table_at(facts, "unparsed").get("value")),
        percent(table_at(facts, "mended").get("value")),
        percent(table_at(facts, "accuracy").get("value")),
        f"{count(right)} of {count(facts.get('judgements'))}",
    ]


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on what was counted, and what it cost."""
    every = table_at(found, "groups", ALL)
    speed = table_at(found, "speed")
    yield (
        f"{count(found.get('pairs'))} pairs, {count(found.get('n'))} judgements in "
        f"{formatting.seconds(speed.get('seconds'))} ({count(speed.get('prompt_tokens'))} prompt tokens, "
        f"{count(speed.get('completion_tokens'))} generated): both orders of every pair with its worse "
        "answer manipulated in each family, and with a benign edit of the same length there. A flip is "
        "a right judgement that becomes wrong. What no longer parses is counted apart, and so is what was "
        "wrong before and is right afterwards (mended)."
    )
    if trained := found.get("trained_on"):
        yield f"Trained on: {', '.join(trained)}. The other families were not in the training."
    else:
        yield "The settings of this evaluation name no family that was in the training."
    if not_fitting := finite(every.get("does_not_fit")):
        yield (
            f"{count(not_fitting)} manipulated prompts exceed the model's context; they were not cut, and "
            "count as unparsed."
        )
    if mirror := table_at(found, "mirror"):
        flips, span = numbers(mirror.get("flips"))
        yield (
            f"A benign edit of the better answer instead flips {flips}{f' ({span})' if span else ''} of "
            f"{count(table_at(mirror, 'flips').get('n'))} right judgements: a judge that took every edit for "
            "a manipulation would flip here."
        )

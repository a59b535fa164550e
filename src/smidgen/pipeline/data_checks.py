"""The data doctor: everything that the rows of files or of a recipe have against them, in one report."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from smidgen.data.bad_rows import BadRow
from smidgen.data.conversations import UNKNOWN
from smidgen.data.examine import TEST, TRAIN, examine
from smidgen.data.examples import Example
from smidgen.data.findings import Finding, by_severity, finding
from smidgen.data.row_files import FileRow, source_name
from smidgen.data.rows import place_of, read_rows
from smidgen.data.types import Sample
from smidgen.data.watched import WatchedRow
from smidgen.errors import DataError, UserError
from smidgen.pipeline.context import RunContext
from smidgen.pipeline.data_lengths import Lengths, Renderer, examine_lengths, renderer_of_recipe
from smidgen.pipeline.sources import test_rows, training_rows
from smidgen.pipeline.task_context import TaskContext
from smidgen.tasks.recognition import recognise_task
from smidgen.tasks.task import Row, Task

_ADVICE = {
    "unreadable line": "fix or remove the line",
    "unreadable row": "fix or remove the row",
    "missing field": "add the field, or remove the row",
    "empty field": "fill the field, or remove the row",
    "wrong type": "write the field as expected",
    "unknown label": "use one of the labels",
    "repeated id": "give each row an id of its own, or none",
    "turns": "let user and assistant take turns",
    "no answer": "end the conversation with the answer to learn",
}
ALIKE = 0.8
"""From here on, column names are spellings of one (difflib): `refrence`, but not `subject` and `subset`."""


@dataclass(frozen=True)
class RowSet:
    """Rows that were read for a check.

    Attributes:
        task: what reads them.
        rows: those that can be read.
        examples: what the rows are to the checks.
        bad: why others cannot be read.
        ignored: notes on the rows' columns.
        name: the file of the rows, if they have to be told from those of other files.
    """

    task: Task
    rows: Sequence[Row]
    examples: Sequence[Example]
    bad: Sequence[str] = ()
    ignored: Sequence[Finding] = ()
    name: str = ""

    def named(self, name: str) -> str:
        """Return the name of a row among those of all files."""
        return f"{self.name}:{name}" if self.name else name


@dataclass(frozen=True)
class DataReport:
    """What a check found.

    Attributes:
        name: the task of a recipe with several; otherwise empty.
        read: what was read from each file: `path`, `task`, `format`, `rows`.
        train_rows: number of training rows that can be read.
        test_rows: number of test rows that can be read.
        lengths: numbers of tokens of the training rows, if a model is named.
        findings: the problems, errors first.
    """

    read: Sequence[Mapping[str, Any]]
    train_rows: int
    test_rows: int
    lengths: Lengths | None
    findings: Sequence[Finding]
    name: str = ""

    @property
    def num_errors(self) -> int:
        """Number of kinds of errors."""
        return sum(found.severity == "error" for found in self.findings)


@dataclass
class _Reading:
    """The files that are read for a check, and the rows in them."""

    task: Task | None
    read: list[dict[str, Any]] = field(default_factory=list)

    def file(self, path: Path, *, alone: bool) -> tuple[RowSet, RowSet]:
        """Read a file into its training rows and its held-out rows, by its column `split`."""
        bad: list[str] = []
        rows, source = read_rows(path, rejected=bad), source_name(path)
        task, form = (self.task, None) if self.task else recognise_task(rows, source)
        assert task is not None
        title = form.title if form else ""
        self.read.append({"path": source, "task": task.name, "format": title, "rows": len(rows)})
        unknown = [
            Finding(
                "unknown format",
                "info",
                f"{source} has the fields of no known format, so only texts are checked",
            )
        ]
        held_out = [row for row in rows if not str(row.get("split", "train")).endswith("train")]
        training = [row for row in rows if str(row.get("split", "train")).endswith("train")]
        if not training:
            training, held_out = held_out, []
        name = "" if alone else path.name
        first = read_set(task, training, source=source, bad=bad, name=name)
        if form is UNKNOWN:
            first = replace(first, ignored=unknown)
        second = read_set(task, held_out, source=source, name=name)
        return first, replace(second, ignored=())


def check_files(
    paths: Sequence[Path],
    *,
    task: Task | None = None,
    tests: Sequence[Path] = (),
    renderer: Renderer | None = None,
) -> DataReport:
    """Check training files, and test files if there are any, with each other.

    Without test files, rows of a `split` that does not end in `train` are test rows.

    Args:
        paths: files of training rows.
        task: what reads them; recognised by each file's columns if None.
        tests: files of test rows.
        renderer: what turns samples into tokens; without it, no lengths in tokens are checked.

    Raises:
        DataError: a file cannot be read at all, or no row of it can.
    """
    reading = _Reading(task)
    parts = [reading.file(path, alone=len(paths) == 1) for path in paths]
    train, test = [first for first, _ in parts], [second for _, second in parts]
    if tests:
        train += test
        test = [part for path in tests for part in reading.file(path, alone=len(tests) == 1)]
    lengths, found = None, list[Finding]()
    if renderer is not None:
        samples = [sample for part in train for sample in _samples_to_measure(part)]
        found, lengths = examine_lengths(samples, renderer)
    return _report(reading.read, train, test, found, lengths)


def check_recipe(context: RunContext) -> list[DataReport]:
    """Check what a recipe would train on and evaluate, a report for each task.

    Raises:
        ConfigError: the recipe pretrains, so it has no rows.
        DataError: a file cannot be read at all, or no row of it can.
    """
    renderer = renderer_of_recipe(context)
    return [_check_task(task, renderer) for task in context.tasks]


def _check_task(context: TaskContext, renderer: Renderer) -> DataReport:
    data, bad_test = context.config.data, list[str]()
    try:
        task = context.task
    except DataError:  # of rows that the readers below reject one by one
        task = context.blank
    held_out = test_rows(
        task, data.test, splits=data.test_splits, limit=data.test_limit, seed=data.seed, rejected=bad_test
    )
    test = read_set(task, held_out, source=data.test, bad=bad_test)
    train, read = list[RowSet](), list[dict[str, Any]]()
    for source in data.all_sources:
        bad = list[str]()
        rows = training_rows(task, data, source, rejected=bad)
        name = source.name if len(data.all_sources) > 1 else ""
        train.append(read_set(task, rows, source=source.path, bad=bad, name=name))
        read.append({"path": source.path, "task": task.name, "format": "", "rows": len(rows)})
    read.append({"path": data.test, "task": task.name, "format": "", "rows": len(held_out)})
    try:
        samples = [
            sample
            for part, source in zip(train, data.all_sources, strict=True)
            for sample in _named_by_row(
                part, task.training_samples(part.rows, source=source.path, seed=data.seed)
            )
        ]
        found, lengths = examine_lengths(samples, renderer)
    except UserError as error:
        found, lengths = [Finding("no training", "error", f"the rows cannot be trained on: {error}")], None
    return replace(_report(read, train, [test], found, lengths), name=context.name)


def _samples_to_measure(part: RowSet) -> list[Sample]:
    """Return training samples, or samples without targets if the rows have none."""
    if not part.rows:
        return []
    try:
        samples = part.task.training_samples(part.rows, source=part.name or "rows")
    except UserError:
        samples = part.task.samples(part.rows, source=part.name or "rows")
    return _named_by_row(part, samples)


def _named_by_row(part: RowSet, samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with the ids of their rows, which may be pairs that are shown in two orders."""
    return [replace(s, id=part.named(str(s.metadata.get("pair", s.id)))) for s in samples]


def read_set(
    task: Task, rows: Sequence[Row], *, source: str, bad: Sequence[str] = (), name: str = ""
) -> RowSet:
    """Read rows for a check; `bad` are lines of their file that are no rows.

    Raises:
        DataError: no row can be read.
    """
    if not rows:
        return RowSet(task, rows, (), bad, name=name)
    read, rejected = set[str](), list(bad)
    watched = [WatchedRow(row, read) if isinstance(row, FileRow) else row for row in rows]
    examples = task.examples(watched, source=source, rejected=rejected)
    places = {fault.place for fault in rejected if isinstance(fault, BadRow)}
    good = [row for number, row in enumerate(watched, start=1) if place_of(row, number) not in places]
    ignored = _unread_columns(task, good, read, source)
    return RowSet(task, good, examples, rejected, ignored, name)


def _unread_columns(task: Task, rows: Sequence[Row], read: set[str], source: str) -> list[Finding]:
    """Find columns that the task does not read, and of these the names like one that it looks for."""
    if not all(isinstance(row, WatchedRow) for row in rows):
        return []
    with suppress(UserError):  # what is wrong with them is found elsewhere
        task.training_samples(rows, source=source)  # reads further columns
    columns = dict.fromkeys(column for row in rows for column in row)
    unread = [column for column in columns if column not in read | {"split"}]
    wanted = (read | {"split"}) - columns.keys()
    telling = [name for name in wanted if len(name) > 3]  # id and idx are alike by chance
    near = {column: get_close_matches(column, telling, n=1, cutoff=ALIKE) for column in unread}
    hints = {column: found[0] for column, found in near.items() if found}
    found = [
        Finding(
            "misspelt column", "warning", f"nothing reads the column '{column}'; if it is '{hint}', rename it"
        )
        for column, hint in hints.items()
    ]
    others = [column for column in unread if column not in hints]
    if others:
        found.append(Finding("unread columns", "info", f"nothing reads the columns {', '.join(others)}"))
    return found


def _report(
    read: Sequence[Mapping[str, Any]],
    train: Sequence[RowSet],
    test: Sequence[RowSet],
    found: Sequence[Finding],
    lengths: Lengths | None,
) -> DataReport:
    examples = [
        [replace(each, id=part.named(each.id)) for part in parts for each in part.examples]
        for parts in (train, test)
    ]
    findings = [
        *(each for parts, where in ((train, TRAIN), (test, TEST)) for each in _bad_rows(parts, where)),
        *(replace(each, where=TRAIN) for each in found),
        *examine(*examples),
        *(
            replace(each, where=where)
            for parts, where in ((train, TRAIN), (test, TEST))
            for p in parts
            for each in p.ignored
        ),
    ]
    return DataReport(read, len(examples[0]), len(examples[1]), lengths, by_severity(findings))


def _bad_rows(parts: Sequence[RowSet], where: str) -> list[Finding]:
    """Return the rows that cannot be read, by the kind of their fault."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for part in parts:
        for bad in part.bad:
            kind, place = (bad.kind, bad.place) if isinstance(bad, BadRow) else ("unreadable row", bad)
            kinds.setdefault(kind, []).append((part.named(place), str(bad)))
    return [
        replace(each, where=where)
        for kind, found in kinds.items()
        for each in finding(
            kind, "error", (place for place, _ in found), f"{found[0][1]}; {_ADVICE.get(kind, 'fix the row')}"
        )
    ]

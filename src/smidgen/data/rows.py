"""How rows of a known shape are read.

The format of rows is the one that most of them have, and every row must have it. Faults are collected and
raised together.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from smidgen.data.row_files import FileRow, Row, RowFile, read_rows, refuse
from smidgen.errors import ConfigError, DataError, did_you_mean, first_few

__all__ = [
    "FileRow", "Format", "Row", "number_of", "place_of", "read_items", "read_placed", "read_rows", "refuse",
    "select_rows",
]  # fmt: skip

_AnyRow = TypeVar("_AnyRow", bound=dict[str, Any])


class Format(NamedTuple):
    """How rows of one shape are recognised and read.

    Attributes:
        title: what errors call such a row.
        fields: those that it always has.
        read: the items of a row, each with an `id`, from the row and its number; raises `DataError`.
        fits: tells formats with the same fields apart by what the fields hold.
        label: the field of its label, which a row may lack.
    """

    title: str
    fields: tuple[str, ...]
    read: Callable[[Row, int], Sequence[Any]]
    fits: Callable[[Row], bool] = lambda row: True
    label: str = ""


def select_rows(
    rows: Sequence[_AnyRow],
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    source: str = "rows",
) -> list[_AnyRow]:
    """The rows whose `split` is wanted, at most `limit` of them, evenly spaced.

    Files are often sorted by class, so the head of one is not a sample of it. Rows without `split` are all
    kept.

    Raises:
        ConfigError: `limit` is not positive.
        DataError: no row has a wanted split.
    """
    if limit is not None and limit <= 0:
        raise ConfigError(f"the limit of rows is {limit}; expected a number above 0, or none for every row")
    kept = [row for row in rows if not splits or "split" not in row or row["split"] in splits]
    if not kept:
        known = sorted({str(row["split"]) for row in rows if "split" in row})
        hint = did_you_mean(splits[0], known) if splits else ""
        raise DataError(f"{source} has no row of split {', '.join(splits)}.{hint} Known: {', '.join(known)}")
    if limit is None or limit >= len(kept):
        return kept
    return [kept[index * len(kept) // limit] for index in range(limit)]


def read_items(
    rows: Sequence[Row], formats: Sequence[Format], source: str, *, rejected: list[str] | None = None
) -> list[Any]:
    """Read every row in the format that most of them have; for arguments and errors see `read_placed`."""
    items = [item for _, item in read_placed(rows, formats, source, rejected=rejected)[1]]
    if not items and rejected:
        raise DataError(f"{source}: nothing is left of {len(rows)} rows: {first_few(rejected)}")
    return items


def read_placed(
    rows: Sequence[Row], formats: Sequence[Format], source: str, *, rejected: list[str] | None = None
) -> tuple[Format, list[tuple[str, Any]]]:
    """As `read_items`, with the format, and with each item the place of its row.

    Args:
        rows: objects as `read_rows` gives them.
        formats: those that are known, the most particular first.
        source: names the rows in errors.
        rejected: takes what is wrong with each bad row, and the others are read; None refuses them all.

    Raises:
        DataError: the format is not known, a row does not have it, or two rows of one file share an id.
    """
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    chosen = _recognise(rows, formats, source)
    placed: list[tuple[str, Any]] = []
    faults: list[str] = []
    seen: dict[tuple[RowFile | None, str], str] = {}
    for number, row in enumerate(rows, start=1):
        place, file, row = place_of(row, number), file_of(row), _filled(row, chosen)
        try:
            if lacking := [field for field in chosen.fields if field not in row]:
                raise DataError(f"'{lacking[0]}' is missing")
            found = chosen.read(row, number)
            if twice := next((item.id for item in found if (file, item.id) in seen), None):
                raise DataError(f"its id '{twice}' is also that of {seen[file, twice]}")
        except DataError as fault:
            faults.append(f"{place}: {fault}")
            continue
        seen |= {(file, item.id): place for item in found}
        placed += ((place, item) for item in found)
    if rejected is None:
        refuse(faults, source, f"a {chosen.title} has the fields {', '.join(chosen.fields)}")
    else:
        rejected += faults
    return chosen, placed


def _recognise(rows: Sequence[Row], formats: Sequence[Format], source: str) -> Format:
    """The format that most rows have, the more particular of two."""
    counts = [0] * len(formats)
    for row in rows:
        fitting = (
            number
            for number, known in enumerate(formats)
            for whole in (_filled(row, known),)
            if all(field in whole for field in known.fields) and known.fits(whole)
        )
        if (number := next(fitting, None)) is not None:
            counts[number] += 1
    if any(counts):
        return formats[counts.index(max(counts))]
    fields = ", ".join(rows[0])
    nearest = max(formats, key=lambda candidate: sum(field in rows[0] for field in candidate.fields))
    lacking = ", ".join(f"'{field}'" for field in nearest.fields if field not in rows[0])
    lacks = f"it lacks {lacking} of a {nearest.title}" if lacking else f"it is no {nearest.title}"
    shapes = "; ".join(f"{known.title}: {', '.join(known.fields)}" for known in formats)
    raise DataError(
        f"{source}: {place_of(rows[0], 1)} has the fields {fields or 'none'}, which fit no known format; "
        f"{lacks}. Known: {shapes}"
    )


def place_of(row: Row, number: int) -> str:
    """Where a row stands, as errors say it: its line, or its number among the rows."""
    return f"{row.unit} {row.number}" if isinstance(row, FileRow) else f"row {number}"


def file_of(row: Row) -> RowFile | None:
    """The file that a row stands in, if it comes from one: ids are unique within it."""
    return row.file if isinstance(row, FileRow) else None


def _filled(row: Row, form: Format) -> Row:
    """A row of a table with the fields that the format always has, be their cells empty."""
    return row.filled(form.fields) if isinstance(row, FileRow) else row


def number_of(row: Row, number: int) -> int:
    """Where a row stands in its file, or its number among the rows."""
    return row.number if isinstance(row, FileRow) else number

"""Detect the format of rows and read them.

The format is the one that matches most rows, and every row must match it. Faults are collected and raised
together.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from smidgen.data.bad_rows import BadRow, FieldError
from smidgen.data.row_files import FileRow, Row, RowFile, read_rows, refuse
from smidgen.errors import ConfigError, DataError, did_you_mean, first_few

__all__ = [
    "FileRow", "Format", "Row", "number_of", "place_of", "read_items", "read_placed", "read_rows",
    "recognise", "refuse", "select_rows",
]  # fmt: skip

_AnyRow = TypeVar("_AnyRow", bound=Row)


class Format(NamedTuple):
    """How rows of one format are recognised and read.

    Attributes:
        title: name of such a row in errors.
        fields: the required fields.
        read: returns the items of a row, each with an `id`, given the row and its number; raises `DataError`.
        fits: distinguishes formats with the same fields by their values.
        label: the optional field of the label.
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
    """Select the rows of the given splits, at most `limit` of them, evenly spaced.

    Files are often sorted by class, so the first rows are not a representative sample. Rows without a `split`
    field are always kept.

    Raises:
        ConfigError: `limit` is not positive.
        DataError: no row has one of the splits.
    """
    if limit is not None and limit <= 0:
        raise ConfigError(f"the row limit is {limit}; expected a number above 0, or no limit for all rows")
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
    """Read all rows in the format that matches most of them; arguments and errors as in `read_placed`."""
    items = [item for _, item in read_placed(rows, formats, source, rejected=rejected)[1]]
    if not items and rejected:
        raise DataError(f"{source}: none of {len(rows)} rows can be used: {first_few(rejected)}")
    return items


def read_placed(
    rows: Sequence[Row], formats: Sequence[Format], source: str, *, rejected: list[str] | None = None
) -> tuple[Format, list[tuple[str, Any]]]:
    """Read rows as `read_items` does; also return the format and, with each item, the position of its row.

    Args:
        rows: objects as `read_rows` returns them.
        formats: the known formats, the most specific first.
        source: names the rows in errors.
        rejected: collects the fault of each bad row, which is skipped; if None, bad rows raise.

    Raises:
        DataError: the format is unknown, a row does not match it, or two rows of one file share an id.
    """
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    chosen = recognise(rows, formats, source)
    placed: list[tuple[str, Any]] = []
    faults: list[str] = []
    seen: dict[tuple[RowFile | None, str], str] = {}
    for number, row in enumerate(rows, start=1):
        place, file, row = place_of(row, number), file_of(row), _filled(row, chosen)
        try:
            if lacking := [field for field in chosen.fields if field not in row]:
                raise FieldError(f"'{lacking[0]}' is missing", "missing field")
            found = chosen.read(row, number)
            if twice := next((item.id for item in found if (file, item.id) in seen), None):
                raise FieldError(f"its id '{twice}' is also that of {seen[file, twice]}", "repeated id")
        except DataError as fault:
            kind = fault.kind if isinstance(fault, FieldError) else "unreadable row"
            faults.append(BadRow(place, f": {fault}", kind))
            continue
        seen |= {(file, item.id): place for item in found}
        placed += ((place, item) for item in found)
    if rejected is None:
        refuse(faults, source, f"a {chosen.title} has the fields {', '.join(chosen.fields)}")
    else:
        rejected += faults
    return chosen, placed


def recognise(rows: Sequence[Row], formats: Sequence[Format], source: str) -> Format:
    """Return the format that matches most rows; of a tie, that which comes first.

    Raises:
        DataError: no row matches one of them.
    """
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
    lacks = f"it lacks {lacking} of a {nearest.title}" if lacking else f"it is not a {nearest.title}"
    shapes = "; ".join(f"{known.title}: {', '.join(known.fields)}" for known in formats)
    raise DataError(
        f"{source}: {place_of(rows[0], 1)} has the fields {fields or 'none'}, which match no known format; "
        f"{lacks}. Known: {shapes}"
    )


def place_of(row: Row, number: int) -> str:
    """Return the position of a row for errors: its line, or its number among the rows."""
    return f"{row.unit} {row.number}" if isinstance(row, FileRow) else f"row {number}"


def file_of(row: Row) -> RowFile | None:
    """Return the file that a row comes from, or None; ids are unique within a file."""
    return row.file if isinstance(row, FileRow) else None


def _filled(row: Row, form: Format) -> Row:
    """Add the format's required fields to a row of a table if their cells are empty."""
    return row.filled(form.fields) if isinstance(row, FileRow) else row


def number_of(row: Row, number: int) -> int:
    """Return the number of a row in its file, or else among the rows."""
    return row.number if isinstance(row, FileRow) else number

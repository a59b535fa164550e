"""Files of rows, and how rows of a known shape are read.

A file is JSONL, one JSON object a line, or a JSON array of objects. Its format is the one that most of its
rows have, and every row must have it. Faults are collected and raised together.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from smidgen.errors import ConfigError, DataError, did_you_mean

Row = Mapping[str, Any]
_AnyRow = TypeVar("_AnyRow", bound=dict[str, Any])

_FAULTS_SHOWN = 5
FILES = (".jsonl", ".json", ".parquet")
"""Endings of files, which no name of a dataset is taken to have."""
_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]*\w)(:(?P<split>\w+))?")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class FileRow(dict[str, Any]):
    """A row that knows where it stands, apart from its fields.

    Attributes:
        number: of its line, or of the row where the file has no lines; from 1.
        unit: what is counted, `line` or `row`.
    """

    def __init__(self, fields: Row, number: int, unit: str):
        super().__init__(fields)
        self.number = number
        self.unit = unit


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


def read_rows(path: Path, *, rejected: list[str] | None = None) -> list[FileRow]:
    """Read a file of rows, each with its place: by it a row is named in errors, and known if it has no `id`.

    Blank lines of JSONL are skipped. A file named `.json` may hold one array of objects instead. A Parquet
    file and a dataset of the Hugging Face hub (`owner/name`, or `owner/name:split`) are read by the package
    `datasets`.

    Args:
        path: the file, or the hub id.
        rejected: takes what is wrong with each bad line, and the others are read; None refuses them all.

    Raises:
        DataError: the file is missing or empty, or a line is not a JSON object.
    """
    if path.suffix == ".parquet" and path.is_file():
        return _numbered(_datasets(str(path)).Dataset.from_parquet(str(path)), str(path))
    is_file = path.exists() or path.suffix in FILES
    if not is_file and (found := _HUB_ID.fullmatch(str(path))):
        return _numbered(_from_hub(found["name"], found["split"]), str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no data file at {path}; expected one JSON object a line (JSONL)") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; expected a file with one JSON object a line (JSONL)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable UTF-8 file: {error}") from None
    is_array = path.suffix == ".json" and text.lstrip().startswith("[")
    faults: list[str] = []
    rows = _of_array(text, str(path), faults) if is_array else _of_lines(text, faults)
    if rejected is None:
        refuse(faults, str(path), f"every {'row' if is_array else 'line'} must be one JSON object")
    else:
        rejected += faults
    if not rows:
        what = "has no row that is a JSON object" if faults else "is empty"
        raise DataError(f"{path} {what}; expected one JSON object a line (JSONL)")
    return rows


def _of_lines(text: str, faults: list[str]) -> list[FileRow]:
    """The rows of JSONL; what is wrong with the other lines goes to `faults`."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: strings may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number} is not JSON ({error})")
            continue
        if fault := _fault(row, is_suspect=_HALF_CHARACTER.search(line) is not None):
            faults.append(f"line {number} {fault}")
        else:
            rows.append(FileRow(row, number, "line"))
    return rows


def _of_array(text: str, source: str, faults: list[str]) -> list[FileRow]:
    """The rows of a JSON array; what is wrong with the other elements goes to `faults`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is not a JSON array of rows ({error})") from None
    is_suspect = _HALF_CHARACTER.search(text) is not None
    rows = []
    for number, row in enumerate(found, start=1):
        if fault := _fault(row, is_suspect=is_suspect):
            faults.append(f"row {number} {fault}")
        else:
            rows.append(FileRow(row, number, "row"))
    return rows


def _fault(row: Any, *, is_suspect: bool) -> str:
    """Why a JSON value is no row, or nothing; `is_suspect` if it may hold half characters."""
    if not isinstance(row, dict):
        return f"is a JSON {type(row).__name__}, not an object"
    if is_suspect and not _is_unicode(row):
        return "holds half of a surrogate pair, which is no character"
    return ""


def _numbered(dataset: Any, source: str) -> list[FileRow]:
    """The rows of a dataset, with their numbers."""
    rows = [FileRow(row, number, "row") for number, row in enumerate(dataset.to_list(), start=1)]
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    return rows


def _from_hub(name: str, split: str | None) -> Any:
    """One split of a dataset of the hub; the only one, if none is named."""
    source = f"{name}:{split}" if split else name
    datasets = _datasets(source)
    try:
        if split is None:
            splits = datasets.get_dataset_split_names(name)
            if len(splits) != 1:
                raise DataError(f"{name} has the splits {', '.join(splits)}; name one, as {name}:{splits[0]}")
            split = splits[0]
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"there is no file {source}, and the hub gives no such dataset: {reason}") from None


def _datasets(source: str) -> Any:
    """The package `datasets`, which JSONL does not need."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"reading {source} needs the package datasets; install it with `pip install 'smidgen[hub]'`"
        ) from None
    datasets.disable_progress_bars()
    return datasets


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


def _is_unicode(row: Row) -> bool:
    """Whether the row's text can be written again as UTF-8; JSON's escapes can spell what cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


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
        DataError: the format is not known, a row does not have it, or two rows share an id.
    """
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    chosen = _recognise(rows, formats, source)
    placed: list[tuple[str, Any]] = []
    faults, seen = [], {}
    for number, row in enumerate(rows, start=1):
        place = place_of(row, number)
        try:
            if lacking := [field for field in chosen.fields if field not in row]:
                raise DataError(f"'{lacking[0]}' is missing")
            found = chosen.read(row, number)
            if twice := next((item.id for item in found if item.id in seen), None):
                raise DataError(f"its id '{twice}' is also that of {seen[twice]}")
        except DataError as fault:
            faults.append(f"{place}: {fault}")
            continue
        seen |= {item.id: place for item in found}
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
            if all(field in row for field in known.fields) and known.fits(row)
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


def number_of(row: Row, number: int) -> int:
    """Where a row stands in its file, or its number among the rows."""
    return row.number if isinstance(row, FileRow) else number


def refuse(faults: Sequence[str], source: str, expected: str) -> None:
    """Raise the first faults and how many more there are; nothing if there are none."""
    if faults:
        raise DataError(f"{source}: {first_few(faults)}. Expected: {expected}")


def first_few(faults: Sequence[str]) -> str:
    """The first faults, and how many more there are."""
    more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    return "; ".join(faults[:_FAULTS_SHOWN]) + more

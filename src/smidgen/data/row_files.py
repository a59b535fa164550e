"""Read files of rows: JSONL, a JSON array, CSV, TSV, Parquet, a Hugging Face dataset, or standard input.

Any file may be compressed with gzip and may start with a byte order mark. Each row knows its position.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import sys
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smidgen.data.bad_rows import UNREADABLE, BadRow
from smidgen.data.packaged_rows import row_path
from smidgen.errors import DataError, first_few
from smidgen.files import decode_text, sha256_file

Row = Mapping[str, Any]

STDIN = "-"
"""The name that stands for standard input."""
TABLES = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables with a header, and their separators."""
FILES = (".jsonl", ".json", ".parquet", ".gz", *TABLES)
"""Suffixes of files: a name with one of these is never taken for a dataset id."""
_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]*\w)(:(?P<split>\w+))?")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
GZIP = b"\x1f\x8b"
_EXPECTED = "one JSON object a line (JSONL)"

_stdin: list[tuple[object, bytes]] = []  # the stream that was read, and its content


@dataclass(frozen=True)
class RowFile:
    """The source of rows.

    Attributes:
        name: its name in errors.
        unit: how positions are counted, by `line` or `row`.
        is_table: whether it is a CSV or TSV table, whose cells are always text.
        warned: warnings that were already issued about it.
    """

    name: str
    unit: str = "line"
    is_table: bool = False
    warned: set[str] = field(default_factory=set, compare=False, repr=False)

    def warn_once(self, warning: str) -> None:
        """Warn about the file; the same warning is issued only once."""
        if warning not in self.warned:
            self.warned.add(warning)
            warnings.warn(f"{self.name or 'a row'} {warning}", stacklevel=2)


class FileRow(dict[str, Any]):
    """A row that also knows its position in its source.

    Attributes:
        number: number of its line, or of the row if the source has no lines; from 1.
        unit: how positions are counted, by `line` or `row`.
        file: its source; equal for all rows of a file.
        blank: columns of a table whose cell is empty; they are not among its fields.
    """

    def __init__(
        self,
        fields: Row,
        number: int,
        unit: str,
        file: RowFile | None = None,
        blank: frozenset[str] = frozenset(),
    ):
        super().__init__(fields)
        self.number = number
        self.unit = unit
        self.file = file or RowFile("", unit)
        self.blank = blank

    def filled(self, fields: Iterable[str]) -> "FileRow":
        """Return the row with empty texts for those of `fields` whose cells are empty."""
        empty = {name: "" for name in fields if name in self.blank}
        return FileRow({**self, **empty}, self.number, self.unit, self.file) if empty else self

    def named(self, name: str) -> "FileRow":
        """Return the row with another `id`."""
        return FileRow({**self, "id": name}, self.number, self.unit, self.file, self.blank)


class WrittenNumber(float):
    """A number of a JSON file that keeps its original spelling."""

    written: str

    def __new__(cls, written: str) -> "WrittenNumber":
        """Parse a number from its text."""
        number = super().__new__(cls, written)
        number.written = written
        return number


def source_name(source: str | Path) -> str:
    """Return the name of a source of rows for errors."""
    return "standard input" if str(source) == STDIN else str(source)


def fingerprint(source: str | Path) -> str | None:
    """Return the SHA-256 of a file or of standard input; None for a dataset of the hub."""
    if str(source) == STDIN:
        return hashlib.sha256(_read_stdin()).hexdigest()
    path = row_path(source)
    return sha256_file(path) if path.is_file() else None


def read_rows(path: Path, *, rejected: list[str] | None = None) -> list[FileRow]:
    """Read a file of rows. Each row keeps its position, which names it in errors and is its default id.

    Blank lines of JSONL are skipped. A `.json` file may contain one array of objects instead. `.csv` and
    `.tsv` files start with a header; their cells are text, and an empty cell means that the row lacks the
    field. The format of standard input (`-`) is detected from its beginning; it is read once. Parquet files
    and datasets of the Hugging Face hub (`owner/name` or `owner/name:split`) are read with the package
    `datasets`.

    Args:
        path: the file, the hub id, `-`, or the name of rows that come with smidgen.
        rejected: collects the fault of each bad line, which is skipped; if None, bad lines raise.

    Raises:
        DataError: the file is missing or empty, or a line is not a JSON object or does not match the header.
    """
    name, path = source_name(path), row_path(path)
    if path.suffix == ".parquet" and path.is_file():
        return _dataset_rows(_datasets(str(path)).Dataset.from_parquet(str(path)), str(path))
    is_file = str(path) == STDIN or path.exists() or path.suffix in FILES
    if not is_file and (found := _HUB_ID.fullmatch(str(path))):
        return _dataset_rows(_from_hub(found["name"], found["split"]), str(path))
    faults: list[str] = []
    text = _read_text(path, name)
    kind = (
        _detect_format(text)
        if str(path) == STDIN
        else path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix
    )
    expected = "every line must be one JSON object"
    if kind in TABLES:
        rows = _parse_table(text, RowFile(name, is_table=True), TABLES[kind], faults)
        expected = "every line must have as many cells as the header"
    elif kind == ".json" and text.lstrip().startswith("["):
        rows = _parse_array(text, RowFile(name, "row"), faults)
        expected = "every row must be one JSON object"
    else:
        rows = _parse_lines(text, RowFile(name), faults)
    if rejected is None:
        refuse(faults, name, expected)
    else:
        rejected += faults
    if not rows:
        what = "has no readable row" if faults else "is empty"
        raise DataError(f"{name} {what}; expected {_EXPECTED}")
    return rows


def refuse(faults: Sequence[str], source: str, expected: str) -> None:
    """Raise `DataError` with the first faults and the number of further ones, if there are any."""
    if faults:
        raise DataError(f"{source}: {first_few(faults)}. Expected: {expected}")


def _read_text(path: Path, name: str) -> str:
    """Read a file or standard input, decompressed, without byte order mark and carriage returns."""
    try:
        data = _read_stdin() if str(path) == STDIN else path.read_bytes()
        return decode_text(gzip.decompress(data) if data.startswith(GZIP) else data)
    except FileNotFoundError:
        raise DataError(f"there is no data file at {path}; expected {_EXPECTED}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a file of {_EXPECTED}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is not a complete gzip file ({error}); create or fetch it again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is not a readable UTF-8 file: {error}") from None


def _read_stdin() -> bytes:
    """Return the content of standard input, which is read only once because several readers need it."""
    if not _stdin or _stdin[0][0] is not sys.stdin:
        binary = getattr(sys.stdin, "buffer", None)
        data = binary.read() if binary is not None else sys.stdin.read().encode()
        _stdin[:] = [(sys.stdin, data)]
    return _stdin[0][1]


def _detect_format(text: str) -> str:
    """Return the suffix that a file with this text would have."""
    first = text.lstrip().partition("\n")[0]
    if first.startswith(("{", "[")):
        return ".json" if first.startswith("[") else ".jsonl"
    return next((ending for ending, separator in reversed(TABLES.items()) if separator in first), ".jsonl")


def _parse_lines(text: str, file: RowFile, faults: list[str]) -> list[FileRow]:
    """Parse JSONL; faults of bad lines are appended to `faults`."""
    rows = []
    # Not splitlines(), which would also split at U+2028 inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row, fault = parse_line(line)
        if fault:
            faults.append(BadRow(f"line {number}", f" {fault}", UNREADABLE))
        else:
            rows.append(FileRow(row, number, file.unit, file))
    return rows


def parse_line(line: str) -> tuple[Row, str]:
    """Parse a line of JSONL; return its object and "", or what is wrong with it in the second place."""
    try:
        row = json.loads(line, parse_float=WrittenNumber)
    except (ValueError, RecursionError) as error:
        return {}, f"is not JSON ({error})"
    fault = _fault(row, is_suspect=_HALF_CHARACTER.search(line) is not None)
    return ({}, fault) if fault else (row, "")


def _parse_array(text: str, file: RowFile, faults: list[str]) -> list[FileRow]:
    """Parse a JSON array of rows; faults of bad elements are appended to `faults`."""
    try:
        found = json.loads(text, parse_float=WrittenNumber)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is not a JSON array of rows ({error})") from None
    is_suspect = _HALF_CHARACTER.search(text) is not None
    rows = []
    for number, row in enumerate(found, start=1):
        if fault := _fault(row, is_suspect=is_suspect):
            faults.append(BadRow(f"row {number}", f" {fault}", UNREADABLE))
        else:
            rows.append(FileRow(row, number, file.unit, file))
    return rows


def _parse_table(text: str, file: RowFile, separator: str, faults: list[str]) -> list[FileRow]:
    """Parse a table with a header; a row's number is the line on which it starts."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    rows: list[FileRow] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{file.name}: line {number} cannot be split into cells ({error}); fix its quotes"
            ) from None
        if cells is None:
            return rows
        if not any(cells) and len(cells) < 2:
            continue
        if not header:
            header = _header(cells, file)
        elif len(cells) != len(header):
            why = f" has {len(cells)} cells, but the header has {len(header)}"
            faults.append(BadRow(f"line {number}", why, UNREADABLE))
        else:
            row = dict(zip(header, cells, strict=True))
            fields = {name: cell for name, cell in row.items() if cell}
            rows.append(FileRow(fields, number, file.unit, file, frozenset(row) - frozenset(fields)))


def _header(cells: Sequence[str], file: RowFile) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "" in names:
        what = f"names '{twice}' twice" if twice else "has a column without a name"
        raise DataError(f"{file.name}: the header {what}; expected a different name for each column")
    return names


def _fault(row: Any, *, is_suspect: bool) -> str:
    """Say why a JSON value is not a row, or return ""; `is_suspect` if it may contain lone surrogates."""
    if not isinstance(row, dict):
        return f"is a JSON {type(row).__name__}, not an object"
    if is_suspect and not _is_unicode(row):
        return "contains half of a surrogate pair, which is not a character"
    return ""


def _is_unicode(row: Row) -> bool:
    """Whether the row can be encoded as UTF-8; JSON escapes can spell lone surrogates, which cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _dataset_rows(dataset: Any, source: str) -> list[FileRow]:
    """Return the rows of a dataset, numbered from 1."""
    file = RowFile(source, "row")
    rows = [FileRow(row, number, file.unit, file) for number, row in enumerate(dataset.to_list(), start=1)]
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    return rows


def _from_hub(name: str, split: str | None) -> Any:
    """Load one split of a hub dataset; the only one, if none is named."""
    source = f"{name}:{split}" if split else name
    datasets = _datasets(source)
    try:
        if split is None:
            splits = datasets.get_dataset_split_names(name)
            if len(splits) != 1:
                raise DataError(
                    f"{name} has the splits {', '.join(splits)}; select one, such as {name}:{splits[0]}"
                )
            split = splits[0]
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"there is no file {source}, and the hub has no such dataset: {reason}") from None


def _datasets(source: str) -> Any:
    """Import the package `datasets`, an optional dependency."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"reading {source} needs the package datasets; install it with `pip install 'smidgen[hub]'`"
        ) from None
    datasets.disable_progress_bars()
    return datasets

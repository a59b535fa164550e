"""Documents of files that may be larger than memory, for pretraining: JSONL, Parquet and plain text.

A file is read as a stream. Each document comes with its place, from which reading goes on without the rest of
the file: the byte at which it starts or, in Parquet, its row.
"""

import gzip
import heapq
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, NamedTuple

from smidgen.data.fields import shown
from smidgen.data.row_files import GZIP, Row, parse_line, refuse
from smidgen.data.row_templates import row_template, template_fields
from smidgen.errors import DataError

TEXT_FIELDS = ("text", "content", "raw_content")
"""Fields that hold a document if no template is given, the first that a row has."""
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")
MOST_HELD_OUT = 4096
"""Maximum number of documents of a file that are held out."""
MOST_FAULTS = 100
"""Faults after which a file is given up."""
PARQUET_ROWS = 1024
"""Rows of a Parquet file that are decoded at once."""
REPORTED = 10_000
"""Documents between two reports of a survey."""
_MARK = b"\xef\xbb\xbf"


class Placed(NamedTuple):
    """A document and its place in its source, from which reading can go on."""

    place: int
    text: str


Documents = Callable[[int], Iterator[Placed]]
"""Iterates over the documents from a place on, always the same; 0 is the place of the first."""


class Survey(NamedTuple):
    """What one pass over a file finds.

    Attributes:
        documents: number of documents.
        characters: their characters.
        threshold: the documents whose `key_of` is at most this are held out.
        held_out: number of these.
    """

    documents: int
    characters: int
    threshold: int
    held_out: int


@dataclass(frozen=True)
class DocumentFile:
    """A file of documents.

    Attributes:
        path: a file with one of `SUFFIXES`.
        template: Jinja template of a document over the fields of a row; None for one of `TEXT_FIELDS`.
    """

    path: Path
    template: str | None = None

    def check(self) -> None:
        """Read the first document, so that a file of the wrong kind is refused at once.

        Raises:
            ConfigError: the template is invalid.
            DataError: the file is missing, empty, of another kind, or its first row is not a document.
        """
        _ = self._template
        if not self.path.is_file():
            raise DataError(f"there is no data file at {self.path}; expected one with {', '.join(SUFFIXES)}")
        if not self.path.name.endswith(SUFFIXES):
            raise DataError(f"{self.path} is not a file of documents; expected one of {', '.join(SUFFIXES)}")
        if self.template is not None and self._kind == ".txt":
            raise DataError(f"{self.path} is plain text, which has no fields; leave the template 'text' out")
        if next(self.read(0), None) is None:
            raise DataError(f"{self.path} has no documents; expected at least one")

    def read(self, place: int, faults: list[str] | None = None) -> Iterator[Placed]:
        """Yield the documents from a place on; blank ones are left out.

        Args:
            place: where to begin, as a document before told it; 0 for the first.
            faults: collects what is wrong with each bad row, which is skipped; if None, a bad row raises.

        Raises:
            DataError: the file is not readable, or a row is not a document.
        """
        reader = {".parquet": self._parquet, ".txt": self._paragraphs, ".jsonl": self._lines}[self._kind]
        try:
            yield from reader(place, faults)
        except FileNotFoundError:
            raise DataError(f"there is no data file at {self.path}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self.path} is not a complete gzip file ({error}); create or fetch it again"
            ) from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 text: {error}") from None

    def survey(self, fraction: float) -> Generator[int, None, Survey]:
        """Read the whole file once, yield the number of documents now and then, and return the survey.

        Args:
            fraction: share of the documents to hold out, at least one and at most `MOST_HELD_OUT`.

        Raises:
            DataError: rows are not documents, all listed; or there are fewer than two different documents.
        """
        faults: list[str] = []
        smallest = _SmallestKeys(MOST_HELD_OUT + 1)
        documents = characters = 0
        for _, text in self.read(0, faults):
            documents, characters = documents + 1, characters + len(text)
            smallest.add(key_of(text))
            if len(faults) >= MOST_FAULTS:
                break
            if documents % REPORTED == 0:
                yield documents
        refuse(faults, str(self.path), "every row is a document")
        if len(smallest.counts) < 2:
            raise DataError(
                f"{self.path} has {len(smallest.counts)} different documents; expected at least 2, one of "
                "them for validation"
            )
        number = min(MOST_HELD_OUT, max(1, round(documents * fraction)), len(smallest.counts) - 1)
        keys = sorted(smallest.counts)[:number]
        return Survey(documents, characters, keys[-1], sum(smallest.counts[key] for key in keys))

    @property
    def _kind(self) -> str:
        return Path(self.path.name.removesuffix(".gz")).suffix

    @cached_property
    def _template(self) -> Any:
        return None if self.template is None else row_template("text", self.template)

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        return gzip.open(self.path) if packed else self.path.open("rb")  # pyright: ignore[reportReturnType]

    def _lines(self, place: int, faults: list[str] | None) -> Iterator[Placed]:
        """Read JSONL; a line's place is its first byte, after decompression."""
        with self._open() as file:
            file.seek(place)
            number = 1 if place == 0 else None
            for line in file:
                where = f"line {number}" if number else f"the line at byte {place}"
                text = line.removeprefix(_MARK) if place == 0 else line
                if text.strip():
                    row, fault = parse_line(text.decode())
                    if fault:
                        self._note(f"{where} {fault}", faults)
                    else:
                        yield from self._document(row, where, place, faults)
                place, number = place + len(line), number and number + 1

    def _paragraphs(self, place: int, faults: list[str] | None) -> Iterator[Placed]:
        """Read plain text; blank lines separate the documents."""
        with self._open() as file:
            file.seek(place)
            lines, begin = list[bytes](), place
            for line in file:
                text = line.removeprefix(_MARK) if place == 0 else line
                if text.strip():
                    begin = begin if lines else place
                    lines.append(text)
                elif lines:
                    yield _paragraph(begin, lines)
                    lines = []
                place += len(line)
            if lines:
                yield _paragraph(begin, lines)

    def _parquet(self, place: int, faults: list[str] | None) -> Iterator[Placed]:
        """Read Parquet from a row on, only the needed columns, group by group."""
        parquet, arrow = _pyarrow(self.path)
        try:
            with parquet.ParquetFile(self.path) as file:
                columns, end = self._columns(file.schema_arrow.names), 0
                for group in range(file.num_row_groups):
                    at, end = end, end + file.metadata.row_group(group).num_rows
                    if end <= place:
                        continue
                    for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                        for row in batch.to_pylist():
                            if at >= place:
                                yield from self._document(row, f"row {at + 1}", at, faults)
                            at += 1
        except (arrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self.path} is not a readable Parquet file: {reason}") from None

    def _columns(self, names: list[str]) -> list[str]:
        """Return the columns of a Parquet file that a document is made of."""
        if self.template is not None:
            used = template_fields(self.template)
            return [name for name in names if name in used] or names
        return [name for name in TEXT_FIELDS if name in names][:1] or names

    def _document(self, row: Row, where: str, place: int, faults: list[str] | None) -> Iterator[Placed]:
        """Yield the document of a row unless it is blank."""
        try:
            text = self._text(row)
        except DataError as error:
            self._note(f"{where}: {error}", faults)
        else:
            if text.strip():
                yield Placed(place, text)

    def _note(self, fault: str, faults: list[str] | None) -> None:
        """Collect what is wrong with a row, or raise it."""
        if faults is None:
            raise DataError(f"{self.path}: {fault}")
        faults.append(fault)

    def _text(self, row: Row) -> str:
        fields = ", ".join(row) or "none"
        if self._template is None:
            name = next((name for name in TEXT_FIELDS if name in row), None)
            if name is None:
                raise DataError(
                    f"there is no field {' or '.join(TEXT_FIELDS)}; its fields are {fields}. Name those to "
                    'read in [[data.sources]], such as text = "{{ question }}"'
                )
            if not isinstance(row[name], str):
                raise DataError(f"'{name}' is {shown(row, name)}, expected text")
            return row[name]
        try:
            return self._template.render(row)
        except Exception as error:  # expressions in a template can raise anything
            raise DataError(
                f"the template 'text' cannot be rendered ({error}); its fields are {fields}"
            ) from None


class _SmallestKeys:
    """The smallest different keys of many.

    Attributes:
        counts: how often each of them occurred.
    """

    def __init__(self, most: int) -> None:
        self.counts: dict[int, int] = {}
        self._most, self._heap = most, list[int]()

    def add(self, key: int) -> None:
        """Count a key."""
        if key in self.counts:
            self.counts[key] += 1
        elif len(self._heap) < self._most:
            heapq.heappush(self._heap, -key)
            self.counts[key] = 1
        elif key < -self._heap[0]:
            del self.counts[-heapq.heapreplace(self._heap, -key)]
            self.counts[key] = 1


def key_of(text: str) -> int:
    """Return a number of 64 bits that decides whether a document is held out; equal texts have the same."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _paragraph(place: int, lines: list[bytes]) -> Placed:
    return Placed(place, b"".join(lines).decode().replace("\r\n", "\n").strip("\n"))


def _pyarrow(path: Path) -> tuple[Any, Any]:
    """Import pyarrow, an optional dependency."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"reading {path} needs the package pyarrow; install it with `pip install 'smidgen[hub]'`"
        ) from None
    return pyarrow.parquet, pyarrow

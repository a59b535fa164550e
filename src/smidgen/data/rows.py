"""Files of rows, and how rows of a known shape are read.

A file is JSONL: one JSON object a line. Its format is recognised from the fields of its first row, and every
other row must have the same. Faults are collected and raised together.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smidgen.errors import ConfigError, DataError, did_you_mean

Row = Mapping[str, Any]

_FAULTS_SHOWN = 5
FILES = (".jsonl", ".json", ".parquet")
"""Endings of files, which no name of a dataset is taken to have."""
_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]*\w)(:(?P<split>\w+))?")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class Format(NamedTuple):
    """How rows of one shape are recognised and read.

    Attributes:
        title: what errors call such a row.
        fields: those that it always has.
        read: the items of a row, each with an `id`, from the row and its number; raises `DataError`.
        fits: tells formats with the same fields apart by what the fields hold.
    """

    title: str
    fields: tuple[str, ...]
    read: Callable[[Row, int], Sequence[Any]]
    fits: Callable[[Row], bool] = lambda row: True


def read_rows(path: Path, *, rejected: list[str] | None = None) -> list[dict[str, Any]]:
    """Read a JSONL file; blank lines are skipped, and a row is given its `line`.

    By its line a row is named in errors, and identified if it has no `id`, whichever are selected later.

    A Parquet file and a dataset of the Hugging Face hub (`owner/name`, or `owner/name:split`) are read by the
    package `datasets`, their rows numbered as lines.

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
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except FileNotFoundError:
        raise DataError(f"there is no data file at {path}; expected one JSON object a line (JSONL)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable UTF-8 file: {error}") from None
    rows, faults = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number} is not JSON ({error})")
            continue
        if not isinstance(row, dict):
            faults.append(f"line {number} is a JSON {type(row).__name__}, not an object")
        elif _HALF_CHARACTER.search(line) and not _is_unicode(row):
            faults.append(f"line {number} holds half of a surrogate pair, which is no character")
        else:
            rows.append({"line": number, **row})
    if rejected is None:
        refuse(faults, str(path), "every line must be one JSON object")
    else:
        rejected += faults
    if not rows:
        what = "has no line that is a JSON object" if faults else "is empty"
        raise DataError(f"{path} {what}; expected one JSON object a line (JSONL)")
    return rows


def _numbered(dataset: Any, source: str) -> list[dict[str, Any]]:
    """The rows of a dataset, with their numbers for `line`."""
    rows = [{"line": number, **row} for number, row in enumerate(dataset.to_list(), start=1)]
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
    rows: Sequence[dict[str, Any]],
    *,
    splits: Sequence[str] = (),
    limit: int | None = None,
    source: str = "rows",
) -> list[dict[str, Any]]:
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
    """Read every row in the format that most of them have.

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
    items, faults, seen = [], [], {}
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
        items += found
    if rejected is None:
        refuse(faults, source, f"a {chosen.title} has the fields {', '.join(chosen.fields)}")
    else:
        rejected += faults
    return items


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
    fields = ", ".join(field for field in rows[0] if field != "line")
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
    return f"line {row['line']}" if "line" in row else f"row {number}"


def text_of(row: Row, field: str, *, empty: bool = False) -> str:
    """A field that must hold text; an answer may be `empty`, a question may not."""
    value = row.get(field)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise DataError(f"'{field}' is {shown(row, field)}, expected text")
    return value


def shown(row: Row, field: str) -> str:
    """A field's value as an error shows it."""
    if field not in row:
        return "missing"
    text = json.dumps(row[field], ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def subset_of(row: Row) -> str | None:
    """The part of a benchmark that the row belongs to, if it says so."""
    subset = row.get("subset")
    if subset is not None and not isinstance(subset, str):
        raise DataError(f"'subset' is {shown(row, 'subset')}, expected text")
    return subset


def row_id(row: Row, number: int) -> str:
    """The row's own id, else where it stands in its source, else where it stands in the file."""
    if "id" in row:
        if isinstance(row["id"], bool) or not isinstance(row["id"], str | int) or row["id"] == "":
            raise DataError(f"'id' is {shown(row, 'id')}, expected text or a whole number")
        return str(row["id"])
    if "subset" in row and "index" in row:
        return f"{row['subset']}/{row['index']}"
    return str(row.get("line", number))


def refuse(faults: Sequence[str], source: str, expected: str) -> None:
    """Raise the first faults and how many more there are; nothing if there are none."""
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{source}: {'; '.join(faults[:_FAULTS_SHOWN])}{more}. Expected: {expected}")

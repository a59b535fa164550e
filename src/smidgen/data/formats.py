"""Files of rows, and the row formats that tasks read.

A file is JSONL: one JSON object a line. Its format is recognised from the fields of its first row, and every
other row must have the same. Faults are collected and raised together.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smidgen.errors import ConfigError, DataError, did_you_mean

Row = Mapping[str, Any]

_FAULTS_SHOWN = 5
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and which of them people (or the construction) hold to be better."""

    id: str
    prompt: str
    a: str
    b: str
    better: Literal["a", "b"]
    subset: str | None = None


@dataclass(frozen=True)
class Query:
    """One utterance and the intent behind it."""

    id: str
    text: str
    intent: str


@dataclass(frozen=True)
class Question:
    """One question, the ways its right answer may be put, shortest first, and the kind of question it is."""

    id: str
    prompt: str
    accepted: tuple[str, ...]
    subset: str | None


class Format(NamedTuple):
    """How rows of one shape are recognised and read."""

    title: str
    fields: tuple[str, ...]
    read: Callable[[Row, int], Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file; blank lines are skipped, and a row is given its `line`.

    By its line a row is named in errors, and identified if it has no `id`, whichever are selected later.

    Raises:
        DataError: the file is missing or empty, or a line is not a JSON object.
    """
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
    _refuse(faults, str(path), "every line must be one JSON object")
    if not rows:
        raise DataError(f"{path} is empty; expected one JSON object a line (JSONL)")
    return rows


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


def pairs(rows: Sequence[Row], *, source: str = "rows") -> list[Pair]:
    """Read labelled pairs, one for each row, from any of `PAIR_FORMATS`.

    Args:
        rows: objects as `read_rows` gives them.
        source: names the rows in errors.

    Raises:
        DataError: the format is not known, a row does not have it, or two rows share an id.
    """
    return _read(rows, PAIR_FORMATS, source)


def queries(rows: Sequence[Row], *, source: str = "rows") -> list[Query]:
    """Read utterances with intents, one for each row; as `pairs`."""
    return _read(rows, QUERY_FORMATS, source)


def questions(rows: Sequence[Row], *, source: str = "rows") -> list[Question]:
    """Read questions with their right answers, one for each row; as `pairs`."""
    return _read(rows, QUESTION_FORMATS, source)


def _is_unicode(row: Row) -> bool:
    """Whether the row's text can be written again as UTF-8; JSON's escapes can spell what cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(rows: Sequence[Row], formats: Sequence[Format], source: str) -> list[Any]:
    """Read every row in the format of the first one, or say everything that is wrong."""
    if not rows:
        raise DataError(f"{source} has no rows; expected at least one")
    chosen = _recognise(rows[0], formats, source)
    items, faults, seen = [], [], {}
    for number, row in enumerate(rows, start=1):
        try:
            item = chosen.read(row, number)
        except DataError as fault:
            faults.append(f"{place_of(row, number)}: {fault}")
            continue
        if item.id in seen:
            faults.append(f"{place_of(row, number)}: its id '{item.id}' is also that of {seen[item.id]}")
        seen[item.id] = place_of(row, number)
        items.append(item)
    _refuse(faults, source, f"a {chosen.title} has the fields {', '.join(chosen.fields)}")
    return items


def _recognise(row: Row, formats: Sequence[Format], source: str) -> Format:
    """The format whose fields the row has."""
    for candidate in formats:
        if all(field in row for field in candidate.fields):
            return candidate
    fields = ", ".join(field for field in row if field != "line")
    nearest = max(formats, key=lambda candidate: sum(field in row for field in candidate.fields))
    missing = ", ".join(f"'{field}'" for field in nearest.fields if field not in row)
    shapes = "; ".join(f"{known.title}: {', '.join(known.fields)}" for known in formats)
    raise DataError(
        f"{source}: {place_of(row, 1)} has the fields {fields or 'none'}, which fit no known format; "
        f"it lacks {missing} of a {nearest.title}. Known: {shapes}"
    )


def place_of(row: Row, number: int) -> str:
    """Where a row stands, as errors say it: its line, or its number among the rows."""
    return f"line {row['line']}" if "line" in row else f"row {number}"


def _text(row: Row, field: str, *, empty: bool = False) -> str:
    """A field that must hold text; an answer may be `empty`, a question may not."""
    value = row.get(field)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise DataError(f"'{field}' is {_shown(row, field)}, expected text")
    return value


def _better(row: Row, field: str, choices: Mapping[Any, Literal["a", "b"]]) -> Literal["a", "b"]:
    """The side that a label names."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise DataError(f"'{field}' is {_shown(row, field)}, expected {expected}")
    return choices[value]


def _shown(row: Row, field: str) -> str:
    """A field's value as an error shows it."""
    if field not in row:
        return "missing"
    shown = json.dumps(row[field], ensure_ascii=False, default=repr)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _subset(row: Row) -> str | None:
    """The part of a benchmark that the row belongs to, if it says so."""
    subset = row.get("subset")
    if subset is not None and not isinstance(subset, str):
        raise DataError(f"'subset' is {_shown(row, 'subset')}, expected text")
    return subset


def _row_id(row: Row, number: int) -> str:
    """The row's own id, else where it stands in its source, else where it stands in the file."""
    if "id" in row:
        if isinstance(row["id"], bool) or not isinstance(row["id"], str | int) or row["id"] == "":
            raise DataError(f"'id' is {_shown(row, 'id')}, expected text or a whole number")
        return str(row["id"])
    if "subset" in row and "index" in row:
        return f"{row['subset']}/{row['index']}"
    return str(row.get("line", number))


def _own_pair(row: Row, number: int) -> Pair:
    return Pair(
        id=_row_id(row, number),
        prompt=_text(row, "prompt"),
        a=_text(row, "a", empty=True),
        b=_text(row, "b", empty=True),
        better=_better(row, "better", {"a": "a", "b": "b"}),
        subset=_subset(row),
    )


def _llmbar_pair(row: Row, number: int) -> Pair:
    return Pair(
        id=_row_id(row, number),
        prompt=_text(row, "input"),
        a=_text(row, "output_1", empty=True),
        b=_text(row, "output_2", empty=True),
        better=_better(row, "label", {1: "a", 2: "b"}),
        subset=_subset(row),
    )


def _query(row: Row, number: int) -> Query:
    return Query(id=_row_id(row, number), text=_text(row, "text"), intent=_text(row, "intent"))


def _question(row: Row, number: int) -> Question:
    sentence = (_text(row, "sentence"),) if "sentence" in row else ()
    return Question(
        id=_row_id(row, number),
        prompt=_text(row, "prompt"),
        accepted=(_text(row, "answer"), *sentence),
        subset=_subset(row),
    )


PAIR_FORMATS = (
    Format("pair row", ("id", "prompt", "a", "b", "better"), _own_pair),
    Format("LLMBar row", ("input", "output_1", "output_2", "label"), _llmbar_pair),
)
QUERY_FORMATS = (Format("query row", ("text", "intent"), _query),)
QUESTION_FORMATS = (Format("question row", ("prompt", "answer"), _question),)


def _refuse(faults: Sequence[str], source: str, expected: str) -> None:
    """Raise the first faults and how many more there are; nothing if there are none."""
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise DataError(f"{source}: {'; '.join(faults[:_FAULTS_SHOWN])}{more}. Expected: {expected}")

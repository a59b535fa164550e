"""Read and check fields of rows: each function raises `DataError` with the field's name and value."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.data.bad_rows import FieldError
from smidgen.data.items import Label
from smidgen.data.row_files import RowFile, WrittenNumber
from smidgen.data.rows import Row, file_of, number_of
from smidgen.errors import DataError


def text_of(row: Row, field: str, *, empty: bool = False) -> str:
    """Read a field of text; an answer may be `empty`, a question may not.

    A JSON number or boolean is read as its JSON text.
    """
    value = as_text(row.get(field), row)
    if value is None or not (empty or value.strip()):
        raise FieldError(f"'{field}' is {shown(row, field)}, expected text", fault_of(row, field))
    return value


def fault_of(row: Row, field: str, wrong: str = "wrong type") -> str:
    """Name the kind of fault of a field that cannot be read: it is missing, empty, or `wrong`."""
    value = row.get(field)
    if value is None:
        return "missing field"
    return "empty field" if isinstance(value, str) and not value.strip() else wrong


def as_text(value: Any, row: Row) -> str | None:
    """Return a text unchanged and a number or boolean as its JSON text (warns once per file); else None."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float) or not is_finite(value):
        return None
    file = file_of(row) or RowFile("")
    file.warn_once("contains numbers or booleans where text is expected; they are read as their JSON text")
    return value.written if isinstance(value, WrittenNumber) else json.dumps(value)


def structured(row: Row, field: str) -> Any:
    """Read a field with a list or an object; in a table, its cell contains JSON."""
    value, file = row.get(field), file_of(row)
    if file is None or not file.is_table or not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, list | dict) else value


def shown(row: Row, field: str) -> str:
    """Format a field's value for an error message."""
    if field not in row:
        return "missing"
    text = json.dumps(row[field], ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def subset_of(row: Row) -> str | None:
    """Return the row's subset of a benchmark, or None."""
    return None if row.get("subset") is None else text_of(row, "subset", empty=True)


def row_id(row: Row, number: int) -> str:
    """Return the row's `id`, else `subset/index`, else its number in the file."""
    if row.get("id") is not None:
        return _name(row, "id")
    if row.get("subset") is not None and row.get("index") is not None:
        return f"{subset_of(row)}/{_name(row, 'index')}"
    return str(number_of(row, number))


def _name(row: Row, field: str) -> str:
    """Read a field that identifies a row."""
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"'{field}' is {shown(row, field)}, expected text or a whole number")
    return str(value)


def label_of(row: Row, name: str, choices: Mapping[Any, Label]) -> Label | None:
    """Return the side that a label names, or None if there is no label."""
    return None if row.get(name) is None else side_of(row, name, choices)


def side_of(row: Row, name: str, choices: Mapping[Any, Label]) -> Label:
    """Return the side that a required label names."""
    value, file = row.get(name), file_of(row)
    if file is not None and file.is_table:
        choices = {str(choice): side for choice, side in choices.items()}
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        kind = fault_of(row, name, "unknown label")
        raise FieldError(f"'{name}' is {shown(row, name)}, expected {expected}", kind)
    return choices[value]


def scores_of(row: Row, name: str) -> tuple[float, float] | None:
    """Return two scores, or None if they are missing or are null or objects."""
    value = structured(row, name)
    parts = value if isinstance(value, list | tuple) else []
    if value is None or (parts and all(part is None or isinstance(part, Mapping) for part in parts)):
        return None
    scores = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
    if len(parts) != 2 or len(scores) != 2 or not all(map(is_finite, scores)):
        raise FieldError(f"'{name}' is {shown(row, name)}, expected two finite numbers", fault_of(row, name))
    return float(scores[0]), float(scores[1])


def is_finite(number: float) -> bool:
    """Whether a number fits a float; integers may be too large."""
    return abs(number) <= sys.float_info.max


def reference_of(row: Row) -> str | None:
    """Return the reference answer, given as text or as an object with `text`; None if there is none."""
    value = row.get("reference")
    if isinstance(value, Mapping):
        value = value.get("text")
    text = None if value is None else as_text(value, row)
    if value is not None and text is None:
        raise FieldError(f"'reference' is {shown(row, 'reference')}, expected text", "wrong type")
    return text or None


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts, or of values that are read as text."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, str | bool | int | float) for t in value)
    )


def texts_of(row: Row, name: str) -> list[str]:
    """Read a list of texts."""
    value = row.get(name)
    texts = [as_text(text, row) for text in value] if isinstance(value, list) else []
    if not texts or None in texts:
        raise FieldError(f"'{name}' is {shown(row, name)}, expected a list of texts", fault_of(row, name))
    return [text for text in texts if text is not None]


def turns_of(row: Row, name: str) -> list[tuple[str, str]]:
    """Read a list of messages as (role, text)."""
    turns = []
    for number, turn in enumerate(structured(row, name), start=1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        content = as_text(content, row)
        if not isinstance(role, str) or content is None:
            raise FieldError(
                f"message {number} of '{name}' needs a 'role' and a 'content' of text", "wrong type"
            )
        turns.append((role, content))
    return turns


def conversation(turns: Sequence[tuple[str, str]], name: str) -> str:
    """Format turns for a judge: a single question unchanged, several with the names of their roles."""
    if not turns or not any(text.strip() for _, text in turns):
        raise FieldError(f"'{name}' contains no question", "empty field")
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def prompt_of(row: Row) -> str:
    """Read a prompt given as text or as a list of messages."""
    chat = is_chat(row.get("prompt"))
    return conversation(turns_of(row, "prompt"), "prompt") if chat else text_of(row, "prompt")

"""Read a file of prompts or conversations."""

from pathlib import Path

from smidgen.data.chat import ROLES
from smidgen.data.fields import is_chat, shown, structured, text_of, turns_of
from smidgen.data.rows import Row, place_of, read_rows, refuse
from smidgen.data.types import Message
from smidgen.errors import DataError


def read_prompts(path: Path) -> list[tuple[Message, ...]]:
    """Read rows with a `prompt` or with `messages`; a `target` becomes the assistant's answer.

    Samples that a run recorded are such rows.

    Raises:
        DataError: the file cannot be read, or a row has neither field, or one of the wrong type.
    """
    found, faults = [], []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            found.append(_conversation(row))
        except DataError as fault:
            faults.append(f"{place_of(row, number)}: {fault}")
    refuse(faults, str(path), "every row has a prompt, or messages with a role and content each")
    return found


def _conversation(row: Row) -> tuple[Message, ...]:
    answer = () if row.get("target") is None else (Message("assistant", text_of(row, "target", empty=True)),)
    if "messages" not in row:
        return (Message("user", text_of(row, "prompt")), *answer)
    found = structured(row, "messages")
    turns = turns_of(row, "messages") if is_chat(found) else []
    if not turns or any(role not in ROLES for role, _ in turns):
        raise DataError(
            f"'messages' is {shown(row, 'messages')}, expected messages with a role and content each"
        )
    return (*(Message(role, content) for role, content in turns), *answer)

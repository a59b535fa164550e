"""Rows of texts to learn: chats, prompts with completions, and plain texts."""

from collections.abc import Callable, Sequence
from typing import Any

from smidgen.data.bad_rows import FieldError
from smidgen.data.fields import is_chat, row_id, structured, subset_of, text_of, turns_of
from smidgen.data.rows import Format, Row, number_of
from smidgen.data.templates import TEXT
from smidgen.data.types import Message, Sample

Reader = Callable[[Row, int], list[Sample]]
_ASIDE = ("system", "developer", "tool")
"""Roles of messages that do not count as turns."""


def _chat(field: str) -> Reader:
    def read(row: Row, number: int) -> list[Sample]:
        if not is_chat(structured(row, field)):
            raise FieldError(
                f"'{field}' is not a list of messages; expected objects with role and content", "wrong type"
            )
        turns = turns_of(row, field)
        _check_turns(turns, field)
        *prompt, (_, answer) = turns
        return [_sample(row, number, [Message(role, text) for role, text in prompt], answer)]

    return read


def _check_turns(turns: Sequence[tuple[str, str]], field: str) -> None:
    roles = [role for role, _ in turns]
    if roles[-1] != "assistant":
        raise FieldError(
            f"'{field}' ends with '{roles[-1]}', expected an assistant message to learn", "no answer"
        )
    spoken = [role for role in roles if role not in _ASIDE]
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise FieldError(
            f"the roles of '{field}' are {', '.join(roles)}; expected user and assistant in turn", "turns"
        )


def _prompted(prompt: str, completion: str, extra: str = "") -> Reader:
    def read(row: Row, number: int) -> list[Sample]:
        asked = text_of(row, prompt, empty=True)
        if extra and row.get(extra):
            asked = f"{asked}\n\n{text_of(row, extra)}"
        return [_sample(row, number, [Message("user", asked)], text_of(row, completion, empty=True))]

    return read


def _sample(row: Row, number: int, prompt: Sequence[Message], answer: str) -> Sample:
    return Sample(row_id(row, number), tuple(prompt), answer, {"subset": subset_of(row)})


def _text(row: Row, number: int) -> list[Sample]:
    return [Sample(row_id(row, number), (Message(TEXT, text_of(row, "text")),))]


CONVERSATION_FORMATS = (
    Format("chat row", ("messages",), _chat("messages")),
    Format("prompt and completion", ("prompt", "completion"), _prompted("prompt", "completion")),
    Format("prompt and response", ("prompt", "response"), _prompted("prompt", "response")),
    Format("instruction row", ("instruction", "output"), _prompted("instruction", "output", "input")),
)
"""Rows with a completion, the last answer of a conversation."""
TEXT_FORMAT = Format("text row", ("text",), _text)


def any_text(row: Row, number: int) -> list[Sample]:
    """Read a row of an unknown format: all its texts, one after the other."""
    text = "\n".join(_texts(dict(row)))
    return [Sample(str(number_of(row, number)), (Message(TEXT, text),))]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]


UNKNOWN = Format("row of an unknown format", (), any_text)

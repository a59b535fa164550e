"""Rows of a prompt with a better and a worse answer, for preference training, in any format of pairs.

The names are TRL's: `prompt`, `chosen`, `rejected`, as text or as lists of messages, where the prompt may be
what both conversations begin with. Of other formats (`smidgen.data.formats`) the label says which is chosen;
ties are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from smidgen.data.fields import is_chat, is_texts, row_id, shown, structured, subset_of, text_of, turns_of
from smidgen.data.formats import PAIR_FORMATS
from smidgen.data.rows import Format, Row, read_items
from smidgen.data.types import Message
from smidgen.errors import DataError


@dataclass(frozen=True)
class AnswerPair:
    """A prompt with two answers, the first of which is preferred."""

    id: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    subset: str | None = None


def answer_pairs(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[AnswerPair]:
    """Read answer pairs; arguments and errors as in `read_items`.

    Raises:
        DataError: also if every pair is a tie.
    """
    found = read_items(rows, ANSWER_FORMATS, source, rejected=rejected)
    if not found:
        raise DataError(f"{source}: none of {len(rows)} rows says which answer is better")
    return found


def _read(row: Row, number: int) -> list[AnswerPair]:
    if is_chat(structured(row, "chosen")) != is_chat(structured(row, "rejected")):
        raise DataError("'chosen' and 'rejected' must both be text or both be lists of messages")
    prompt: list[tuple[str, str]] = []
    if is_chat(structured(row, "prompt")):
        prompt = turns_of(row, "prompt")
    elif "prompt" in row:
        prompt = [("user", text_of(row, "prompt"))]
    if is_chat(structured(row, "chosen")):
        prompt, answers = _split(prompt, turns_of(row, "chosen"), turns_of(row, "rejected"))
    else:
        answers = text_of(row, "chosen"), text_of(row, "rejected")
    if not prompt:
        raise DataError("'prompt' is missing; only conversations that begin alike may omit it")
    messages = tuple(Message(role, text) for role, text in prompt)
    return [AnswerPair(row_id(row, number), messages, *answers, subset_of(row))]


def _split(
    prompt: list[tuple[str, str]], chosen: list[tuple[str, str]], rejected: list[tuple[str, str]]
) -> tuple[list[tuple[str, str]], tuple[str, str]]:
    """Return the prompt and the last turns of two conversations that differ in nothing else."""
    if not prompt or chosen[: len(prompt)] == prompt:
        prompt, chosen, rejected = [*chosen[:-1]], chosen[len(chosen) - 1 :], _after(chosen[:-1], rejected)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if [role for role, _ in turns] != ["assistant"]:
            roles = ", ".join(role for role, _ in turns) or "nothing"
            raise DataError(
                f"'{name}' has {roles} after the shared turns; expected one turn of the assistant"
            )
    return prompt, (chosen[0][1], rejected[0][1])


def _after(shared: list[tuple[str, str]], turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the turns after those that are shared, or all if they are not."""
    return turns[len(shared) :] if turns[: len(shared)] == shared else turns


def _from_pairs(form: Format, row: Row, number: int) -> list[AnswerPair]:
    """Read a row of another format, whose label says which answer is better."""
    found = []
    for pair in form.read(row, number):
        if pair.better is None:
            raise DataError(f"it has no label ('{form.label}'): {shown(row, form.label)}")
        if pair.better != "tie":
            answers = (pair.a, pair.b) if pair.better == "a" else (pair.b, pair.a)
            found.append(AnswerPair(pair.id, (Message("user", pair.prompt),), *answers, pair.subset))
    return found


ANSWER_FORMATS = (
    Format("preference row", ("chosen", "rejected"), _read, lambda row: not is_texts(row["chosen"])),
    *(
        Format(form.title, form.fields, partial(_from_pairs, form), form.fits, form.label)
        for form in PAIR_FORMATS
        if form.title != "preference row"
    ),
)

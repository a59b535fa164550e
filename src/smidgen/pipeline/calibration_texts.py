"""The texts on which quantised layers are measured, as rows of tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from smidgen.data.fields import as_text, structured, turns_of
from smidgen.data.rows import FileRow, read_rows
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Message, Sample
from smidgen.errors import DataError
from smidgen.pipeline.sources import WORLD
from smidgen.tasks import JudgeTask

LONGEST = 512
"""Tokens of a row that are read; what comes later adds little to a mean over tokens."""
WORLD_PAIRS = 200


def calibration_rows(
    source: str, tokenizer: Tokenizer, num_tokens: int, *, thinking: bool = False
) -> list[list[int]]:
    """Token ids of the first rows of a file, or of the generated world, until there are enough tokens.

    A row is read by the field that it has: `messages`, `text`, or those of any format of pairs, which are
    asked as a judge is asked.

    Raises:
        DataError: the file cannot be read, or its rows are none of these, or have no text.
    """
    rows = rows_of(_texts(source, tokenizer, thinking), num_tokens)
    if not rows:
        raise DataError(f"every row of {source} is empty; expected texts to measure the layers on")
    return rows


def sample_rows(
    samples: Sequence[Sample], tokenizer: Tokenizer, num_tokens: int, *, thinking: bool = False
) -> list[list[int]]:
    """Token ids of the first samples, with their targets as answers, until there are enough tokens."""
    return rows_of((_conversation(sample, tokenizer, thinking) for sample in samples), num_tokens)


def rows_of(encoded: Iterator[list[int]], num_tokens: int) -> list[list[int]]:
    """The first rows, cut to `LONGEST`, until there are `num_tokens`."""
    rows, left = [], num_tokens
    for row in encoded:
        cut = row[: min(LONGEST, left)]
        if cut:
            rows.append(cut)
            left -= len(cut)
        if not left:
            break
    return rows


def _texts(source: str, tokenizer: Tokenizer, thinking: bool) -> Iterator[list[int]]:
    judge = JudgeTask()
    if source == WORLD:
        samples = judge.training_samples(judge.world_rows("train", WORLD_PAIRS, seed=0))
        yield from (_conversation(sample, tokenizer, thinking) for sample in samples)
        return
    rows = read_rows(Path(source))
    if "messages" in rows[0]:
        yield from (_messages(row, source, tokenizer, thinking) for row in rows)
    elif "text" in rows[0]:
        yield from (tokenizer.encode(_text(row, source)) for row in rows)
    else:
        samples = judge.samples(rows, source=source)
        yield from (_conversation(sample, tokenizer, thinking) for sample in samples)


def _conversation(sample: Sample, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """A sample's prompt, and its target where it has one."""
    if sample.target is None:
        return tokenizer.render_prompt(sample.messages, thinking=thinking)
    turns = [*sample.messages, Message("assistant", sample.target)]
    return tokenizer.render_conversation(turns, thinking=thinking).token_ids


def _messages(row: FileRow, source: str, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """A row's conversation; one that ends with the user is followed by the opening of an answer."""
    try:
        turns = turns_of(row, "messages") if isinstance(structured(row, "messages"), list) else None
    except DataError:
        turns = None
    if turns is None:
        raise DataError(
            f"{source}, {row.unit} {row.number}: 'messages' is no list of {{role, content}}; mend that row"
        )
    messages = [Message(role, content) for role, content in turns]
    if messages and messages[-1].role == "assistant":
        return tokenizer.render_conversation(messages, thinking=thinking).token_ids
    return tokenizer.render_prompt(messages, thinking=thinking)


def _text(row: FileRow, source: str) -> str:
    if (text := as_text(row.get("text"), row)) is None:
        raise DataError(f"{source}, {row.unit} {row.number}: 'text' is no text; mend that row")
    return text

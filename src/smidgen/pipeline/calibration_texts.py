"""Calibration texts for quantisation, as rows of tokens."""

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
"""Tokens read per row; later ones add little to a mean over tokens."""
WORLD_PAIRS = 200


def calibration_rows(
    source: str, tokenizer: Tokenizer, num_tokens: int, *, thinking: bool = False
) -> list[list[int]]:
    """Return the token ids of the first rows of a file, or of the generated world, up to `num_tokens`.

    Rows have `messages`, `text`, or the fields of a format of answer pairs, which become judge prompts.

    Raises:
        DataError: the file cannot be read, or its rows have another format or no text.
    """
    rows = rows_of(_texts(source, tokenizer, thinking), num_tokens)
    if not rows:
        raise DataError(f"every row of {source} is empty; expected texts to calibrate on")
    return rows


def sample_rows(
    samples: Sequence[Sample], tokenizer: Tokenizer, num_tokens: int, *, thinking: bool = False
) -> list[list[int]]:
    """Return the token ids of the first samples, targets included, up to `num_tokens`."""
    return rows_of((_conversation(sample, tokenizer, thinking) for sample in samples), num_tokens)


def rows_of(encoded: Iterator[list[int]], num_tokens: int) -> list[list[int]]:
    """Return the first rows, each cut to `LONGEST`, up to `num_tokens` in total."""
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
    """Return the token ids of a sample's prompt, followed by its target if it has one."""
    if sample.target is None:
        return tokenizer.render_prompt(sample.messages, thinking=thinking)
    turns = [*sample.messages, Message("assistant", sample.target)]
    return tokenizer.render_conversation(turns, thinking=thinking).token_ids


def _messages(row: FileRow, source: str, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """Return the token ids of a row's conversation; after a user turn, the generation prompt follows."""
    try:
        turns = turns_of(row, "messages") if isinstance(structured(row, "messages"), list) else None
    except DataError:
        turns = None
    if turns is None:
        raise DataError(
            f"{source}, {row.unit} {row.number}: 'messages' is not a list of {{role, content}}; fix that row"
        )
    messages = [Message(role, content) for role, content in turns]
    if messages and messages[-1].role == "assistant":
        return tokenizer.render_conversation(messages, thinking=thinking).token_ids
    return tokenizer.render_prompt(messages, thinking=thinking)


def _text(row: FileRow, source: str) -> str:
    if (text := as_text(row.get("text"), row)) is None:
        raise DataError(f"{source}, {row.unit} {row.number}: 'text' is not a text; fix that row")
    return text

"""Batches in which several answers to a prompt share its tokens, so that it is run once for all of them.

A row of the batch is a prompt without its last token, then for each answer that token and the answer. An
answer attends to the prompt and to itself, and has the positions that it has after the prompt alone; so the
losses are those of rows of their own.
"""

import math
from collections.abc import Sequence

import numpy as np

from smidgen.training.batches import LENGTH_STEP, TARGET_STEP, TrainBatch, TrainRow

LONGEST_ROW = 2048
"""Maximum tokens of a row with several answers; masks and attention grow with the square."""


def share_prefixes(rows: Sequence[TrainRow]) -> TrainBatch:
    """Return the batch of some rows, each a prompt with an answer that alone is in the loss.

    Its trained tokens are in the order of its `rows`, which is not that of the argument.
    """
    groups = _shared(rows)
    sizes = [[len(row) - prompt_tokens(row) for row in group] for group in groups]
    starts = [prompt_tokens(group[0]) - 1 for group in groups]
    longest = max(start + sum(size) for start, size in zip(starts, sizes, strict=True))
    shape = len(groups), LENGTH_STEP * math.ceil(longest / LENGTH_STEP)
    inputs, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    segments, visible = np.full(shape, -1, np.int32), np.zeros((*shape, shape[1]), bool)
    visible |= np.eye(shape[1], dtype=bool)
    chosen, targets = [], []
    for i, (group, start, size) in enumerate(zip(groups, starts, sizes, strict=True)):
        inputs[i, :start], positions[i, :start] = group[0].token_ids[:start], np.arange(start)
        visible[i, :start, :start] = np.tri(start, dtype=bool)
        end = start
        for row, tokens in zip(group, size, strict=True):
            place = slice(end, end + tokens)
            inputs[i, place] = row.token_ids[start:-1]
            positions[i, place] = start + np.arange(tokens)
            visible[i, place, :start] = True
            visible[i, place, place] = np.tri(tokens, dtype=bool)
            chosen.append(i * shape[1] + np.arange(place.start, place.stop))
            targets.append(row.token_ids[start + 1 :])
            end = place.stop
        segments[i, :end] = 0
    trained = sum(map(sum, sizes))
    padding = (0, -trained % TARGET_STEP)
    return TrainBatch(
        inputs,
        np.pad(np.concatenate(chosen), padding).astype(np.int32),
        np.pad(np.concatenate(targets), padding).astype(np.int32),
        trained_tokens=trained,
        tokens=sum(start + sum(size) for start, size in zip(starts, sizes, strict=True)),
        segment_ids=segments,
        position_ids=positions,
        visible=visible,
        rows=tuple(row for group in groups for row in group),
    )


def _shared(rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
    """Return the answers to each prompt, as many as fit a row together."""
    found: list[list[TrainRow]] = []
    places: dict[bytes, tuple[int, int]] = {}  # of the last row of a prompt: its number and its tokens
    for row in rows:
        size = prompt_tokens(row)
        prompt, answer = row.token_ids[:size].tobytes(), len(row) - size
        number, tokens = places.get(prompt, (-1, LONGEST_ROW))
        if tokens + answer > LONGEST_ROW:
            number, tokens = len(found), size - 1
            found.append([])
        found[number].append(row)
        places[prompt] = number, tokens + answer
    return found


def prompt_tokens(row: TrainRow) -> int:
    """Return the number of tokens before the first in the loss."""
    return int(np.argmax(row.loss_mask))

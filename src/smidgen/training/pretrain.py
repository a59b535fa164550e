"""Packing a stream of documents into rows of one length, with every token predicted once.

Documents are joined by a separator token and cut into rows regardless of their boundaries. A row's last
target is the next row's first input, so each token of the stream is predicted exactly once.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from smidgen.config import PretrainConfig
from smidgen.data.templates import plain
from smidgen.errors import DataError, ModelError
from smidgen.training.batches import TrainBatch, TrainRow, pad

DOCUMENTS_AT_ONCE = 256
"""Documents encoded in one call; the tokenizer parallelises over the cores."""

Documents = Callable[[int], Iterator[str]]
"""Iterates over the documents from an index on; the same index always yields the same documents."""
Encode = Callable[[list[str]], list[list[int]]]


class TokenStream:
    """Tokens of a stream of documents, resumable at any token.

    After the last document the stream restarts at the first, so a small file can be read several times.
    """

    def __init__(self, documents: Documents, encode: Encode, separator: int) -> None:
        self._documents = documents
        self._encode = encode
        self._separator = separator
        self.restore({"passes": 0, "document": 0, "offset": 0})

    def take(self, count: int) -> np.ndarray:
        """Return the next `count` token ids, (count,) int32; the last is also the first of the next call."""
        parts: list[np.ndarray] = []
        missing = count
        while missing > 0:
            if not self._pending:
                self._read()
            part = self._pending[0][self._offset : self._offset + missing]
            parts.append(part)
            missing -= part.size
            self._offset += part.size
            if missing > 0:
                self._pending.popleft()
                self._document += 1
                self._offset = 0
        self._offset -= 1
        return np.concatenate(parts)

    def state(self) -> dict[str, int]:
        """Return the position as JSON values."""
        return {"passes": self._passes, "document": self._document, "offset": self._offset}

    def restore(self, state: dict[str, int]) -> None:
        """Restore a position that `state` returned."""
        self._passes, self._document, self._offset = state["passes"], state["document"], state["offset"]
        self._source = self._documents(self._document)
        self._pending: deque[np.ndarray] = deque()

    @property
    def passes(self) -> int:
        """Number of completed passes over the documents."""
        return self._passes

    def _read(self) -> None:
        """Encode the next documents, restarting after the last."""
        texts = list(itertools.islice(self._source, DOCUMENTS_AT_ONCE))
        if not texts:
            if self._document == 0:
                raise DataError("the stream has no documents; pretraining needs at least one")
            self._passes, self._document = self._passes + 1, 0
            self._source = self._documents(0)
            return self._read()
        for ids in self._encode(texts):
            self._pending.append(np.array([*ids, self._separator], np.int32))


class PackedBatches:
    """Batches of full rows cut from a stream of documents."""

    def __init__(self, documents: Documents, encode: Encode, separator: int, config: PretrainConfig) -> None:
        self._stream = TokenStream(documents, encode, separator)
        self._config = config
        self.num_steps = num_steps(config)

    def next_step(self) -> list[TrainBatch]:
        """Return the batches of the next optimiser step."""
        return [
            pad([self._row() for _ in range(self._config.batch_size)])
            for _ in range(self._config.gradient_accumulation)
        ]

    def epoch(self) -> float:
        """Return the number of completed passes over the documents."""
        return float(self._stream.passes)

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return self._stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._stream.restore(state)

    def _row(self) -> TrainRow:
        return _whole(self._stream.take(self._config.max_length + 1))


def num_steps(config: PretrainConfig) -> int:
    """Return the number of optimiser steps needed to train on `total_tokens`."""
    return math.ceil(
        config.total_tokens / (config.batch_size * config.gradient_accumulation * config.max_length)
    )


def packed_rows(
    documents: Documents, encode: Encode, separator: int, *, count: int, max_length: int
) -> list[TrainRow]:
    """Return the first `count` rows of a stream: a validation set for pretraining."""
    stream = TokenStream(documents, encode, separator)
    return [_whole(stream.take(max_length + 1)) for _ in range(count)]


def fast_encoder(tokenizer_file: Path, separator: str = "<|endoftext|>") -> tuple[Encode, int]:
    """Return a batch encoder for a `tokenizer.json` and the id of the token between documents.

    Raises:
        ModelError: the file is missing or unreadable, or has no such separator token.
    """
    try:
        tokenizer = plain(Tokenizer.from_file(str(tokenizer_file)))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ModelError(f"{tokenizer_file} is not a readable tokenizer.json: {error}") from None
    separator_id = tokenizer.token_to_id(separator)
    if separator_id is None:
        raise ModelError(f"{tokenizer_file} has no token {separator!r}, which separates documents")
    return lambda texts: [
        e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ], separator_id


def _whole(token_ids: np.ndarray) -> TrainRow:
    return TrainRow(token_ids, np.ones(token_ids.shape, bool))

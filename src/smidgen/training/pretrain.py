"""Rows for pretraining, cut from streams of documents that are mixed by weight and resumed at any token.

Documents are joined by a separator token and cut into rows regardless of their boundaries. A row's last
target is the next row's first input, so each token of a stream is in exactly one row as a target. Unless rows
attend across documents, each document in a row has its own attention and positions, and what would be
predicted from another document, its first token, is not trained.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from smidgen.config import PretrainConfig
from smidgen.data.documents import Documents
from smidgen.data.templates import plain
from smidgen.errors import DataError, ModelError
from smidgen.training.batches import TrainBatch, TrainRow, pad
from smidgen.training.mixing import Mix

DOCUMENTS_AT_ONCE = 256
"""Documents encoded in one call; the tokenizer parallelises over the cores."""
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
"""Tokens that separate documents, the first that a tokenizer has."""

Encode = Callable[[list[str]], list[list[int]]]


class Taken(NamedTuple):
    """Some tokens of a stream.

    Attributes:
        token_ids: (L,) int32.
        segment_ids: (L,) int32 from 0, the document of each token; a separator belongs to the one it ends.
    """

    token_ids: np.ndarray
    segment_ids: np.ndarray


class _Pending(NamedTuple):
    """A document that was read and encoded: its place, and its tokens with the separator."""

    place: int
    token_ids: np.ndarray


class TokenStream:
    """Tokens of a stream of documents, resumable at any token.

    After the last document the stream restarts at the first, so a small file can be read several times.
    """

    def __init__(
        self, documents: Documents, encode: Encode, separator: int, num_documents: int | None = None
    ) -> None:
        """Start at the first document.

        Args:
            documents: reads them from a place on.
            encode: turns texts into token ids.
            separator: the token after each document.
            num_documents: their number, if it is known.
        """
        self._documents = documents
        self._encode = encode
        self._separator = separator
        self._num_documents = num_documents
        self.restore({"passes": 0, "document": 0, "place": 0, "offset": 0})

    def take(self, count: int) -> Taken:
        """Return the next `count` tokens; the last is also the first of the next call."""
        parts: list[np.ndarray] = []
        missing = count
        while missing > 0:
            if not self._pending:
                self._read()
            tokens = self._pending[0].token_ids
            part = tokens[self._offset : self._offset + missing]
            parts.append(part)
            missing -= part.size
            self._offset += part.size
            if missing > 0:
                self._pending.popleft()
                self._document += 1
                self._offset = 0
        self._offset -= 1
        sizes = [part.size for part in parts]
        return Taken(np.concatenate(parts), np.repeat(np.arange(len(parts), dtype=np.int32), sizes))

    def state(self) -> dict[str, int]:
        """Return the position as JSON values."""
        place = self._pending[0].place if self._pending else self._place
        return {"passes": self._passes, "document": self._document, "place": place, "offset": self._offset}

    def restore(self, state: Mapping[str, int]) -> None:
        """Restore a position that `state` returned."""
        self._passes, self._document, self._offset = state["passes"], state["document"], state["offset"]
        self._place = state["place"]
        self._source = self._documents(self._place)
        self._pending: deque[_Pending] = deque()

    def epoch(self) -> float:
        """Return the passes over the documents so far, a whole number if their number is unknown."""
        return self._passes + (self._document / self._num_documents if self._num_documents else 0.0)

    def _read(self) -> None:
        """Encode the next documents, restarting after the last."""
        found = list(itertools.islice(self._source, DOCUMENTS_AT_ONCE))
        if not found:
            if self._document == 0:
                raise DataError("the stream has no documents; pretraining needs at least one")
            self._passes, self._document = self._passes + 1, 0
            self._source = self._documents(0)
            return self._read()
        for (place, _), ids in zip(found, self._encode([text for _, text in found]), strict=True):
            self._pending.append(_Pending(place, np.array([*ids, self._separator], np.int32)))


@dataclass(frozen=True)
class TextSource:
    """One source of a mix.

    Attributes:
        name: its name in the metrics; empty if it is the only one, whose loss is that of the step.
        documents: reads its training documents from a place on.
        num_documents: their number; None if it is unknown or has no end.
    """

    name: str
    documents: Documents
    num_documents: int | None = None


class PackedBatches:
    """Batches of full rows, each cut from the stream of one source, which the mix draws."""

    def __init__(
        self, sources: Sequence[TextSource], mix: Mix, encode: Encode, separator: int, config: PretrainConfig
    ) -> None:
        """Start at the first row.

        Args:
            sources: the sources, in the order of the mix.
            mix: decides which source each row is from.
            encode: turns texts into token ids.
            separator: the token after each document.
            config: the recipe's `[train]`.
        """
        self._sources, self._mix, self._config = sources, mix, config
        self._streams = [
            TokenStream(source.documents, encode, separator, source.num_documents) for source in sources
        ]
        self._rows = [0] * len(sources)
        self.num_steps = num_steps(config)

    def next_step(self) -> list[TrainBatch]:
        """Return the batches of the next optimiser step."""
        return [
            pad([self._row() for _ in range(self._config.batch_size)])
            for _ in range(self._config.gradient_accumulation)
        ]

    def epoch(self) -> float:
        """Return the number of passes over the documents of the source that was read most often."""
        return max(stream.epoch() for stream in self._streams)

    def figures(self) -> dict[str, float]:
        """Return the training tokens of each source so far, and its epochs if it has an end.

        A single source has none: its figures are those of the training.
        """
        figures: dict[str, float] = {}
        for source, stream, rows in zip(self._sources, self._streams, self._rows, strict=True):
            if source.name:
                figures[f"tokens/{source.name}"] = rows * self._config.max_length
            if source.name and source.num_documents is not None:
                figures[f"epoch/{source.name}"] = stream.epoch()
        return figures

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {"rows": list(self._rows), "streams": [stream.state() for stream in self._streams]}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a position that `state` returned."""
        self._rows = list(state["rows"])
        for stream, position in zip(self._streams, state["streams"], strict=True):
            stream.restore(position)

    def _row(self) -> TrainRow:
        index = self._mix.source_of(sum(self._rows))
        self._rows[index] += 1
        taken = self._streams[index].take(self._config.max_length + 1)
        return _row_of(taken, self._sources[index].name, self._config)


def num_steps(config: PretrainConfig) -> int:
    """Return the number of optimiser steps needed to train on all tokens."""
    return math.ceil(config.tokens / (config.batch_size * config.gradient_accumulation * config.max_length))


def validation_rows(
    texts: Iterable[str],
    encode: Encode,
    separator: int,
    config: PretrainConfig,
    *,
    count: int,
    name: str = "",
) -> list[TrainRow]:
    """Return rows of held-out documents, each read once: a validation set for pretraining.

    Args:
        texts: the documents.
        encode: turns texts into token ids.
        separator: the token after each document.
        config: the recipe's `[train]`.
        count: maximum number of rows; the last may be shorter than the others.
        name: name of the source.
    """
    length, texts = config.max_length, iter(texts)
    documents: list[np.ndarray] = []
    while sum(ids.size for ids in documents) <= count * length:
        if not (part := list(itertools.islice(texts, DOCUMENTS_AT_ONCE))):
            break
        documents += [np.array([*ids, separator], np.int32) for ids in encode(part)]
    tokens = np.concatenate([np.zeros(0, np.int32), *documents])
    owners = np.repeat(np.arange(len(documents), dtype=np.int32), [ids.size for ids in documents])
    parts = [slice(start, start + length + 1) for start in range(0, min(tokens.size, count * length), length)]
    rows = [_row_of(Taken(tokens[part], owners[part] - owners[part][0]), name, config) for part in parts]
    return [row for row in rows if row.trained_tokens]


def weighted(rows: Mapping[str, Sequence[TrainRow]], shares: Mapping[str, float]) -> list[TrainRow]:
    """Return the rows of all sources with weights on their tokens, so that their mean loss is that of a mix.

    Args:
        rows: the validation rows of each source.
        shares: share of each source in the mix.
    """
    trained = {name: sum(row.trained_tokens for row in own) for name, own in rows.items()}
    every = sum(trained.values())
    return [
        replace(row, weights=np.full(row.token_ids.shape, shares[name] * every / trained[name], np.float32))
        for name, own in rows.items()
        for row in own
    ]


def fast_encoder(tokenizer_file: Path) -> tuple[Encode, int]:
    """Return a batch encoder for a `tokenizer.json` and the id of the token between documents.

    Raises:
        ModelError: the file is missing or unreadable, or has none of `SEPARATORS`.
    """
    try:
        tokenizer = plain(Tokenizer.from_file(str(tokenizer_file)))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ModelError(f"{tokenizer_file} is not a readable tokenizer.json: {error}") from None
    separators = [found for token in SEPARATORS if (found := tokenizer.token_to_id(token)) is not None]
    if not separators:
        raise ModelError(
            f"{tokenizer_file} has no token that separates documents; expected one of {', '.join(SEPARATORS)}"
        )
    return lambda texts: [
        e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ], separators[0]


def _row_of(taken: Taken, name: str, config: PretrainConfig) -> TrainRow:
    """Return the training row of some tokens; the first token of a document is trained only across them."""
    mask = np.ones(taken.token_ids.shape, bool)
    if config.attend_across_documents:
        return TrainRow(taken.token_ids, mask, source=name)
    mask[1:] = taken.segment_ids[1:] == taken.segment_ids[:-1]
    return TrainRow(taken.token_ids, mask, segment_ids=taken.segment_ids, source=name)

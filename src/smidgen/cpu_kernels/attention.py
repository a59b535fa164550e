"""How the work of attention is split, and the layout of one piece.

Texts of one length that lie side by side are processed together, so many short texts take few calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smidgen.cpu_kernels.pieces import causal_mask
from smidgen.cpu_kernels.team import Array, products, scratch

QUERY_TILE = 128
"""Maximum queries of a text per piece; keys after the last of them are not read."""
SCORES = 1 << 17
"""Maximum scores of a piece, unless those of one text are more: 512 KB, for a core's own cache."""
PIECES = 4
"""Minimum pieces per thread, where there are enough texts and heads."""


@dataclass(frozen=True)
class Texts:
    """Some texts of one length, side by side in the flattened batch.

    Attributes:
        start: position of the first token.
        length: tokens of each text.
        count: number of texts.
    """

    start: int
    length: int
    count: int

    def split(self, most: int) -> "Iterator[Texts]":
        """Yield groups of at most `most` of these texts."""
        for first in range(0, self.count, most):
            yield Texts(self.start + first * self.length, self.length, min(most, self.count - first))


def texts_of(batch: int, length: int, segments: Array | None) -> list[Texts]:
    """Return the texts of a batch (B, L): its rows or, of packed rows, their segments (B · L,)."""
    if segments is None:
        return [Texts(0, length, batch)]
    rows = segments.reshape(batch, length)
    begins = np.ones((batch, length), np.bool_)
    begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=batch * length)
    groups = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(groups, append=len(starts))
    return [
        Texts(int(starts[first]), int(lengths[first]), int(count))
        for first, count in zip(groups, counts, strict=True)
    ]


@dataclass(frozen=True)
class Heads:
    """The query heads that share one key head.

    Attributes:
        key_head: number of the key head.
        group: number of its query heads.
        head_dim: width of a head.
        keys: rows of its keys in a feature-major array.
        values: rows of its values.
    """

    key_head: int
    group: int
    head_dim: int
    keys: slice
    values: slice

    @property
    def queries(self) -> slice:
        """The numbers of the query heads."""
        return slice(self.key_head * self.group, (self.key_head + 1) * self.group)

    @property
    def query_rows(self) -> slice:
        """The rows of the queries in a feature-major array."""
        return slice(self.queries.start * self.head_dim, self.queries.stop * self.head_dim)


def split_texts(texts: list[Texts], heads: list[Heads], threads: int) -> list[tuple[Texts, Heads]]:
    """Return the pieces of all texts and key heads, each small enough for a cache."""
    pieces = []
    for some in texts:
        scores = heads[0].group * min(some.length, QUERY_TILE) * some.length
        balanced = -(-some.count * len(heads) // (PIECES * threads))
        most = max(1, min(SCORES // scores, balanced))
        pieces += [(part, head) for part in some.split(most) for head in heads]
    return pieces


class QueryTile:
    """The layout of one piece of attention: some queries of some texts and of the heads with one key head.

    Matrices of the S texts are stacked: queries (S, head_dim, group · queries), keys (S, head_dim, keys).
    """

    def __init__(self, texts: Texts, heads: Heads, first: int) -> None:
        self.texts, self.heads = texts, heads
        self.first, self.last = first, min(first + QUERY_TILE, texts.length)
        self.columns = slice(texts.start, texts.start + texts.count * texts.length)

    def by_token(self, array: Array) -> Array:
        """Return a view (S, query heads, queries) of values per query head and token, (heads, tokens)."""
        rows = array[self.heads.queries, self.columns]
        return rows.reshape(len(rows), *self._texts)[:, :, self.first : self.last].transpose(1, 0, 2)

    def is_any(self, flags: np.ndarray) -> bool:
        """Return whether a flag per token is set for a query."""
        return bool(flags[self.columns].reshape(self._texts)[:, self.first : self.last].any())

    def gather(self, array: Array, name: str) -> Array:
        """Return the query heads concatenated, for a single matrix product per text."""
        source = self._queries(array)
        out = scratch(name, *source.shape)
        np.copyto(out, source)
        return out.reshape(*source.shape[:2], -1)

    def scatter(self, gathered: Array, array: Array) -> None:
        """Write back an array with the layout of `gather`."""
        target = self._queries(array)
        np.copyto(target, gathered.reshape(target.shape))

    def keys(self, qkv: Array) -> Array:
        """Return the keys that the last query attends to."""
        return self._visible(qkv[self.heads.keys, self.columns])

    def values(self, qkv: Array) -> Array:
        """Return the values of these keys."""
        return self._visible(qkv[self.heads.values, self.columns])

    def scores(self, queries: Array, keys: Array, scale: float, barred: Array | None) -> Array:
        """Return scaled scores (S, group · queries, keys), -inf where a query does not attend to a key.

        `barred` is added to them: (tokens, L), for each token and the places in its text.
        """
        count, size = self.texts.count, self.last - self.first
        out = scratch("scores", count, queries.shape[2], keys.shape[2])
        products(queries.transpose(0, 2, 1), keys, out, alpha=scale)
        out.reshape(-1, size, keys.shape[2])[:, :, self.first :] += causal_mask(size)
        if barred is not None:
            own = barred[self.columns, : keys.shape[2]].reshape(*self._texts, -1)[:, self.first : self.last]
            out.reshape(count, -1, size, keys.shape[2])[:] += own[:, None]
        return out

    @property
    def _texts(self) -> tuple[int, int]:
        return self.texts.count, self.texts.length

    def _queries(self, array: Array) -> Array:
        """Return a view (S, head_dim, group, queries) of a feature-major array with the query heads first."""
        heads = self.heads
        rows = array[heads.query_rows, self.columns]
        by_text = rows.reshape(heads.group, heads.head_dim, *self._texts)
        return by_text[..., self.first : self.last].transpose(2, 1, 0, 3)

    def _visible(self, rows: Array) -> Array:
        return rows.reshape(len(rows), *self._texts)[:, :, : self.last].transpose(1, 0, 2)


def query_tiles(texts: Texts, heads: Heads, flags: np.ndarray | None) -> Iterator[QueryTile]:
    """Yield the query tiles of some texts and one key head, the longest first.

    With a flag per token, tiles without any flagged token are skipped.
    """
    for first in reversed(range(0, texts.length, QUERY_TILE)):
        tile = QueryTile(texts, heads, first)
        if flags is None or tile.is_any(flags):
            yield tile

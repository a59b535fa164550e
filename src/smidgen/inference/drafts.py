"""Guesses of a row's next tokens, which one pass of the model verifies.

A guess is accepted only where it is the model's own choice, so a drafter changes the speed and never the
answer. Prompt look-up continues the last tokens as they went on earlier in the row
(https://github.com/apoorvumang/prompt-lookup-decoding). Jacobi decoding keeps what the model chose after a
wrong guess as the next guess (https://arxiv.org/abs/2305.10427), and those choices also form a pool to look
up in (https://arxiv.org/abs/2402.02057). All positions in flight are refined by every pass and the window
slides with the answer: there are no block borders at which guesses would be thrown away.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from smidgen.inference.acceptance import Acceptance, Windows
from smidgen.inference.row import DecodeRow

LONGEST_MATCH = 8
"""Tokens; a longer match with earlier text is no better sign that the text goes on alike."""
SEPARATOR = -1
PROBABILITIES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
"""Borders between choices that are told apart by their probability."""
REFINED = 0.25
"""Accepted tokens by which what is looked up must promise more than guesses that later passes refine."""


@dataclass(frozen=True)
class Draft:
    """Guessed tokens.

    Attributes:
        tokens: the guesses.
        parts: what they come from: the name of a source and a number of tokens, in order.
    """

    tokens: list[int] = field(default_factory=list)
    parts: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, source: str, tokens: Sequence[int]) -> "Draft":
        """Return a draft from one source."""
        return cls(list(tokens), [(source, len(tokens))] if tokens else [])

    def first(self, count: int) -> "Draft":
        """Return the first `count` tokens."""
        parts, left = [], count
        for source, size in self.parts:
            if left > 0:
                parts.append((source, min(size, left)))
            left -= size
        return Draft(self.tokens[:count], parts)

    def then(self, other: "Draft") -> "Draft":
        """Return this draft followed by another."""
        return Draft(self.tokens + other.tokens, self.parts + other.parts)


class Drafter(Protocol):
    """Guesses the next tokens of rows.

    Attributes:
        refines: whether wrong guesses lead to better ones, so that those behind an end token are run too,
            and it matters how probable the model's choices were.
    """

    refines: bool

    def propose(self, rows: Sequence[DecodeRow], most: Sequence[int]) -> list[Draft]:
        """Return guesses of what follows each row's tokens, the forced ones included; at most `most` each."""
        ...

    def learn(self, row: DecodeRow, choices: Sequence[int], logprobs: Sequence[float]) -> None:
        """Note what the model chose in a pass: after the accepted tokens, and after each rejected one.

        Args:
            row: the row.
            choices: the tokens.
            logprobs: their natural-log probabilities; empty unless the drafter `refines`.
        """
        ...

    def forget(self, row: DecodeRow) -> None:
        """Drop what is known of a row; it need not be known."""
        ...


class LookupDrafter:
    """Drafts from the row's prompt and answer."""

    refines = False

    def propose(self, rows: Sequence[DecodeRow], most: Sequence[int]) -> list[Draft]:
        """Continue each row as its last tokens went on earlier."""
        return [continuation(text_of(row), count) for row, count in zip(rows, most, strict=True)]

    def learn(self, row: DecodeRow, choices: Sequence[int], logprobs: Sequence[float]) -> None:
        """Nothing is noted: the row has its tokens."""

    def forget(self, row: DecodeRow) -> None:
        """Nothing is kept."""


class JacobiDrafter:
    """Drafts from the model's own choices at positions whose earlier tokens were guessed wrong.

    Each row has the choices that followed its last committed token, and a pool of those of its last passes.
    Where the row's own text, or the pool, promises more, it is looked up there. The draft is filled up to
    a window, because every guessed position, right or wrong, is refined by the pass. A choice is as good as
    the model found it probable.
    """

    refines = True

    def __init__(self, acceptance: Acceptance, windows: Windows, pool_size: int):
        """Draft up to a window or further, with a pool of `pool_size` passes per row; 0 for none."""
        self._acceptance = acceptance
        self._windows = windows
        self._pool_size = pool_size
        self._rows: dict[DecodeRow, _Choices] = {}

    def propose(self, rows: Sequence[DecodeRow], most: Sequence[int]) -> list[Draft]:
        """Return for each row the better of its last choices and what is looked up."""
        window = self._windows.size(len(rows))
        return [self._propose(row, count, window) for row, count in zip(rows, most, strict=True)]

    def learn(self, row: DecodeRow, choices: Sequence[int], logprobs: Sequence[float]) -> None:
        """Keep the choices: all but the first, which is committed, are the next guess."""
        known = self._rows.setdefault(row, _Choices(deque(maxlen=self._pool_size)))
        known.tail = _weighed(choices[1:], logprobs[1:])
        if known.tail.tokens:
            known.pool.append(np.array([*choices, SEPARATOR]))

    def forget(self, row: DecodeRow) -> None:
        """Drop the row's choices."""
        self._rows.pop(row, None)

    def _propose(self, row: DecodeRow, most: int, window: int) -> Draft:
        known = self._rows.get(row)
        text = text_of(row)
        # After forced tokens the positions of the last choices are no longer the next ones.
        draft = known.tail.first(most) if known is not None and not row.forced else Draft()
        corpus = np.concatenate([*known.pool, text]) if known is not None else text
        found = continuation(corpus, most)
        if 0 < len(draft.tokens) < most:
            draft = draft.then(continuation(np.append(corpus, draft.tokens), most - len(draft.tokens)))
        if not row.token_ids:  # texts rarely begin as one goes on that ends like the prompt
            found = Draft(found.tokens, [(f"first {source}", size) for source, size in found.parts])
        promises = self._acceptance.expected(found) > self._acceptance.expected(draft) + REFINED
        self._acceptance.fade(draft if promises else found)
        draft = found if promises else draft
        missing = min(window, most) - len(draft.tokens)
        if missing > 0:
            # Any token will do; those of the row, in an order without pattern, are what models trained for
            # Jacobi decoding have seen as noise.
            at = (np.arange(len(text), len(text) + missing) * 7919) % len(text)
            draft = draft.then(Draft.of("noise", text[at].tolist()))
        return draft


@dataclass
class _Choices:
    """Choices of the model in one row: those of the last passes, and those after its last committed token."""

    pool: deque[np.ndarray]
    tail: Draft = field(default_factory=Draft)


def _weighed(tokens: Sequence[int], logprobs: Sequence[float]) -> Draft:
    """Return a draft of choices; those that were about as probable are one source."""
    bins = np.searchsorted(PROBABILITIES, np.exp(logprobs)).tolist()
    return Draft(list(tokens), [(f"choice {bin}", len(list(run))) for bin, run in groupby(bins)])


def text_of(row: DecodeRow) -> np.ndarray:
    """Return the tokens of a row, with those forced in the next pass (W,)."""
    return np.array(row.prompt + row.token_ids + row.forced)


def continuation(tokens: np.ndarray, most: int) -> Draft:
    """Return what followed the latest of the longest matches of the last tokens, `most` tokens or fewer.

    A match that reaches the end is a text that repeats itself, and is continued so.

    Args:
        tokens: token ids (W,), or `SEPARATOR` between texts.
        most: maximum number of tokens.
    """
    last = len(tokens) - 1
    ends = np.flatnonzero(tokens[:last] == tokens[last])
    if not len(ends) or most <= 0:
        return Draft()
    length = 1
    while length < LONGEST_MATCH:
        longer = ends[ends >= length]
        longer = longer[tokens[longer - length] == tokens[last - length]]
        if not len(longer):
            break
        ends, length = longer, length + 1
    begin = int(ends[-1]) + 1
    found = tokens[begin:][np.arange(most) % (len(tokens) - begin)]
    stops = np.flatnonzero(found == SEPARATOR)
    return Draft.of(f"match of {length}", found[: stops[0] if len(stops) else most].tolist())

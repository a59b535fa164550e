"""Answers out of a list, as the tokenizer itself encodes them: the tokens that a model is trained to write.

A grammar of the same texts would also allow other encodings of them, such as `S` + `A` + `VE`, which no
text ever has in training, and so could force fewer tokens.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from smidgen.data.templates import Tokenizer


class ChoiceGuide:
    """State of one answer out of a list; a `Guide`."""

    def __init__(self, choices: Sequence[Sequence[int]], tokenizer: Tokenizer):
        """Begin an answer; `choices` are token ids."""
        self._choices = choices  # those that begin with the tokens consumed so far
        self._tokenizer = tokenizer
        self._consumed = 0

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete, so that no token can follow."""
        return len(self._choices) == 1 and len(self._choices[0]) == self._consumed

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask of allowed next tokens (V,), which includes end tokens if the answer may end."""
        token_ids = {choice[self._consumed] for choice in self._choices if len(choice) > self._consumed}
        if any(len(choice) == self._consumed for choice in self._choices):
            token_ids |= self._tokenizer.eos_token_ids
        mask = np.zeros(max(self._tokenizer.vocab_size, *(i + 1 for i in token_ids)), bool)
        mask[list(token_ids)] = True
        return mask

    def allows(self, token_id: int) -> bool:
        """Return whether a token may come next; it is not an end token."""
        return any(choice[self._consumed : self._consumed + 1] == [token_id] for choice in self._choices)

    def take(self, token_id: int) -> None:
        """Consume one allowed token."""
        at = self._consumed
        self._choices = [choice for choice in self._choices if len(choice) > at and choice[at] == token_id]
        assert self._choices
        self._consumed += 1

    def fork(self) -> "ChoiceGuide":
        """Return a guide in the same state, which may be led elsewhere."""
        return copy(self)  # what is consumed narrows a list anew and changes none

    def force(self, most: int) -> list[int]:
        """Consume at most `most` tokens without an alternative; return them."""
        forced: list[int] = []
        for alternatives in zip(*(choice[self._consumed :] for choice in self._choices), strict=False):
            if len(forced) == most or len(set(alternatives)) > 1:
                break
            forced.append(alternatives[0])
        self._consumed += len(forced)
        return forced

    def end(self, most: int) -> list[int]:
        """Consume the rest if it has no alternative and at most `most` tokens; return it, or none."""
        if len(self._choices) > 1 or len(self._choices[0]) - self._consumed > most:
            return []
        return self.force(most)


def encoded(choices: Sequence[str], tokenizer: Tokenizer) -> list[list[int]] | None:
    """Return the token ids of different texts; None if the tokenizer cannot write one of them as it is."""
    token_ids = {choice: tokenizer.encode(choice) for choice in choices}
    is_exact = all(tokenizer.decode(ids) == choice for choice, ids in token_ids.items())
    return list(token_ids.values()) if is_exact else None

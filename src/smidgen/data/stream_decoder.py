"""Text from tokens that arrive one at a time."""

import re
from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which is no text and which UTF-8 cannot encode."""


class StreamDecoder:
    """Incremental detokenizer that never emits an incomplete character.

    A character may be split across several byte-level tokens, so text is held back while it ends in U+FFFD.
    Each step decodes the new tokens together with those of the previous step, because some tokenizers drop a
    leading space.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._token_ids: list[int] = []  # those emitted last, then those held back
        self._num_emitted = 0
        self._emitted = ""

    def push(self, token_id: int) -> str:
        """Add one token; return the text that is now complete, which may be empty."""
        self._token_ids.append(token_id)
        text = self._decode(self._token_ids)
        if text.endswith(REPLACEMENT):
            return ""
        piece = text[len(self._emitted) :]
        self._token_ids = self._token_ids[self._num_emitted :]
        self._num_emitted = len(self._token_ids)
        self._emitted = self._decode(self._token_ids)
        return piece

    def flush(self) -> str:
        """Return the text that is still held back, with U+FFFD for invalid bytes."""
        piece = self._decode(self._token_ids)[len(self._emitted) :]
        self._token_ids, self._num_emitted, self._emitted = [], 0, ""
        return piece

r"""Stop conditions other than end tokens: strings that may span several tokens, and `\boxed{…}`."""

from collections.abc import Sequence
from typing import Protocol

from smidgen.data.boxed import box_end
from smidgen.data.stream_decoder import StreamDecoder


class GrowingText:
    """Incrementally decoded text, cut before the first stop string.

    Attributes:
        text: the text so far.
        is_stopped: whether a stop string was found; later tokens are ignored.
    """

    def __init__(self, decoder: StreamDecoder, stop: tuple[str, ...]):
        self.text = ""
        self.is_stopped = False
        self._decoder = decoder
        self._stop = stop
        self._longest = max(map(len, stop), default=0)

    def push(self, token_id: int) -> None:
        """Append one token."""
        self._append(self._decoder.push(token_id))

    def push_text(self, piece: str) -> None:
        """Append text of complete characters."""
        self._append(piece)

    def finish(self) -> str:
        """Return the full text; bytes of incomplete characters become U+FFFD."""
        if not self.is_stopped:
            self._append(self._decoder.flush())
        return self.text

    @property
    def settled(self) -> int:
        """Number of final characters: the rest may still become the start of a stop string."""
        if self.is_stopped:
            return len(self.text)
        for size in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stop):
                return len(self.text) - size
        return len(self.text)

    def _append(self, piece: str) -> None:
        if not piece:
            return
        begin = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [at for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.is_stopped = True


class Decoding(Protocol):
    """The interface of a tokenizer for `Ending`."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        ...


class Ending:
    """Strings that end an answer and belong to it, such as a closing tag; ignored inside thinking blocks.

    The text is checked only after tokens that may complete one of the strings.
    """

    def __init__(
        self, tokenizer: Decoding, ends: tuple[str, ...], *, boxed: bool = False, thinking: bool = False
    ):
        r"""Prepare the search.

        Args:
            tokenizer: decodes the answer.
            ends: the strings.
            boxed: whether the first `\boxed{…}` ends the answer too.
            thinking: whether the prompt has opened a thinking block.
        """
        self._tokenizer = tokenizer
        self._ends = ends
        self._boxed = boxed
        self._last = {end[-1] for end in ends} | ({"}"} if boxed else set())
        self._thinking = thinking
        self._may_end: dict[int, bool] = {}

    def is_complete(self, token_ids: Sequence[int]) -> bool:
        """Return whether the last of these tokens completes the answer."""
        last = token_ids[-1]
        if last not in self._may_end:
            self._may_end[last] = not self._last.isdisjoint(self._tokenizer.decode([last]))
        return self._may_end[last] and self._end(self._tokenizer.decode(token_ids)) is not None

    def is_in(self, text: str) -> bool:
        """Return whether a text contains the end of the answer."""
        return self._end(text) is not None

    def cut(self, text: str) -> str:
        """Return the text up to the end of the answer, or all of it if there is no end."""
        return text[: self._end(text)]

    def _end(self, text: str) -> int | None:
        return end_of(text, self._ends, boxed=self._boxed, thinking=self._thinking)


def end_of(text: str, ends: tuple[str, ...], *, boxed: bool = False, thinking: bool = False) -> int | None:
    r"""Return the index after the first end outside of thinking blocks, or None.

    Args:
        text: an answer.
        ends: strings that end the answer and belong to it.
        boxed: whether a closed `\boxed{…}` ends it too.
        thinking: whether the text starts inside a thinking block.
    """
    begin = 0
    while True:
        if thinking:
            begin = text.find("</think>", begin)
            if begin < 0:
                return None
        opened = text.find("<think>", begin)
        stretch = text[: opened if opened >= 0 else len(text)]
        found = [at + len(end) for end in ends if (at := stretch.find(end, begin)) >= 0]
        if boxed and (end := box_end(stretch, begin)):
            found.append(end)
        if found:
            return min(found)
        if opened < 0:
            return None
        begin, thinking = opened, True

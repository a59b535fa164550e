"""What ends a completion besides its end token: strings that may lie across token borders, and boxes."""

from collections.abc import Sequence
from typing import Protocol

from smidgen.data.boxed import box_end
from smidgen.data.templates import StreamDecoder


class GrowingText:
    """Text made of tokens, cut before the first stop string.

    Attributes:
        text: what there is so far.
        is_stopped: whether a stop string came; what follows it is not taken.
    """

    def __init__(self, decoder: StreamDecoder, stop: tuple[str, ...]):
        self.text = ""
        self.is_stopped = False
        self._decoder = decoder
        self._stop = stop
        self._longest = max(map(len, stop), default=0)

    def push(self, token_id: int) -> None:
        """Take one token."""
        self._append(self._decoder.push(token_id))

    def finish(self) -> str:
        """Return the whole text; bytes that never became a character are U+FFFD."""
        if not self.is_stopped:
            self._append(self._decoder.flush())
        return self.text

    @property
    def settled(self) -> int:
        """How many characters stand for good: none of them can become the beginning of a stop string."""
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
    """What an `Ending` needs of a tokenizer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens."""
        ...


class Ending:
    """What ends an answer and belongs to it, as a closing tag does; what is thought does not count.

    The text is looked at only after tokens that may complete one of them.
    """

    def __init__(
        self, tokenizer: Decoding, ends: tuple[str, ...], *, boxed: bool = False, thinking: bool = False
    ):
        r"""Watch for strings.

        Args:
            tokenizer: of the answer.
            ends: what to watch for.
            boxed: watch for the first `\boxed{…}` too.
            thinking: whether the prompt has opened a thinking block.
        """
        self._tokenizer = tokenizer
        self._ends = ends
        self._boxed = boxed
        self._last = {end[-1] for end in ends} | ({"}"} if boxed else set())
        self._thinking = thinking
        self._may_end: dict[int, bool] = {}

    def is_complete(self, token_ids: Sequence[int]) -> bool:
        """Whether the last of these tokens has completed the answer."""
        last = token_ids[-1]
        if last not in self._may_end:
            self._may_end[last] = not self._last.isdisjoint(self._tokenizer.decode([last]))
        return self._may_end[last] and self._end(self._tokenizer.decode(token_ids)) is not None

    def cut(self, text: str) -> str:
        """The text up to the end of the answer; all of it if the answer has no end."""
        return text[: self._end(text)]

    def _end(self, text: str) -> int | None:
        """Where the answer ends."""
        begin, thinking = 0, self._thinking
        while True:
            if thinking:
                begin = text.find("</think>", begin)
                if begin < 0:
                    return None
            opened = text.find("<think>", begin)
            stretch = text[: opened if opened >= 0 else len(text)]
            found = [at + len(end) for end in self._ends if (at := stretch.find(end, begin)) >= 0]
            if self._boxed and (end := box_end(stretch, begin)):
                found.append(end)
            if found:
                return min(found)
            if opened < 0:
                return None
            begin, thinking = opened, True

"""The text of a completion as it grows, watched for stop strings that may lie across token borders."""

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

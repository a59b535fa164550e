"""Delimiters that no text between them can forge.

A prompt shows what is judged between delimiters, and an answer may hold the same ones, to end early or to
speak for the other answer. So where a delimiter of a template occurs in a prompt, an answer or a reference,
in whatever case and with whatever blanks, all delimiters of that prompt get the least number that makes them
occur in none: `[The End of Response A]` becomes `[The End of Response A-2]`. The number depends on the texts
and not on their order, so both orders of a pair have the same. Without such a text nothing changes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

_BLANKS = re.compile(r"[\s\u00ad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")
_CORE = re.compile(r"[^(]*\w")


@dataclass(frozen=True)
class Delimiter:
    """A text that stands before or after what a template shows.

    Attributes:
        text: as it is where nothing forges it.
        begins_line: whether it stands at the beginning of a line, and only there can it be forged.
    """

    text: str
    begins_line: bool = False

    def numbered(self, number: int) -> str:
        """The text with a number behind its last word outside of brackets, or none for 1."""
        if number == 1:
            return self.text
        core = _CORE.match(self.text)
        end = core.end() if core else len(self.text)
        return f"{self.text[:end]}-{number}{self.text[end:]}"


def free_number(delimiters: Iterable[Delimiter], texts: Iterable[str | None]) -> int:
    """The least number with which no delimiter occurs in any of the texts."""
    shown = [_flat(text) for text in texts if text]
    wanted = set(delimiters)
    return next(
        number
        for number in count(1)
        if not any(_occurs(each.numbered(number), each.begins_line, shown) for each in wanted)
    )


def _occurs(delimiter: str, begins_line: bool, shown: Sequence[tuple[str, frozenset[int]]]) -> bool:
    flat, _ = _flat(delimiter)
    if not begins_line:
        return any(flat in text for text, _ in shown)
    return any(text.startswith(flat, start) for text, starts in shown for start in starts)


def _flat(text: str) -> tuple[str, frozenset[int]]:
    """The text without case and blanks, and where its lines begin."""
    parts = [_BLANKS.sub("", unicodedata.normalize("NFKC", line).casefold()) for line in text.splitlines()]
    starts, place = set(), 0
    for part in parts:
        starts.add(place)
        place += len(part)
    return "".join(parts), frozenset(starts)

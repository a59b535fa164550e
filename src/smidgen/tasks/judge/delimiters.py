"""Delimiters that the texts between them cannot forge.

A prompt shows the judged texts between delimiters, and an answer may contain the same delimiters in order to
end early or to impersonate the other answer. So if a delimiter of the template occurs in a prompt, an answer
or a reference, ignoring case and spacing, all delimiters of that prompt get the smallest number with which
none of them occurs: `[The End of Response A]` becomes `[The End of Response A-2]`. The number does not depend
on the order of the texts, so both orders of a pair have the same one. Otherwise nothing changes.
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
    """A text before or after a text that a template shows.

    Attributes:
        text: its text without a number.
        begins_line: whether it is at the start of a line; then it can only be forged there.
    """

    text: str
    begins_line: bool = False

    def numbered(self, number: int) -> str:
        """The text with a number after its last word outside parentheses; unchanged for 1."""
        if number == 1:
            return self.text
        core = _CORE.match(self.text)
        end = core.end() if core else len(self.text)
        return f"{self.text[:end]}-{number}{self.text[end:]}"


def free_number(delimiters: Iterable[Delimiter], texts: Iterable[str | None]) -> int:
    """Return the smallest number with which no delimiter occurs in any of the texts."""
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
    """Return the text without case and whitespace, and the starts of its lines."""
    parts = [_BLANKS.sub("", unicodedata.normalize("NFKC", line).casefold()) for line in text.splitlines()]
    starts, place = set(), 0
    for part in parts:
        starts.add(place)
        place += len(part)
    return "".join(parts), frozenset(starts)

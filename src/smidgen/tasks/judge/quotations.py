"""Separate a judge's own words from what it quotes, because the judged answers are not trusted.

An answer may contain text that looks like a verdict, and a judge that discusses it repeats it. So quotations
are not parsed, and whatever may be quoted counts as quoted: text in code spans and code fences, in block
quotes, in the HTML elements for either, between the markers of the prompt, and from an opening quotation mark
to its closing mark or else to the end. The characters next to a mark decide whether it opens or closes, so
apostrophes and inch marks do neither. An unmatched closing mark may belong to the previous quotation, which
is then extended up to it.

A verdict that a judge copies without quotation marks cannot be distinguished from its own. Whether an answer
contains the same text is deliberately ignored: otherwise an answer could contain all verdicts against it, to
have only those rejected.
"""

import re
from collections.abc import Iterator

QUOTED = "\ufffc"
"""Replaces every character of a quotation: not whitespace, not a word character, in no pattern."""

_FENCED = re.compile(
    r"\s*(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<inside>(?:(?!(?P=fence)).)*)\n[ \t]*(?P=fence)\s*", re.DOTALL
)
_TILDES = re.compile(r"^[ ]{0,3}(~{3,}).*?(?:^[ ]{0,3}\1~*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_TICKS = re.compile(r"(?<!`)(`+)(?!`)")
_BLOCK_QUOTE = re.compile(r"^[ \t]*>.*(?:\n[ \t]*\S.*)*", re.MULTILINE)
_ECHO = re.compile(
    r"\[The (?:Begin|Start) of ([^\]\n]*)\].*?(?:\[The End of \1\]|\Z)", re.DOTALL | re.IGNORECASE
)
_LINE_START = re.compile(rf"(?:^|\n)[^\w\n{QUOTED}]*\Z")
_LINE_END = re.compile(rf"[^\w\n{QUOTED}]*(?:\n|\Z)")
_TAGGED = re.compile(r"<(q|quote|blockquote|code|pre)\b[^>]*>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_DOUBLE = '"“”„‟«»＂「」『』'
_SINGLE = "'‘’‚‛‹›"
_OPENERS = frozenset("„‚「『")  # unambiguous ones: others open in one language and close in another
_CLOSERS = frozenset("”’」』")
_BEFORE_QUOTE = frozenset("([{<:;,=-–—/|" + _DOUBLE + _SINGLE)
_AFTER_QUOTE = frozenset(".,;:!?)]}-–—/|…" + _DOUBLE + _SINGLE)
_ELISION = re.compile(r"['’‘](?:\d0s|t(?:is|was|il|ill)|em|cause|n|bout|round)\b", re.IGNORECASE)


def own_words(text: str, *, literal: str = "") -> str:
    """Replace every quoted character by `QUOTED`; the length stays the same.

    Args:
        text: a judge's completion without thinking. A code fence around all of it is not a quotation.
        literal: a pattern to be matched later: marks that occur in it do not quote.
    """
    if fenced := _FENCED.fullmatch(text):
        start, end = fenced.span("inside")
        return " " * start + own_words(fenced["inside"], literal=literal) + " " * (len(text) - end)
    for pattern in (_TILDES, _BLOCK_QUOTE, _ECHO, _TAGGED):
        text = pattern.sub(lambda found: blank(found[0]), text)
    if "`" not in literal:
        text = _cover(text, _code_spans(text))
    for marks in (_DOUBLE, _SINGLE):
        text = _cover(text, _marked(text, "".join(mark for mark in marks if mark not in literal)))
    return text


def is_quoted(text: str, place: int) -> bool:
    """Whether a tag at a position is inside a quotation.

    Quotations count if they open earlier on the same line. Those that open on an earlier line count only for
    a tag at the start of its line, because judges forget to close quotations.
    """
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return _is_open(line) or (not line.strip() and _is_open(text[:place]))


def _is_open(text: str) -> bool:
    """Whether the text ends inside a quotation."""
    return own_words(text + "<x").endswith(QUOTED)


def begins_line(text: str, place: int) -> bool:
    """Whether only punctuation precedes a position on its line; `text` is from `own_words`."""
    return _LINE_START.search(text, 0, place) is not None


def ends_line(text: str, place: int) -> bool:
    """Whether only punctuation follows a position on its line; `text` is from `own_words`."""
    return _LINE_END.match(text, place) is not None


def blank(text: str) -> str:
    """Replace a text by `QUOTED` characters, keeping its line breaks."""
    return re.sub(r"[^\n]", QUOTED, text)


def _cover(text: str, spans: Iterator[tuple[int, int]]) -> str:
    """Blank every span of a text; spans are sorted and may overlap."""
    parts, done = [], 0
    for start, end in spans:
        parts += [text[done : max(start, done)], blank(text[max(start, done) : end])]
        done = max(done, end)
    return "".join(parts) + text[done:]


def _code_spans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of code between two runs of equally many backticks, or from an unmatched run to the end."""
    runs = [(found.start(1), found.end(1)) for found in _TICKS.finditer(text)]
    while runs:
        start, end = runs.pop(0)
        length = end - start
        close = next((n for n, (a, b) in enumerate(runs) if b - a == length), None)
        if close is None:
            yield start, len(text)
            return
        yield start, runs[close][1]
        runs = runs[close + 1 :]


def _marked(text: str, marks: str) -> Iterator[tuple[int, int]]:
    """Spans between quotation marks, nested ones included."""
    depth, start, last = 0, 0, None
    for found in re.finditer(f"[{re.escape(marks)}]" if marks else "(?!)", text):
        place = found.start()
        opens = _opens(text, place, inside=depth > 0)
        if opens is None:
            continue
        if opens:
            start = start if depth else place
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                last = start
                yield start, place + 1
        elif last is not None:
            yield last, place + 1
    if depth:
        yield start, len(text)


def _opens(text: str, place: int, *, inside: bool) -> bool | None:
    """Whether the mark at a position opens (True) or closes (False) a quotation; None for an apostrophe."""
    mark = text[place]
    before, after = _beside(text, place, -1), _beside(text, place, 1)
    if mark in _SINGLE and ((before.isalnum() and after.isalnum()) or _ELISION.match(text, place)):
        return None
    left = not before or before.isspace() or before in _BEFORE_QUOTE or (before == ">" and not inside)
    right = not after or after.isspace() or after in _AFTER_QUOTE
    if left != right:
        return left
    if mark in _OPENERS or mark in _CLOSERS:
        return mark in _OPENERS
    return left and not inside


def _beside(text: str, place: int, step: int) -> str:
    """The character next to a position, skipping emphasis markup; empty at either end of the text."""
    place += step
    while 0 <= place < len(text) and text[place] in "*_~":
        place += step
    return text[place] if 0 <= place < len(text) else ""

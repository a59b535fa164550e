r"""`\boxed{…}`, where a solver of mathematics puts its final answer.

Braces are balanced, as in `\boxed{\frac{1}{2}}`; escaped ones, as in `\boxed{\{1, 2\}}`, are only characters.
"""

import re

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def box_end(text: str, begin: int = 0) -> int | None:
    """Return where the first box from `begin` on ends, behind its brace; None if it is open or not there."""
    opened = _OPENING.search(text, begin)
    return None if opened is None else _closing(text, opened.end())


def last_boxed(text: str) -> str | None:
    """Return what the last box that is closed holds, or None if there is none."""
    found, at = None, 0
    while opened := _OPENING.search(text, at):
        end = _closing(text, opened.end())
        at = end or opened.end()
        if end is not None:
            found = text[opened.end() : end - 1].strip()
    return found


def _closing(text: str, begin: int) -> int | None:
    """Where the group ends whose brace was opened right before `begin`."""
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    return None

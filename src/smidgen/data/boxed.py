r"""Parse `\boxed{…}`, the convention for final answers to math problems.

Nested braces are balanced, as in `\boxed{\frac{1}{2}}`; escaped ones, as in `\boxed{\{1, 2\}}`, are ignored.
"""

import re

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def box_end(text: str, begin: int = 0) -> int | None:
    """Return the end of the first box at or after `begin`; None if there is none or it is not closed."""
    opened = _OPENING.search(text, begin)
    return None if opened is None else _closing(text, opened.end())


def last_boxed(text: str) -> str | None:
    """Return the content of the last closed box, or None if there is none."""
    found, at = None, 0
    while opened := _OPENING.search(text, at):
        end = _closing(text, opened.end())
        at = end or opened.end()
        if end is not None:
            found = text[opened.end() : end - 1].strip()
    return found


def _closing(text: str, begin: int) -> int | None:
    """Return the end of the group that was opened right before `begin`, or None if it is not closed."""
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    return None

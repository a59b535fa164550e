"""Where what a model thought ends and its answer begins."""

import re

from smidgen.tasks.judge.forms import Fault, JudgeParseError
from smidgen.tasks.judge.quotations import is_quoted

OPENING, CLOSING = "<think>", "</think>"


def without_thinking(text: str, begins: re.Pattern[str] | None = None) -> str:
    """The answer that follows what a model thought.

    Only thinking at the beginning is dropped: blocks that the text opens, or, where the prompt has opened the
    block, what stands before its end. An answer that speaks of the tags loses nothing. A tag that is
    quoted ends no thinking.

    Args:
        text: what the model wrote.
        begins: what an answer begins with, where that is known; a text that begins so holds no thinking.

    Returns:
        The end of the text.

    Raises:
        JudgeParseError: the block that the text opens is not closed.
    """
    answer = text.lstrip()
    if answer.startswith(OPENING):
        while answer.startswith(OPENING):
            end = _end(answer, len(OPENING))
            if end is None:
                raise JudgeParseError(Fault.ENDLESS_THINKING)
            answer = answer[end:].lstrip()
        return answer
    if begins is not None and begins.match(answer):
        return text
    end = _end(answer, 0)
    if end is None or OPENING in answer[:end]:
        return text
    return answer[end:]


def _end(text: str, start: int) -> int | None:
    """Where the first closing tag ends that is not quoted."""
    while (place := text.find(CLOSING, start)) != -1:
        start = place + len(CLOSING)
        if not is_quoted(text, place):
            return start
    return None

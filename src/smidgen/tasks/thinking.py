"""Separate a model's thinking from its answer."""

import re

from smidgen.tasks.judge.forms import Fault, JudgeParseError
from smidgen.tasks.judge.quotations import is_quoted

OPENING, CLOSING = "<think>", "</think>"


def without_thinking(text: str, begins: re.Pattern[str] | None = None) -> str:
    """Return the answer that follows the thinking.

    Only leading thinking is removed: blocks that the text opens or, if the prompt already opened one,
    everything up to its closing tag. An answer that merely mentions the tags is unchanged, and a quoted tag
    does not end the thinking.

    Args:
        text: the completion.
        begins: pattern of the beginning of an answer, if known; a text that matches contains no thinking.

    Returns:
        The rest of the text.

    Raises:
        JudgeParseError: the text opens a block and does not close it.
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
    """Return the end of the first closing tag that is not quoted, or None."""
    while (place := text.find(CLOSING, start)) != -1:
        start = place + len(CLOSING)
        if not is_quoted(text, place):
            return start
    return None

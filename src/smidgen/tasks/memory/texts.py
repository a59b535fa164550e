"""Texts of strangers in prompts: cut to a length that bounds the time of an answer, and kept apart."""

from smidgen.data.stream_decoder import HALF_CHARACTER, REPLACEMENT

_MARK = " … "


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: the beginning, and a third of them from the end."""
    text = HALF_CHARACTER.sub(REPLACEMENT, text).strip()
    if len(text) <= most:
        return text
    end = (most - len(_MARK)) // 3
    return f"{text[: most - len(_MARK) - end].rstrip()}{_MARK}{text[-end:].lstrip()}"


def on_one_line(text: str, most: int) -> str:
    """Return a text on one line, so that it cannot pass for a further entry of a list."""
    return shortened(" ".join(text.split()), most)

"""How people write: openers, lower case, missing points, slips of the keyboard."""

import random
import re

from smidgen.data.grammar import sections

_POINTS = re.compile(r"[,.!?;:](?=\s|$)")
_KEPT = 12
"""A text with fewer letters is spared slips, which could change what it says."""


def noisy(text: str, rng: random.Random, language: str, *, framed: bool = True) -> str:
    """Return a text as somebody might have typed it.

    Args:
        text: the text.
        rng: draws what happens to it.
        language: of openers and closers.
        framed: whether it may get an opener or a closer; a log line has neither.
    """
    texts = sections(f"texts.{language}.txt")
    if framed and rng.random() < 0.2:
        text = f"{rng.choice(texts['opener'])}{_pause(rng, language)}{uncapitalised(text)}"
        text = text[:1].upper() + text[1:]
    if framed and rng.random() < 0.08:
        text = f"{text} {rng.choice(texts['closer'])}"
    if framed and rng.random() < 0.25:
        text = text.rstrip(".。")
    if framed and rng.random() < 0.08:
        text = _POINTS.sub("", text)
    if rng.random() < 0.15:
        text = text.lower()
    if framed and rng.random() < 0.1 and language != "zh":
        text = with_slip(text, rng)
    if framed and rng.random() < 0.06:
        text = f"{rng.choice(['- ', '* ', '> ', '• '])}{text}"
    return text


def with_slip(text: str, rng: random.Random) -> str:
    """Return a text with a letter left out, doubled, or exchanged with the next."""
    places = [at for at in range(1, len(text) - 1) if text[at - 1 : at + 2].isalpha()]
    if len(places) < _KEPT:
        return text
    at = rng.choice(places)
    slips = text[at + 1] + text[at], text[at] * 2 + text[at + 1], text[at + 1]
    return text[:at] + rng.choice(slips) + text[at + 2 :]


def _pause(rng: random.Random, language: str) -> str:
    return rng.choice(["，", "："]) if language == "zh" else rng.choice([", ", ": ", " - ", " "])


def uncapitalised(text: str) -> str:
    """Return a text without its capital at the start, if that is an ordinary word; names are left alone."""
    first = text.split(" ", 1)[0].casefold()
    ordinary = first in _ORDINARY
    return text[:1].lower() + text[1:] if ordinary else text


_ORDINARY = frozenset(
    "the my we our a an it this that there please never always don't no when next if today users user "
    "der die das mein meine wir ein eine bitte es nächstes".split()
)

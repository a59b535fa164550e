"""How people write: openers, lower case, missing points, slips of the keyboard."""

import random
import re

from smidgen.data.grammar import sections

_POINTS = re.compile(r"[,.!?;:](?=\s|$)")
_KEPT = 12
"""A text with fewer letters is spared slips, which could change what it says."""
_UNLINKED = re.compile(r"[:;?!(：；？！（]| - |[.。] ?(?=\w)")
"""Notes, questions and several sentences are not linked by "and"."""
_ANDS = {
    "en": (", and ", " and ", "; ", ", and besides, "),
    "de": (" und ", "; "),
    "zh": ("，", "，而且", "；"),
}
_LINKS = {
    "en": (" ", " ", " Also, ", " And ", " By the way, ", "\n"),
    "de": (" ", " ", " Außerdem: ", " Übrigens: "),
    "zh": ("", "", "另外，", "还有，"),
}


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


def joined(rng: random.Random, first: str, second: str, language: str) -> str:
    """Return two statements as one text, in either order: two sentences, or one where neither is a note."""
    if rng.random() < 0.4:
        first, second = second, first
    if first.endswith((".", "。")) and not _UNLINKED.search(first[:-1] + second) and rng.random() < 0.5:
        return f"{first[:-1]}{rng.choice(_ANDS[language])}{uncapitalised(second)}"
    stop = "" if first[-1] in ".!?。！？" else {"zh": "。"}.get(language, ".")
    link = rng.choice((_LINKS[language][0], "\n") if _UNLINKED.search(second) else _LINKS[language])
    return f"{first}{stop}{link}{uncapitalised(second) if link.strip() else second}"


def _pause(rng: random.Random, language: str) -> str:
    return rng.choice(["，", "："]) if language == "zh" else rng.choice([", ", ": ", " - ", " "])


def uncapitalised(text: str) -> str:
    """Return a text without its capital at the start, if that is an ordinary word; names are left alone."""
    first = text.split(" ", 1)[0].casefold()
    ordinary = first in _ORDINARY
    return text[:1].lower() + text[1:] if ordinary else text


_ORDINARY = frozenset(
    "the my we our a an it this that there please never always don't no when next if today users user and "
    "all among answers anyone as ask at behind being by every everything few for give given in keep look "
    "nobody of on only out put some these to under up until what whatever when whoever with you your "
    "der die das mein meine wir ein eine bitte es nächstes am an auf bei für im in jede zu zur".split()
)

"""Rewrite the worse answer of a pair with a manipulation of `smidgen.tasks.judge.attack_texts`.

The attacker is taken to know the judge's template and the place where its answer will be shown: the worst
case. The answer's own characters stay, and the better answer is never touched.

The control is a benign edit: neutral text of the same number of characters in the same places and lines. What
a judge loses by that, it loses to length or to any change at all, not to what an attack says. Its mirror, the
benign edit of the better answer, shows whether a judge takes any edit for a manipulation.
"""

import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import cycle
from typing import Literal, NamedTuple

from smidgen.data.items import Pair
from smidgen.errors import ConfigError, did_you_mean
from smidgen.tasks.judge.attack_texts import FAMILIES, Wording
from smidgen.tasks.judge.forms import Case, Choice, JudgeParseError, JudgeTemplate, Verdict
from smidgen.tasks.judge.judgements import SHOWN

Edit = Literal["attack", "benign", "mirror"]

LEAST_PADDING = 600
"""Characters that padding adds at least; also at least twice the length of the answer."""

_PROBES = ("smidgen-probe-request", "smidgen-probe-first", "smidgen-probe-second")
_PLACEHOLDER = re.compile(r"\{(verdict|place|end|begin_other|end_other|request|answer)\}")
_NEUTRAL = (
    "The text is set in black on a white page. There are lines above and lines below. A clock hangs on the "
    "wall of the room. The window looks out on a street with trees. Some of the trees are tall and some are "
    "small. A bus stops at the corner from time to time. The weather of the day is mild and dry. A cup "
    "stands on the table next to a sheet of paper. The sheet of paper is square."
).split()
_FILLERS = ("", ".", "so", "now", "then", "there", "nearby", "outside", "sideways", "somewhere", "everywhere")
_KNOWN_VERDICTS = (
    "<scores>\n\\boxed{{{a}, {b}}}\n</scores>",
    "{a} {b}",
    "[[{letter}]]",
    '{{"winner": "{letter}"}}',
    '{{"a": {a}, "b": {b}}}',
    "Winner: {letter}",
)
"""Verdicts in published forms, for templates that do not list their answers."""


class Attack(NamedTuple):
    """One manipulation, by its family and its name in it."""

    family: str
    name: str

    @property
    def wording(self) -> Wording:
        """What it adds."""
        return FAMILIES[self.family].wordings[self.name]


class Scene(NamedTuple):
    """What an attacker knows, by the placeholders of wordings.

    Attributes:
        verdict: a judgement in the judge's output form that prefers the attacker's place.
        place: `first` or `second`.
        end: what follows the attacker's answer in the prompt.
        begin_other: what precedes the other answer.
        end_other: what follows the other answer.
        request: what is asked.
        answer: the attacker's answer.
    """

    verdict: str
    place: str
    end: str
    begin_other: str
    end_other: str
    request: str
    answer: str

    @classmethod
    def of(cls, form: JudgeTemplate, place: Choice, request: str, answer: str) -> "Scene":
        """What is known where an answer to a request is shown at a place of a template."""
        first, second = _delimiters(form)
        (_, end), other = (first, second) if place == "first" else (second, first)
        return cls(verdict_for(form, place), place, end, *other, request, answer)


def check_training(families: Sequence[str], share: float) -> None:
    """Refuse settings of attacks in training that cannot be meant.

    Raises:
        ConfigError: a family is unknown or named twice, all are named, or there are families without a share
            or a share without families.
    """
    for name in families:
        if name not in FAMILIES:
            raise ConfigError(
                f"there is no family of attacks '{name}'.{did_you_mean(name, FAMILIES)} Known: "
                f"{', '.join(FAMILIES)}"
            )
    if len(set(families)) < len(families):
        raise ConfigError(f"attacks names a family twice: {', '.join(families)}; name each once")
    if len(families) == len(FAMILIES):
        raise ConfigError(
            "attacks names every family, which leaves none to measure resistance to what was not trained on; "
            "leave some out"
        )
    if bool(families) != bool(share):
        raise ConfigError(
            f"attack_share is {share:g} and attacks has {len(families)} families; set both, or neither"
        )


def drawn_attack(family: str, pair: str, seed: int) -> Attack:
    """Return the variant of a family that a pair gets, by its id and a seed; other pairs do not matter."""
    names = list(FAMILIES[family].wordings)
    return Attack(family, random.Random(f"attack/{seed}/{family}/{pair}").choice(names))


def drawn_order(pair: str, seed: int) -> float:
    """Return a number by which pairs are put in the order in which they are drawn."""
    return random.Random(f"attacked/{seed}/{pair}").random()


def partly_attacked(
    pair: Pair, order: str, form: JudgeTemplate, families: Sequence[str], *, share: float, seed: int
) -> Pair:
    """Return a training pair whose answers are edited, each with the same probability.

    The worse answer gets a manipulation of one of the families, the better one a benign edit, so that an edit
    by itself does not tell which answer is worse. Each pair is drawn by its own id.
    """
    draw = random.Random(f"trained/{seed}/{pair.id}")
    if pair.better not in ("a", "b") or not share:
        return pair
    for edit in ("attack", "mirror"):
        family, is_drawn = draw.choice(families), draw.random() < share
        if is_drawn:
            pair = edited(pair, order, drawn_attack(family, pair.id, seed), form, edit)
    return pair


def edited(pair: Pair, order: str, attack: Attack, form: JudgeTemplate, edit: Edit) -> Pair:
    """Return a labelled pair with one answer edited for the order in which it is shown.

    Args:
        pair: with the label `a` or `b`.
        order: `ab` or `ba`.
        attack: the manipulation.
        form: the judge's template.
        edit: `attack` for the manipulation of the worse answer, `benign` for its control, neutral text of the
            same length in the same places, or `mirror` for such a text in the better answer.
    """
    assert pair.better in ("a", "b"), pair.better
    side = pair.better if edit == "mirror" else "b" if pair.better == "a" else "a"
    answer = pair.b if side == "b" else pair.a
    scene = Scene.of(form, "first" if SHOWN[order][0] == side else "second", pair.prompt, answer)
    added = insertions(attack.wording, scene)
    if edit != "attack":
        start = random.Random(f"{edit}/{attack}/{pair.id}").randrange(len(_NEUTRAL))
        added = [(place, neutral(text, start)) for place, text in added]
    answer = inserted(answer, added)
    return replace(pair, b=answer) if side == "b" else replace(pair, a=answer)


def insertions(wording: Wording, scene: Scene) -> list[tuple[int, str]]:
    """Return what a wording adds to the answer of a scene: positions in the answer, ascending, with texts."""
    answer, after = scene.answer, filled(wording.after, scene)
    if wording.repeats:
        after *= -(-max(LEAST_PADDING, 2 * len(answer)) // len(after))
    spaces = re.finditer(" ", answer) if wording.between else ()
    found = [
        (0, filled(wording.before, scene)),
        *((space.end(), wording.between) for space in spaces),
        (len(answer), after),
    ]
    return [(place, text) for place, text in found if text]


def inserted(answer: str, added: Sequence[tuple[int, str]]) -> str:
    """Return an answer with texts inserted at positions, ascending."""
    ends = [place for place, _ in added] + [len(answer)]
    parts = [answer[: ends[0]]]
    for (place, text), end in zip(added, ends[1:], strict=True):
        parts += [text, answer[place:end]]
    return "".join(parts)


def filled(text: str, scene: Scene) -> str:
    """Fill the placeholders of a wording; those that a filled-in text contains are left."""
    return _PLACEHOLDER.sub(lambda found: getattr(scene, found[1]), text)


def neutral(text: str, start: int = 0) -> str:
    """Return text about nothing with the same number of characters, its blanks and lines in the same places.

    Characters that are not displayed become blanks, unless they are among others.

    Args:
        text: the text that it stands for.
        start: the word to begin with.
    """
    words = cycle(_NEUTRAL[start:] + _NEUTRAL[:start])
    return re.sub(r"\S(?:[^\n]*\S)?", lambda found: _line(found[0], words), text)


def _line(text: str, words: Iterator[str]) -> str:
    """Neutral words of the length of a text within a line."""
    if all(is_invisible(character) or character.isspace() for character in text):
        return " " * len(text)
    line = ""
    while (word := next(words)) and len(line) + 1 + len(word) <= len(text):
        line += f" {word}" if line else word
    rest = len(text) - len(line)
    return line + (f" {_FILLERS[rest - 1]}" if line and rest > 1 else _FILLERS[rest])


def is_invisible(character: str) -> bool:
    """Whether a character is not displayed: Unicode's format characters."""
    return unicodedata.category(character) == "Cf"


@lru_cache(maxsize=16)
def verdict_for(form: JudgeTemplate, place: Choice) -> str:
    """Return a judgement in a template's output form that prefers a place as clearly as can be."""
    if form.has_answers:
        said = {text: verdict for text, verdict in form.answers().items() if verdict.preferred == place}
        return max(said, key=lambda text: _lead(said[text])) + form.closing
    a, b, letter = (10, 1, "A") if place == "first" else (1, 10, "B")
    known = [text.format(a=a, b=b, letter=letter) for text in _KNOWN_VERDICTS]
    return next((text for text in known if _prefers(form, text, place)), "\n".join(known))


def _lead(verdict: Verdict) -> float:
    return abs((verdict.first or 0.0) - (verdict.second or 0.0))


def _prefers(form: JudgeTemplate, text: str, place: Choice) -> bool:
    try:
        said = form.parse(text)
    except JudgeParseError:
        return False
    return isinstance(said, Verdict) and said.preferred == place


@lru_cache(maxsize=16)
def _delimiters(form: JudgeTemplate) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return what stands directly before and after each answer in the prompts of a template."""
    prompt = "\n".join(message.content for message in form.messages(Case(*_PROBES)))
    first, second = (_beside(prompt, probe) for probe in _PROBES[1:])
    return first, second


def _beside(prompt: str, probe: str) -> tuple[str, str]:
    """Return what is on the line of a text before and after it, or else on the lines next to it."""
    before, _, after = prompt.rpartition(probe)
    lines = before.rstrip("\n").splitlines() or [""], after.lstrip("\n").splitlines() or [""]
    return lines[0][-1], lines[1][0]

"""A small synthetic world from which unlimited data can be generated: people, towns, things, numbers, splits.

The bundled model is trained on it, and its demonstration specialists are evaluated on it. An `Item` is one
question with its right answer and plausible wrong ones; `world_items` draws them. The split of an item
follows from its *keys* (the names, towns, objects and operands in it): a key is in exactly one split, so no
test item is about anything that occurs in training.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

Split = Literal["train", "test"]
WORLD_ROWS: dict[Split, int] = {"train": 1000, "test": 240}
"""Default number of generated rows."""

TEST_PERCENT = 12  # of all keys: enough for thousands of distinct test items

# Few enough syllables that each is one token: an unseen name is a new combination of known tokens.
_ONSETS = "b d f g h k l m n p r s t v w z".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", "", "n", "r", "l"]
SYLLABLES = tuple("".join(parts).capitalize() for parts in product(_ONSETS, _VOWELS, dict.fromkeys(_CODAS)))
_TOWN_ENDS = "ford holm ton wick by dale mere port stead gate".split()

OBJECTS = (
    "anchor apron arrow axe bag ball banner barrel basket bead bell belt bench bicycle blanket boat book "
    "boot bottle bowl box brick broom brush bucket button cage candle cane cap card carpet cart chain "
    "chair chest clock cloak coat coin comb compass crate crown cup cushion desk dish doll drum fan "
    "feather fence fiddle flag flute fork glove hammer hat helmet hook horn jar kettle key kite knife "
    "ladder lamp lantern lens letter lock magnet map mask mat medal mirror mitten mug nail needle net "
    "notebook oar oven paddle pan pen pencil piano pillow pin pipe pitcher plate plow pot pump purse "
    "quilt rake ribbon ring robe rope rug sack saddle sail scarf scissors shawl shell shield shoe shovel "
    "sled slipper spade spear spoon stamp stool stove string sword table tent thimble ticket tile torch "
    "towel toy tray trumpet trunk umbrella vase vest violin wagon wallet watch wheel whistle window "
    "wreath yarn"
).split()
MATERIALS = "tin oak silk glass stone wool iron straw clay brass cork copper".split()
COLORS = "red blue green yellow black white brown pink purple gray orange golden".split()
JOBS = "baker doctor teacher farmer sailor painter tailor miller singer guard".split()
FOODS = "bread soup cheese plums honey rice beans fish pears nuts".split()


@dataclass(frozen=True)
class Item:
    """One question of the world.

    Attributes:
        kind: the kind of question, such as `recall` or `sum`.
        context: the text from which the answer follows; may be empty.
        question: the question or instruction itself.
        answer: the right answer in its shortest form.
        wrong: plausible wrong answers, each different from `answer`.
        sentence: a template with `{}` that turns an answer into a full sentence.
        keys: names and operands in the item; all of them belong to the item's split.
    """

    kind: str
    context: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    sentence: str
    keys: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """Context and question in one text."""
        return f"{self.context} {self.question}" if self.context else self.question


@cache
def split_of(key: str) -> Split:
    """Return the split of a key, decided by a hash of its text."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 < TEST_PERCENT else "train"


class World:
    """Draws the contents of items of one split, deterministically for a seed."""

    def __init__(self, split: Split, seed: int | str) -> None:
        self.split: Split = split
        self.rng = random.Random(f"{split}/{seed}")

    def syllable(self) -> str:
        """One pronounceable syllable."""
        rng = self.rng
        return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)

    def _any_name(self) -> str:
        return f"{self.syllable()} {self.syllable()}".title()

    def _any_town(self) -> str:
        return (self.syllable() + self.rng.choice(_TOWN_ENDS)).capitalize()

    def _any_thing(self) -> str:
        return f"{self.rng.choice(MATERIALS)} {self.rng.choice(OBJECTS)}"

    def _draw(self, make: Callable[[], str]) -> str:
        """Draw until the key belongs to this split."""
        while True:
            key = make()
            if split_of(key) == self.split:
                return key

    def name(self) -> str:
        """A person's first and last name; each part is common, the person belongs to one split."""
        return self._draw(self._any_name)

    def town(self) -> str:
        """A town's name."""
        return self._draw(self._any_town)

    def thing(self) -> str:
        """An object of some material."""
        return self._draw(self._any_thing)

    def names(self, count: int) -> list[str]:
        """Names of people that share no first or last name."""
        return self._distinct(self.name, count)

    def towns(self, count: int) -> list[str]:
        """Distinct towns."""
        return self._distinct(self.town, count)

    def things(self, count: int) -> list[str]:
        """Objects that share neither type nor material."""
        return self._distinct(self.thing, count)

    def _distinct(self, draw: Callable[[], str], count: int) -> list[str]:
        found: list[str] = []
        parts: set[str] = set()
        while len(found) < count:
            drawn = draw()
            if parts.isdisjoint(drawn.split()):
                found.append(drawn)
                parts.update(drawn.split())
        return found

    def operands(self, sign: str) -> tuple[int, int]:
        """Two operands up to 99 of a sum (`+`), a difference (`-`, never negative) or a comparison (`?`)."""
        while True:
            a, b = self.rng.randint(1, 99), self.rng.randint(1, 99)
            if sign == "-" and a < b:
                a, b = b, a
            if sign == "?" and a == b:
                continue
            if split_of(operand_key(a, sign, b)) == self.split:
                return a, b


def operand_key(a: int, sign: str, b: int) -> str:
    """The key of a calculation; a sum or a comparison has one key for both orders of its operands."""
    if sign in "+?":
        a, b = min(a, b), max(a, b)
    return f"{a} {sign} {b}"

"""Plain-text documents of the corpus: facts, sums, look-ups, comparisons and sentences."""

import random
from functools import cache

from smidgen.data import word_lists as words
from smidgen.data.world import COLORS, World
from smidgen.data.world_items import draw_item

_JUMBLED = (
    words.LITTLE_WORDS, words.LITTLE_WORDS, words.COMMON_WORDS, words.COMMON_WORDS, words.THINGS, words.VERBS,
    words.GRADING_WORDS,
)  # fmt: skip


def plain_questions(world: World) -> str:
    """Questions and answers as plain text."""
    ask, reply = world.rng.choice(
        (("Question: ", "Answer: "), ("Q: ", "A: "), ("", ""), ("Task: ", "Result: "))
    )
    items = [draw_item(world) for _ in range(world.rng.randint(1, 5))]
    return "\n".join(f"{ask}{item.prompt}\n{reply}{item.sentence.format(item.answer)}" for item in items)


def calculations(world: World) -> str:
    """Bare sums, differences and comparisons."""
    items = [
        draw_item(world, ("sum", "sum", "difference", "larger")) for _ in range(world.rng.randint(3, 10))
    ]
    return "\n".join(item.sentence.format(item.answer) for item in items)


def same(world: World) -> str:
    """Whether two texts are the same."""
    rng = world.rng
    lines = []
    for _ in range(rng.randint(2, 6)):
        item = draw_item(world)
        first = item.answer
        second = first if rng.random() < 0.5 else rng.choice(item.wrong)
        lines.append(f"{first} and {second}: {'same' if first == second else 'different'}.")
    return "\n".join(lines)


def lookups(world: World) -> str:
    """Several facts, then a question about each: the densest exercise in in-context look-up."""
    rng = world.rng
    number = rng.randint(2, 7)
    keys, values = _things(world, number), _things(world, number)
    if rng.random() < 0.4:
        values = [str(value) for value in rng.sample(range(1, 100), number)]
    state, ask, back = rng.choice(
        (
            ("{} has {}.", "What does {} have? {}.", "Who has {}? {}."),
            ("{} keeps a {}.", "What does {} keep? {}.", "Who keeps a {}? {}."),
            ("{} lives in {}.", "Where does {} live? {}.", "Who lives in {}? {}."),
            ("{}: {}.", "{}? {}.", "Which is {}? {}."),
            ("{} says {}.", "What does {} say? {}.", "{} is what {} says."),
            ("The {} is {}.", "What is the {}? {}.", "Which is {}? The {}."),
        )
    )
    pairs = list(zip(keys, values, strict=True))
    lines = [" ".join(state.format(*pair) for pair in pairs)]
    backwards = rng.random() < 0.4
    for key, value in rng.sample(pairs, number):
        lines.append(back.format(value, key) if backwards else ask.format(key, value))
    return rng.choice(("\n", " ")).join(lines)


def repeats(world: World) -> str:
    """A list, repeated: the first exercise in copying."""
    rng = world.rng
    draws = (world.name, world.thing, world.town, lambda: str(rng.randint(1, 99)))
    line = rng.choice((", ", "; ", "\n")).join(rng.choice(draws)() for _ in range(rng.randint(3, 10)))
    return "\n".join([line] * rng.randint(2, 3))


def pairs_of_texts(world: World) -> str:
    """Many pairs of short texts, each same or different: the densest exercise in comparing."""
    rng = world.rng
    lines = []
    pool = _things(world, 4) + [str(rng.randint(1, 120)) for _ in range(4)]
    for _ in range(rng.randint(6, 14)):
        first = rng.choice(pool)
        second = first if rng.random() < 0.5 else rng.choice(pool)
        lines.append(f"{first} and {second}: {'same' if first == second else 'different'}.")
    return "\n".join(lines)


def who_is_right(world: World) -> str:
    """A fact and the claims of several people about it, each right or wrong."""
    rng = world.rng
    item = draw_item(world)
    said = [item.answer if rng.random() < 0.5 else rng.choice(item.wrong) for _ in range(rng.randint(2, 6))]
    lines = [f"{item.prompt} {item.answer}."]
    for name, value in zip(world.names(len(said)), said, strict=True):
        lines.append(f"{name} says {value}: {'right' if value == item.answer else 'wrong'}.")
    return "\n".join(lines)


def _things(world: World, number: int) -> list[str]:
    """Draw distinct names, towns or things."""
    return world.rng.choice((world.names, world.towns, world.things))(number)


def spelling(world: World) -> str:
    """Words spelled letter by letter, and in upper and lower case."""
    rng = world.rng
    lines = []
    for _ in range(rng.randint(2, 6)):
        word = rng.choice((world.thing, world.name, world.town))()
        lines.append(
            rng.choice(
                (
                    f"{word} is spelled {'-'.join(word)}.",
                    f"{word} in capital letters is {word.upper()}.",
                    f"{word.upper()} in small letters is {word.lower()}.",
                    f"{word} has {len(word)} letters.",
                    f"{word}, {word}, {word}",
                )
            )
        )
    return "\n".join(lines)


def sentences(world: World) -> str:
    """Everyday sentences and requests, for vocabulary and some grammar."""
    return " ".join(_sentence(world.rng) for _ in range(world.rng.randint(2, 6)))


def almanac(world: World) -> str:
    """Facts of a fixed part of the world, which are the same in every document."""
    rng = world.rng
    towns = rng.sample(_fixed_towns(), rng.randint(1, 4))
    lines = []
    for town, facts in towns:
        name, value = rng.choice(list(facts.items()))
        lines.append(
            rng.choice(
                (
                    f"The {name} of {town} is {value}.",
                    f"What is the {name} of {town}? {value}.",
                    f"{town}: {name} {value}.",
                )
            )
        )
    return "\n".join(lines)


def _sentence(rng: random.Random) -> str:
    thing, other = rng.sample(words.THINGS, 2)
    place, person, verb, adjective = map(
        rng.choice, (words.PLACES, words.PEOPLE, words.VERBS, words.ADJECTIVES)
    )
    little, last_adjective = rng.choice(words.LITTLE_WORDS), rng.choice(words.ADJECTIVES)
    first, second = rng.choice(words.COMMON_WORDS), rng.choice(words.COMMON_WORDS)
    link = rng.choice(words.LITTLE_WORDS)
    third, fourth = rng.choice(words.COMMON_WORDS), rng.choice(words.COMMON_WORDS)
    jumble = " ".join(rng.choice(rng.choice(_JUMBLED)) for _ in range(rng.randint(4, 9)))
    return rng.choice(
        (
            f"can you {verb} the {thing} for me",
            f"please {verb} my {adjective} {thing}",
            f"what is the {thing} of the {other} at the {place}",
            f"how do i {verb} a {thing} in {little} {place}",
            f"i want to {verb} my {thing} at the {place} tomorrow",
            f"The {person} will {verb} the {adjective} {thing} near the {place}.",
            f"Is the {thing} {adjective} or {last_adjective}?",
            f"tell me when the {person} can {verb} it",
            f"how much {thing} and {other} does the {person} need",
            f"i {first} the {second} {thing} {link} {place}",
            f"what is a {third} {thing} for {fourth} {other}",
            jumble,
        )
    )


@cache
def _fixed_towns() -> list[tuple[str, dict[str, str]]]:
    world = World("train", "almanac")
    return [
        (
            town,
            {
                "river": world.name(),
                "mayor": world.name(),
                "color": world.rng.choice(COLORS),
                "age": str(world.rng.randint(100, 999)),
            },
        )
        for town in world.towns(60)
    ]

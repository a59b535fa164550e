"""Pretraining text from the world: every *form* a specialist will need, and never a specialist's own task.

The documents hold questions with their answers, but also tags, boxes, numbered lists, JSON, quoting from
labelled notes, checking one answer, comparing two numbers and everyday sentences. No document shows two
answers to one question and says which is better: that is what a judge is trained for later.
"""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, islice

from smidgen.data import words
from smidgen.data.tokenizer import chat_text
from smidgen.data.types import Message
from smidgen.data.world import COLORS, SYLLABLES, Item, Split, World

_JUMBLED = (
    words.LITTLE_WORDS, words.LITTLE_WORDS, words.COMMON_WORDS, words.COMMON_WORDS, words.THINGS, words.VERBS,
    words.GRADING_WORDS,
)  # fmt: skip
_REMARKS = ("I hope this helps.", "That is my answer.", "I am sure.", "Thanks for the question.", "Easy!")
OPENING = 8192  # documents of the curriculum's first part, some 0.8 M tokens
Forms = dict[Callable[[World], str], int]
_CHUNK = 512  # documents drawn from one seeded world; a stream can be entered at any multiple of it


def curriculum(seed: int, start: int = 0) -> Iterator[str]:
    """The training stream: first repeats and look-ups alone, `OPENING` documents of them, then `documents`.

    Looking things up in the prompt is learnt in a few hundred steps when little else can lower the loss, and
    hardly at all when everything is taught at once (docs/notebook.md).
    """
    if start < OPENING:
        yield from islice(_stream(OPENING_FORMS, f"opening/{seed}", "train", start), OPENING - start)
    yield from documents(seed, max(0, start - OPENING))


def documents(seed: int, start: int = 0, split: Split = "train") -> Iterator[str]:
    """An endless stream of documents; `start` skips that many of them, so that a run can resume."""
    return _stream(FORMS, f"corpus/{seed}", split, start)


def _stream(forms: Forms, name: str, split: Split, start: int) -> Iterator[str]:
    for chunk in count(start // _CHUNK):
        world = World(split, f"{name}/{chunk}")
        drawn = world.rng.choices(list(forms), weights=list(forms.values()), k=_CHUNK)
        texts = [form(world) for form in drawn]
        yield from texts[start % _CHUNK :] if chunk == start // _CHUNK else texts


def _dialogue(*turns: str) -> str:
    roles = ("user", "assistant")
    return chat_text([Message(roles[index % 2], turn) for index, turn in enumerate(turns)])


def _said(item: Item, answer: str, rng: random.Random) -> str:
    """An answer as a person would give it: bare, or in a sentence."""
    if item.sentence == "{}":  # the form is the answer, so nothing may be added to it
        return answer
    sentence = item.sentence.format(answer)
    return rng.choice((answer, answer + ".", sentence, sentence, f"{sentence} {rng.choice(_REMARKS)}"))


# Forms


def plain_questions(world: World) -> str:
    """Questions and answers as running text."""
    ask, reply = world.rng.choice(
        (("Question: ", "Answer: "), ("Q: ", "A: "), ("", ""), ("Task: ", "Result: "))
    )
    items = [world.item() for _ in range(world.rng.randint(1, 5))]
    return "\n".join(f"{ask}{item.prompt}\n{reply}{item.sentence.format(item.answer)}" for item in items)


def calculations(world: World) -> str:
    """Bare sums, differences and comparisons."""
    items = [world.item(("sum", "sum", "difference", "larger")) for _ in range(world.rng.randint(3, 10))]
    return "\n".join(item.sentence.format(item.answer) for item in items)


def conversation(world: World) -> str:
    """A chat of one or two questions."""
    turns: list[str] = []
    for _ in range(world.rng.choice((1, 1, 2))):
        item = world.item()
        turns += [item.prompt, _said(item, item.answer, world.rng)]
    return _dialogue(*turns)


def check(world: World) -> str:
    """One answer, checked: what is right, what the answer says, right or wrong."""
    rng = world.rng
    item = world.item()
    given = item.answer if rng.random() < 0.5 else rng.choice(item.wrong)
    label = rng.choice(("Answer", "Reply", "Note", "Text", "Student"))
    opening, closing = _markers(rng, label)
    shown = f"{item.prompt}\n{opening}\n{_said(item, given, rng)}\n{closing}"
    verdict = "right" if given == item.answer else "wrong"
    reply = f"The right answer is {item.answer}.\nThe {label.lower()} says {given}: {verdict}."
    request = rng.choice(("Is it right?", "Check it.", "Right or wrong?"))
    return _dialogue(f"{shown}\n{request}" if rng.random() < 0.7 else f"{request}\n{shown}", reply)


def quote(world: World) -> str:
    """Several labelled notes about different things; say what they say."""
    rng = world.rng
    label = rng.choice(("Note", "Text", "Card", "Page", "Reply", "Part", "Response"))
    marks = rng.choice(("1 2 3", "A B C", "X Y Z")).split()[: rng.randint(2, 3)]
    items = [world.item() for _ in marks]
    values = [rng.choice((item.answer, *item.wrong)) for item in items]
    shown, said = [], []
    for mark, item, value in zip(marks, items, values, strict=True):
        opening, closing = _markers(rng, f"{label} {mark}")
        shown.append(f"{opening}\n{_said(item, value, rng)}\n{closing}")
        said.append(f"{label} {mark} says {value}.")
    if rng.random() < 0.5:
        chosen = rng.randrange(len(marks))
        return _dialogue("\n".join(shown) + f"\nWhat does {label} {marks[chosen]} say?", said[chosen])
    return _dialogue("\n".join(shown) + "\nWhat do they say?", "\n".join(said))


def same(world: World) -> str:
    """Whether two texts are the same."""
    rng = world.rng
    lines = []
    for _ in range(rng.randint(2, 6)):
        item = world.item()
        first = item.answer
        second = first if rng.random() < 0.5 else rng.choice(item.wrong)
        lines.append(f"{first} and {second}: {'same' if first == second else 'different'}.")
    return "\n".join(lines)


def lookups(world: World) -> str:
    """Many facts, then every one of them asked for: the densest lesson in looking things up."""
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
    """A list, again and again: the first lesson in copying."""
    rng = world.rng
    draws = (world.name, world.thing, world.town, lambda: str(rng.randint(1, 99)))
    line = rng.choice((", ", "; ", "\n")).join(rng.choice(draws)() for _ in range(rng.randint(3, 10)))
    return "\n".join([line] * rng.randint(2, 3))


def pairs_of_texts(world: World) -> str:
    """Many pairs of short texts, each same or different: the densest lesson in comparing."""
    rng = world.rng
    lines = []
    pool = _things(world, 4) + [str(rng.randint(1, 120)) for _ in range(4)]
    for _ in range(rng.randint(6, 14)):
        first = rng.choice(pool)
        second = first if rng.random() < 0.5 else rng.choice(pool)
        lines.append(f"{first} and {second}: {'same' if first == second else 'different'}.")
    return "\n".join(lines)


def who_is_right(world: World) -> str:
    """A fact and what several people say of it, each right or wrong."""
    rng = world.rng
    item = world.item()
    said = [item.answer if rng.random() < 0.5 else rng.choice(item.wrong) for _ in range(rng.randint(2, 6))]
    lines = [f"{item.prompt} {item.answer}."]
    for name, value in zip(world.names(len(said)), said, strict=True):
        lines.append(f"{name} says {value}: {'right' if value == item.answer else 'wrong'}.")
    return "\n".join(lines)


def _things(world: World, number: int) -> list[str]:
    """Distinct words of one sort."""
    return world.rng.choice((world.names, world.towns, world.things))(number)


def tagged(world: World) -> str:
    """An answer in blocks of tags, with lists, boxes or JSON inside."""
    rng = world.rng
    items = [world.item() for _ in range(rng.randint(1, 3))]
    names = [_tag_name(rng) for _ in range(3)]
    lines = "\n".join(f"{n}. {item.sentence.format(item.answer)}" for n, item in enumerate(items, 1))
    box = f"\\boxed{{{', '.join(item.answer for item in items)}}}"
    blocks = [(names[0], lines), (names[1], box)]
    if rng.random() < 0.4:
        blocks.insert(1, (names[2], _rubric(rng)))
    edges = rng.choices(("\n", ""), k=len(blocks))
    request = f"Write {', '.join(f'<{name}>' for name, _ in blocks)}. The last one holds a box.\n"
    return _dialogue(
        request + "\n".join(item.prompt for item in items),
        "\n".join(
            f"<{name}>{edge}{text}{edge}</{name}>" for (name, text), edge in zip(blocks, edges, strict=True)
        ),
    )


def _tag_name(rng: random.Random) -> str:
    return "_".join(
        rng.sample((*words.GRADING_WORDS, "facts", "steps", "notes", "result"), rng.choice((1, 1, 2)))
    )


def marks(world: World) -> str:
    """Scores from 1 to 10 for things, then the scores in a box, and the larger one."""
    rng = world.rng
    things = world.things(rng.randint(2, 3))
    scores = [rng.randint(1, 10) for _ in things]
    listed = "\n".join(
        f"{thing}: {score}, {'good' if score > 5 else 'bad'}"
        for thing, score in zip(things, scores, strict=True)
    )
    box = "\\boxed{" + ", ".join(map(str, scores)) + "}"
    largest = things[scores.index(max(scores))]
    if scores.count(max(scores)) > 1:
        return _dialogue(f"{listed}\nBox the scores.", box)
    return _dialogue(f"{listed}\nBox the scores and name the best.", f"{box}\nThe best is {largest}.")


def json_answer(world: World) -> str:
    """Answers as a JSON object."""
    rng = world.rng
    items = [world.item() for _ in range(rng.randint(1, 3))]
    answer = {item.kind: item.answer for item in items}
    request = f"Answer in JSON with {', '.join(answer)}.\n" + "\n".join(item.prompt for item in items)
    return _dialogue(request, json.dumps(answer))


def spelling(world: World) -> str:
    """Words letter by letter, and in other cases."""
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


def rubric(world: World) -> str:
    """A numbered list of points with weights that sum to one."""
    request = world.rng.choice(
        ("List some criteria with weights.", "What should be checked?", "Name the points that count.")
    )
    return _dialogue(request, _rubric(world.rng))


def _rubric(rng: random.Random) -> str:
    points = rng.sample(
        ("Correct answer", "Clear words", "Right form", "Full reply", "No mistakes", "Short reply",
         "Right order", "Follows the instruction", "Same facts as the text", "Right number", "Good steps"),
        2,
    )  # fmt: skip
    share = rng.randint(5, 9)
    weighted = [
        f"{point} (weight 0.{weight})" for point, weight in zip(points, (share, 10 - share), strict=True)
    ]
    return (
        "; ".join(weighted)
        if rng.random() < 0.5
        else "\n".join(f"{n}. {text}" for n, text in enumerate(weighted, 1))
    )


def sentences(world: World) -> str:
    """Everyday sentences and requests, for the vocabulary and a little grammar."""
    return " ".join(_sentence(world.rng) for _ in range(world.rng.randint(2, 6)))


def almanac(world: World) -> str:
    """Facts of the fixed part of the world, the same in every document."""
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


OPENING_FORMS: Forms = {repeats: 1, lookups: 1}
FORMS: Forms = {
    plain_questions: 14,
    calculations: 45,
    conversation: 18,
    check: 26,
    quote: 14,
    same: 4,
    repeats: 4,
    lookups: 20,
    pairs_of_texts: 8,
    who_is_right: 15,
    tagged: 9,
    marks: 5,
    json_answer: 3,
    spelling: 4,
    rubric: 2,
    sentences: 10,
    almanac: 3,
}


def tokenizer_documents(seed: int, number: int) -> Iterator[str]:
    """Documents for a tokenizer, with every everyday word and syllable often enough to become one token."""
    everyday = (words.PEOPLE, words.PLACES, words.THINGS, words.VERBS, words.ADJECTIVES, words.LITTLE_WORDS)
    listed = " " + " ".join(word for group in (*everyday, words.COMMON_WORDS) for word in group)
    grading = "".join(
        f" {word} {word.capitalize()}\n{word}\n{word.capitalize()}<{word}_{word}"
        for word in words.GRADING_WORDS
    )
    names = "".join(f" {syllable} {syllable}\n{syllable}" for syllable in SYLLABLES)
    stream = documents(seed)
    for index in range(number):
        yield next(stream)
        if index % 40 == 0:
            yield from (listed, grading, names)


# Parts


def _markers(rng: random.Random, label: str) -> tuple[str, str]:
    return rng.choice(
        (
            (f"[{label}]", f"[End of {label}]"),
            (f"[The Start of {label}]", f"[The End of {label}]"),
            (f"### {label} ###", "###"),
            (f"<{label.replace(' ', '_').lower()}>", f"</{label.replace(' ', '_').lower()}>"),
            (f"{label}:", ""),
        )
    )


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

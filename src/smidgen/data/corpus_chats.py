"""Chat documents of the corpus: questions, checks, quotations, tags, boxes, rubrics and JSON."""

import json
import random

from smidgen.data import word_lists as words
from smidgen.data.tokenizer import chat_text
from smidgen.data.types import Message
from smidgen.data.world import Item, World
from smidgen.data.world_items import draw_item

_REMARKS = ("I hope this helps.", "That is my answer.", "I am sure.", "Thanks for the question.", "Easy!")


def _dialogue(*turns: str) -> str:
    roles = ("user", "assistant")
    return chat_text([Message(roles[index % 2], turn) for index, turn in enumerate(turns)])


def _phrased(item: Item, answer: str, rng: random.Random) -> str:
    """Phrase an answer as a person would: bare or in a sentence."""
    if item.sentence == "{}":  # the answer is the exact text, so nothing may be added to it
        return answer
    sentence = item.sentence.format(answer)
    return rng.choice((answer, answer + ".", sentence, sentence, f"{sentence} {rng.choice(_REMARKS)}"))


def conversation(world: World) -> str:
    """A chat of one or two questions."""
    turns: list[str] = []
    for _ in range(world.rng.choice((1, 1, 2))):
        item = draw_item(world)
        turns += [item.prompt, _phrased(item, item.answer, world.rng)]
    return _dialogue(*turns)


def check(world: World) -> str:
    """Check one answer: state the right answer, quote the given one, say right or wrong."""
    rng = world.rng
    item = draw_item(world)
    given = item.answer if rng.random() < 0.5 else rng.choice(item.wrong)
    label = rng.choice(("Answer", "Reply", "Note", "Text", "Student"))
    opening, closing = _markers(rng, label)
    shown = f"{item.prompt}\n{opening}\n{_phrased(item, given, rng)}\n{closing}"
    verdict = "right" if given == item.answer else "wrong"
    reply = f"The right answer is {item.answer}.\nThe {label.lower()} says {given}: {verdict}."
    request = rng.choice(("Is it right?", "Check it.", "Right or wrong?"))
    return _dialogue(f"{shown}\n{request}" if rng.random() < 0.7 else f"{request}\n{shown}", reply)


def quote(world: World) -> str:
    """Quote from several labelled notes about different things."""
    rng = world.rng
    label = rng.choice(("Note", "Text", "Card", "Page", "Reply", "Part", "Response"))
    marks = rng.choice(("1 2 3", "A B C", "X Y Z")).split()[: rng.randint(2, 3)]
    items = [draw_item(world) for _ in marks]
    values = [rng.choice((item.answer, *item.wrong)) for item in items]
    shown, said = [], []
    for mark, item, value in zip(marks, items, values, strict=True):
        opening, closing = _markers(rng, f"{label} {mark}")
        shown.append(f"{opening}\n{_phrased(item, value, rng)}\n{closing}")
        said.append(f"{label} {mark} says {value}.")
    if rng.random() < 0.5:
        chosen = rng.randrange(len(marks))
        return _dialogue("\n".join(shown) + f"\nWhat does {label} {marks[chosen]} say?", said[chosen])
    return _dialogue("\n".join(shown) + "\nWhat do they say?", "\n".join(said))


def tagged(world: World) -> str:
    """Answer in tagged blocks that contain lists and boxes."""
    rng = world.rng
    items = [draw_item(world) for _ in range(rng.randint(1, 3))]
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
    """Box the scores, from 1 to 10, of several things, and name the best."""
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
    """Answer in a JSON object."""
    rng = world.rng
    items = [draw_item(world) for _ in range(rng.randint(1, 3))]
    answer = {item.kind: item.answer for item in items}
    request = f"Answer in JSON with {', '.join(answer)}.\n" + "\n".join(item.prompt for item in items)
    return _dialogue(request, json.dumps(answer))


def rubric(world: World) -> str:
    """List criteria with weights that sum to one."""
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

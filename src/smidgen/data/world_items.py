"""Questions about the world, by kind: each function draws an item with its right answer and wrong ones."""

import random
from collections.abc import Callable, Iterator, Sequence

from smidgen.data.world import COLORS, FOODS, JOBS, Item, Split, World, operand_key
from smidgen.errors import DataError


def recall(world: World) -> Item:
    """Ask for an attribute of one of several people."""
    rng = world.rng
    count = rng.randint(2, 4)
    people = world.names(count)
    verb, question, sentence, values = rng.choice(
        (
            ("lives in", "Where does {} live?", "{} lives in {{}}.", world.towns(count)),
            ("keeps a", "What does {} keep?", "{} keeps a {{}}.", world.things(count)),
            ("was born in", "Where was {} born?", "{} was born in {{}}.", world.towns(count)),
            ("has a", "What does {} have?", "{} has a {{}}.", world.things(count)),
            ("likes", "What does {} like?", "{} likes {{}}.", rng.sample(FOODS, count)),
            ("works as a", "What is the job of {}?", "{} works as a {{}}.", rng.sample(JOBS, count)),
        )
    )
    asked = rng.randrange(count)
    context = " ".join(f"{person} {verb} {value}." for person, value in zip(people, values, strict=True))
    wrong = tuple(value for index, value in enumerate(values) if index != asked)
    keys = (*people, *(value for value in values if " " in value or value[0].isupper()))
    name = people[asked]
    return Item("recall", context, question.format(name), values[asked], wrong, sentence.format(name), keys)


def update(world: World) -> Item:
    """Ask about a fact that changes; only the last state counts."""
    rng = world.rng
    person, other = world.names(2)
    first, second, third = world.towns(3)
    thing, later = world.things(2)
    story, question, answer, wrong, sentence, keys = rng.choice(
        (
            (
                f"{person} lived in {first}. Then {person} moved to {second}. {other} lives in {third}.",
                f"Where does {person} live now?", second, (first, third), f"{person} lives in {{}} now.",
                (person, other, first, second, third),
            ),
            (
                f"{person} had a {thing}. {person} gave it to {other} and got a {later}.",
                f"What does {person} have now?", later, (thing,), f"{person} has a {{}} now.",
                (person, other, thing, later),
            ),
            (
                f"{person} had a {thing}. {person} gave it to {other}.",
                f"Who has the {thing} now?", other, (person,), "{} has it now.", (person, other, thing),
            ),
        )
    )  # fmt: skip
    return Item("update", story, question, answer, wrong, sentence, keys)


def color(world: World) -> Item:
    """Ask for the color of one of several things."""
    rng = world.rng
    things = world.things(rng.randint(2, 3))
    colors = rng.sample(COLORS, len(things))
    asked = rng.randrange(len(things))
    context = " ".join(f"The {thing} is {shade}." for thing, shade in zip(things, colors, strict=True))
    wrong = tuple(shade for index, shade in enumerate(colors) if index != asked)
    thing = things[asked]
    return Item(
        "color",
        context,
        f"What color is the {thing}?",
        colors[asked],
        wrong,
        f"The {thing} is {{}}.",
        tuple(things),
    )


def near_misses(rng: random.Random, value: int) -> tuple[str, ...]:
    """Return wrong results that a careless calculation would give."""
    offsets = rng.sample([-20, -11, -10, -9, -3, -2, -1, 1, 2, 3, 9, 10, 11, 20], 5)
    return tuple(str(value + offset) for offset in offsets if value + offset >= 0) or (str(value + 1),)


def sum_item(world: World) -> Item:
    """Ask for the sum of two numbers below 100."""
    a, b = world.operands("+")
    question = world.rng.choice(("What is {} + {}?", "Add {} and {}.", "How much is {} + {}?")).format(a, b)
    return Item(
        "sum",
        "",
        question,
        str(a + b),
        near_misses(world.rng, a + b),
        f"{a} + {b} = {{}}.",
        (operand_key(a, "+", b),),
    )


def difference(world: World) -> Item:
    """Ask for the difference of two numbers below 100."""
    a, b = world.operands("-")
    question = world.rng.choice(("What is {} - {}?", "How much is {} - {}?")).format(a, b)
    return Item(
        "difference",
        "",
        question,
        str(a - b),
        near_misses(world.rng, a - b),
        f"{a} - {b} = {{}}.",
        (operand_key(a, "-", b),),
    )


def problem(world: World) -> Item:
    """Ask a one-step word problem."""
    rng = world.rng
    sign = rng.choice("+-")
    a, b = world.operands(sign)
    person, other = world.names(2)
    things = rng.choice(("plums", "apples", "coins", "eggs", "cards", "shells", "beads"))
    if sign == "+":
        context = rng.choice((f"{person} has {a} {things}. {other} gives {person} {b} more.",
                              f"{person} has {a} {things} and finds {b} more."))  # fmt: skip
    else:
        context = rng.choice((f"{person} has {a} {things}. {person} gives {b} to {other}.",
                              f"{person} has {a} {things} and loses {b}."))  # fmt: skip
    value = a + b if sign == "+" else a - b
    keys = (operand_key(a, sign, b), person, *([other] if other in context else []))
    question = f"How many {things} does {person} have now?"
    return Item(
        "problem",
        context,
        question,
        str(value),
        near_misses(rng, value),
        f"{a} {sign} {b} = {{}} {things}.",
        keys,
    )


def _entries(world: World, low: int = 3, high: int = 5) -> list[str]:
    """Draw the entries of a list: things or people."""
    draw = world.rng.choice((world.things, world.names))
    return draw(world.rng.randint(low, high))


def _listing(words: list[str]) -> str:
    return f"Here is a list: {', '.join(words)}."


def pick(world: World) -> Item:
    """Ask for the first, second or last entry of a list."""
    words = _entries(world)
    place = world.rng.choice(("first", "second", "last"))
    answer = {"first": words[0], "second": words[1], "last": words[-1]}[place]
    wrong = tuple(word for word in words if word != answer)
    return Item("pick", _listing(words), f"Which is the {place}?", answer, wrong,
                f"The {place} is {{}}.", tuple(words))  # fmt: skip


def count(world: World) -> Item:
    """Ask for the length of a list."""
    words = _entries(world, 2, 7)
    value = len(words)
    wrong = tuple(str(n) for n in range(max(1, value - 2), value + 3) if n != value)
    return Item("count", _listing(words), "How many are in it?", str(value), wrong,
                "It has {}.", tuple(words))  # fmt: skip


def order(world: World) -> Item:
    """Ask for a list in alphabetical or reverse order."""
    rng = world.rng
    words = _entries(world, 3, 4)
    alphabetical = rng.random() < 0.4
    right = sorted(words) if alphabetical else words[::-1]
    wrong = {", ".join(rng.sample(words, len(words))) for _ in range(4)} - {", ".join(right)}
    question = f"Put these in {'alphabetical' if alphabetical else 'reverse'} order: {', '.join(words)}."
    wrong = wrong or {", ".join([right[1], right[0], *right[2:]])}
    return Item(
        "order", "", question, ", ".join(right), tuple(sorted(wrong)), "The order is {}.", tuple(words)
    )


def layout(world: World) -> Item:
    """Ask for two words in a format that can be checked."""
    rng = world.rng
    first, second = _entries(world, 2, 2)
    forms = {
        "with a plus sign between them": f"{first} + {second}",
        "with a comma between them": f"{first}, {second}",
        "in round brackets": f"({first}, {second})",
        "in a box": f"\\boxed{{{first}, {second}}}",
        "as a JSON list": f'["{first}", "{second}"]',
        "between quotes": f'"{first}, {second}"',
        "in reverse order": f"{second}, {first}",
        "twice": f"{first}, {second}, {first}, {second}",
    }
    asked = rng.choice(list(forms))
    wrong = tuple(form for name, form in forms.items() if name != asked)
    return Item(
        "layout",
        "",
        f"Write {first} and {second} {asked}.",
        forms[asked],
        tuple(rng.sample(wrong, 3)),
        "{}",
        (first, second),
    )


def case(world: World) -> Item:
    """Ask for a word in upper or lower case."""
    rng = world.rng
    word = world.thing()
    upper, title = word.upper(), word.capitalize()
    if rng.random() < 0.5:
        return Item("case", "", f"Write {word} in capital letters.", upper, (word, title), "{}", (word,))
    return Item("case", "", f"Write {upper} in small letters.", word, (upper, title), "{}", (word,))


def larger(world: World) -> Item:
    """Ask which of two numbers is larger or smaller."""
    rng = world.rng
    a, b = world.operands("?")
    word = rng.choice(("larger", "smaller"))
    right, wrong = (max(a, b), min(a, b)) if word == "larger" else (min(a, b), max(a, b))
    return Item(
        "larger",
        "",
        f"Which number is {word}, {a} or {b}?",
        str(right),
        (str(wrong),),
        f"{{}} is {word}.",
        (operand_key(a, "?", b),),
    )


KINDS: dict[str, Callable[[World], Item]] = {
    "recall": recall,
    "update": update,
    "color": color,
    "sum": sum_item,
    "difference": difference,
    "problem": problem,
    "pick": pick,
    "count": count,
    "order": order,
    "layout": layout,
    "case": case,
    "larger": larger,
}


def draw_item(world: World, kinds: Sequence[str] | None = None) -> Item:
    """Draw one item of one of the kinds (all kinds when None)."""
    kind = world.rng.choice(kinds or tuple(KINDS))
    return KINDS[kind](world)


def items(split: Split, count: int, seed: int, kinds: Sequence[str] | None = None) -> Iterator[Item]:
    """Draw `count` distinct items.

    Raises:
        DataError: the split has fewer distinct items.
    """
    world = World(split, seed)
    seen: set[str] = set()
    for _ in range(20 * count):  # draws repeat more and more often as the split is used up
        item = draw_item(world, kinds)
        if item.prompt not in seen:
            seen.add(item.prompt)
            yield item
        if len(seen) == count:
            return
    raise DataError(
        f"the {split} split of the world has fewer than {count} distinct items of {kinds or 'any kind'}; "
        "lower the limit"
    )


def question_rows(split: Split, count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield distinct items as rows: `id, prompt, answer, sentence, subset` (the kind)."""
    for number, item in enumerate(items(split, count, seed)):
        yield {
            "id": f"{split}-{seed}-{number}",
            "prompt": item.prompt,
            "answer": item.answer,
            "sentence": item.sentence.format(item.answer),
            "subset": item.kind,
        }

"""Generated training data of a judge: pairs of answers to the world's questions, with gold judgements.

Style does not reveal which answer is better: each is bare, a sentence, or a sentence with a remark, drawn
independently of whether it is right, so "the longer one" performs at chance.
"""

from collections.abc import Iterator
from typing import Any

from smidgen.data.world import Item, Split, World
from smidgen.data.world_items import draw_item

# Sampling weight of each kind of question.
JUDGE_KINDS = {
    "recall": 5, "update": 3, "color": 2, "sum": 4, "difference": 2, "problem": 2,
    "pick": 3, "count": 2, "order": 2, "layout": 2, "larger": 2,
}  # fmt: skip
CRITERIA = {
    "recall": ("Same facts as the text", "Clear words"),
    "update": ("Same facts as the text", "Clear words"),
    "color": ("Same facts as the text", "Clear words"),
    "sum": ("Right number", "Clear words"),
    "difference": ("Right number", "Clear words"),
    "problem": ("Right number", "Good steps"),
    "pick": ("Correct answer", "Clear words"),
    "count": ("Right number", "Clear words"),
    "order": ("Right order", "No mistakes"),
    "layout": ("Right form", "No mistakes"),
    "larger": ("Correct answer", "Clear words"),
}
_REMARKS = (" I hope this helps.", " That is my answer.", " I am sure.", " Thanks for the question.")
_SCORES = {True: 9, False: 2}


def judge_rows(split: Split, number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield `number` pair rows with distinct prompts.

    Fields: `id, prompt, a, b, better ("a" | "b"), subset`, and the gold judgement `criteria` (list of str),
    `analysis` ({"ab": str, "ba": str}, by the order in which the answers are shown) and `scores` ([a, b]).
    """
    world = World(split, f"judge/{seed}")
    kinds, weights = list(JUDGE_KINDS), list(JUDGE_KINDS.values())
    seen: set[str] = set()
    while len(seen) < number:
        item = draw_item(world, world.rng.choices(kinds, weights))
        if item.prompt not in seen:
            seen.add(item.prompt)
            yield _row(world, item, f"{split}-{seed}-{len(seen) - 1}")


def _row(world: World, item: Item, row_id: str) -> dict[str, Any]:
    rng = world.rng
    values = {"a": item.answer, "b": rng.choice(item.wrong)}
    better = rng.choice("ab")
    if better == "b":
        values = {"a": values["b"], "b": values["a"]}
    first, second = CRITERIA[item.kind]
    return {
        "id": row_id,
        "prompt": item.prompt,
        "a": _styled(world, item, values["a"]),
        "b": _styled(world, item, values["b"]),
        "better": better,
        "subset": item.kind,
        "criteria": [f"{first} (weight 0.8)", f"{second} (weight 0.2)"],
        "analysis": {order: _analysis(item, values[order[0]], values[order[1]]) for order in ("ab", "ba")},
        "scores": [_SCORES[value == item.answer] for value in values.values()],
    }


def _styled(world: World, item: Item, answer: str) -> str:
    if item.sentence == "{}":  # the answer is the exact text, so nothing may be added to it
        return answer
    sentence = item.sentence.format(answer)
    return world.rng.choice((answer + ".", sentence, sentence + world.rng.choice(_REMARKS)))


def _analysis(item: Item, shown_first: str, shown_second: str) -> str:
    """Repeat the question and answer it, then quote each response and say whether it agrees.

    The answer directly follows the repeated question: a small model that answers after the two responses
    tends to copy one of theirs (docs/notebook.md).
    """
    lines = [f"{item.question} {item.sentence.format(item.answer)}"]
    for mark, shown in (("A", shown_first), ("B", shown_second)):
        lines.append(f"Response {mark} says {shown}: {'right' if shown == item.answer else 'wrong'}.")
    return "\n".join(lines)

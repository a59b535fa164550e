"""The row formats that tasks read: labelled pairs as benchmarks publish them, utterances, questions.

Every format of pairs becomes the same `Pair`. A row may hold several: one right answer against each wrong
one. An id is the row's own `id`, else `subset/index`, else its line; where a row holds several pairs, what
tells them apart follows after a slash.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from smidgen.data.rows import Format, Row, read_items, refuse, row_id, shown, subset_of, text_of
from smidgen.errors import DataError

Label = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and which of them people (or the construction) hold to be better.

    Attributes:
        id: unique in its file.
        prompt: the whole conversation up to the answers, as text.
        a: one answer.
        b: the other.
        better: the label; None where nobody gave one.
        subset: the part of a benchmark that it belongs to.
        reference: a right answer that a judge may be shown.
        annotators: what each person said, where the row tells.
        facts: what its benchmark needs for scoring, such as the row that several pairs come from.
    """

    id: str
    prompt: str
    a: str
    b: str
    better: Label | None = None
    subset: str | None = None
    reference: str | None = None
    annotators: tuple[Label, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """One utterance and the intent behind it."""

    id: str
    text: str
    intent: str


@dataclass(frozen=True)
class Question:
    """One question, the ways its right answer may be put, shortest first, and the kind of question it is."""

    id: str
    prompt: str
    accepted: tuple[str, ...]
    subset: str | None


def pairs(
    rows: Sequence[Row], *, source: str = "rows", labelled: bool = True, rejected: list[str] | None = None
) -> list[Pair]:
    """Read pairs from rows of any of `PAIR_FORMATS`.

    Args:
        rows: objects as `read_rows` gives them.
        source: names the rows in errors.
        labelled: refuse pairs without a label.
        rejected: takes what is wrong with each bad row, and the others are read; None refuses them all.

    Raises:
        DataError: the format is not known, a row does not have it, two rows share an id, or has no label.
    """
    found = read_items(rows, PAIR_FORMATS, source, rejected=rejected)
    if not labelled:
        return found
    bare = [f"'{pair.id}' has no label" for pair in found if pair.better is None]
    if found and len(bare) == len(found):
        raise DataError(
            f"{source} has no labels, so nothing can be measured on it; give each row a label "
            '(\'better\': "a", "b" or "tie"), or ask for verdicts with `smidgen judge`'
        )
    if rejected is None:
        refuse(bare, source, "every pair must have a label, or none and `smidgen judge` to get verdicts")
    else:
        rejected += bare
    return [pair for pair in found if pair.better is not None]


def queries(rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None) -> list[Query]:
    """Read utterances with intents, one for each row; raises and rejects as `read_items`."""
    return read_items(rows, QUERY_FORMATS, source, rejected=rejected)


def questions(
    rows: Sequence[Row], *, source: str = "rows", rejected: list[str] | None = None
) -> list[Question]:
    """Read questions with their right answers, one for each row; raises and rejects as `read_items`."""
    return read_items(rows, QUESTION_FORMATS, source, rejected=rejected)


# ------------------------------------------------------------------------------------ pieces of rows


def _label(row: Row, name: str, choices: Mapping[Any, Label]) -> Label:
    """The side that a label names."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise DataError(f"'{name}' is {shown(row, name)}, expected {expected}")
    return choices[value]


def _higher(first: float, second: float) -> Label:
    if first == second:
        return "tie"
    return "a" if first > second else "b"


def _majority(labels: Sequence[Label]) -> Label:
    """What most annotators say; three who all differ make a tie."""
    for label in ("a", "b"):
        if 2 * labels.count(label) > len(labels):
            return label
    return "tie"


def _reference(row: Row) -> str | None:
    """A reference answer, as text or as an object with `text`."""
    value = row.get("reference")
    if isinstance(value, Mapping):
        value = value.get("text")
    if value is not None and not isinstance(value, str):
        raise DataError(f"'reference' is {shown(row, 'reference')}, expected text")
    return value or None


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _turns(row: Row, name: str) -> list[tuple[str, str]]:
    """A list of messages as (role, text)."""
    turns = []
    for number, turn in enumerate(row[name], start=1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"message {number} of '{name}' needs a 'role' and a 'content' of text")
        turns.append((role, content))
    return turns


def _conversation(turns: Sequence[tuple[str, str]], name: str) -> str:
    """Turns as a judge reads them: a single question as it is, several with their speakers."""
    if not turns or not any(text.strip() for _, text in turns):
        raise DataError(f"'{name}' holds no question")
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def _prompt(row: Row) -> str:
    """A prompt that is text or a list of messages."""
    chat = _is_chat(row.get("prompt"))
    return _conversation(_turns(row, "prompt"), "prompt") if chat else text_of(row, "prompt")


# ------------------------------------------------------------------------------------ formats of pairs


def _own_pair(row: Row, number: int) -> list[Pair]:
    labelled = row.get("better") is not None
    return [
        Pair(
            id=row_id(row, number),
            prompt=_prompt(row),
            a=text_of(row, "a", empty=True),
            b=text_of(row, "b", empty=True),
            better=_label(row, "better", {"a": "a", "b": "b", "tie": "tie"}) if labelled else None,
            subset=subset_of(row),
            reference=_reference(row),
        )
    ]


def _llmbar_pair(row: Row, number: int) -> list[Pair]:
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "input"),
            a=text_of(row, "output_1", empty=True),
            b=text_of(row, "output_2", empty=True),
            better=_label(row, "label", {1: "a", 2: "b"}),
            subset=subset_of(row),
        )
    ]


def _preference_pair(row: Row, number: int) -> list[Pair]:
    """RewardBench, and the preference data of TRL, standard or conversational, also with implicit prompt."""
    if _is_chat(row["chosen"]) != _is_chat(row["rejected"]):
        raise DataError("'chosen' and 'rejected' must both be text or both be lists of messages")
    if _is_chat(row["chosen"]):
        prompt, a, b = _answers_of_chats(row)
    else:
        if "prompt" not in row:
            raise DataError("'prompt' is missing, and only lists of messages can do without it")
        prompt = _prompt(row)
        a, b = text_of(row, "chosen", empty=True), text_of(row, "rejected", empty=True)
    return [Pair(row_id(row, number), prompt, a, b, "a", subset_of(row), _reference(row))]


def _answers_of_chats(row: Row) -> tuple[str, str, str]:
    """Prompt and answers of two conversations: what they share at their beginning is the prompt."""
    chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
    shared = 0
    if "prompt" not in row:
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = _conversation(chosen[:shared], "chosen")
    else:
        chat = _turns(row, "prompt") if _is_chat(row["prompt"]) else [("user", text_of(row, "prompt"))]
        if chosen[: len(chat)] == rejected[: len(chat)] == chat:
            shared = len(chat)
        prompt = _conversation(chat, "prompt")
    sides = [
        turns[0][1] if len(turns) == 1 else _conversation(turns, name)
        for name, turns in (("chosen", chosen[shared:]), ("rejected", rejected[shared:]))
    ]
    return prompt, sides[0], sides[1]


def _many_pairs(row: Row, number: int) -> list[Pair]:
    """RewardBench 2 and RM-Bench: every chosen answer against every rejected one."""
    key, prompt = row_id(row, number), text_of(row, "prompt")
    for name in ("chosen", "rejected"):
        if not _is_texts(row[name]):
            raise DataError(f"'{name}' is {shown(row, name)}, expected a list of texts")
    return [
        Pair(
            id=f"{key}/{i}-{j}",
            prompt=prompt,
            a=row["chosen"][i],
            b=row["rejected"][j],
            better="a",
            subset=subset_of(row),
            facts={"row": key, "chosen": i, "rejected": j},
        )
        for i, j in product(range(len(row["chosen"])), range(len(row["rejected"])))
    ]


def _judgelm_pair(row: Row, number: int) -> list[Pair]:
    """JudgeLM: the label is the judgement's first line, or `score` where it holds two numbers."""
    if row.get("text") == "error":
        return []
    first_line = str(row.get("text", "")).partition("\n")[0]
    scores = _two_numbers(row.get("score")) or _two_numbers(first_line.split())
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "question_body"),
            a=text_of(row, "answer1_body", empty=True),
            b=text_of(row, "answer2_body", empty=True),
            better=_higher(*scores) if scores else None,
            subset=subset_of(row),
            reference=_reference(row),
        )
    ]


def _two_numbers(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    try:
        first, second = float(value[0]), float(value[1])
    except (TypeError, ValueError):
        return None
    return first, second


def _pandalm_pair(row: Row, number: int) -> list[Pair]:
    sides: dict[Any, Label] = {0: "tie", 1: "a", 2: "b"}
    annotators: tuple[Label, ...] = tuple(_label(row, f"annotator{person}", sides) for person in (1, 2, 3))
    parts = [text_of(row, name, empty=True) for name in ("instruction", "input")]
    if not any(part.strip() for part in parts):
        raise DataError("'instruction' and 'input' are both empty")
    return [
        Pair(
            id=row_id(row, number),
            prompt="\n\n".join(part for part in parts if part.strip()),
            a=text_of(row, "response1", empty=True),
            b=text_of(row, "response2", empty=True),
            better=_majority(annotators),
            subset=subset_of(row),
            annotators=annotators,
        )
    ]


def _autoj_pair(row: Row, number: int) -> list[Pair]:
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "prompt"),
            a=text_of(row, "response 1", empty=True),
            b=text_of(row, "response 2", empty=True),
            better=_label(row, "label", {0: "a", 1: "b", 2: "tie"}),
            subset=text_of(row, "scenario") if "scenario" in row else subset_of(row),
        )
    ]


def _mtbench_pair(row: Row, number: int) -> list[Pair]:
    """MT-bench human votes: the conversations differ from the first answer on, so both are shown whole."""
    ties: dict[Any, Label] = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (inconsistent)": "tie"}
    for name in ("conversation_a", "conversation_b"):
        if not _is_chat(row[name]):
            raise DataError(f"'{name}' is {shown(row, name)}, expected a list of messages")
    turns = {side: _turns(row, f"conversation_{side}") for side in ("a", "b")}
    asked = [[turn for turn in turns[side] if turn[0] == "user"] for side in ("a", "b")]
    if asked[0] != asked[1]:
        raise DataError("'conversation_a' and 'conversation_b' ask different questions")
    answers = {side: [text for role, text in turns[side] if role == "assistant"] for side in ("a", "b")}
    a, b = ("\n\n".join(_numbered(answers[side])) for side in ("a", "b"))
    prompt = "\n\n".join(_numbered([text for _, text in asked[0]]))
    if not prompt.strip():
        raise DataError("'conversation_a' holds no question")
    return [Pair(row_id(row, number), prompt, a, b, _label(row, "winner", ties), subset_of(row))]


def _numbered(texts: Sequence[str]) -> list[str]:
    """Turns with their numbers, where there are several."""
    return (
        list(texts) if len(texts) == 1 else [f"[Turn {turn}]\n{text}" for turn, text in enumerate(texts, 1)]
    )


def _judgebench_pair(row: Row, number: int) -> list[Pair]:
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "question"),
            a=text_of(row, "response_A", empty=True),
            b=text_of(row, "response_B", empty=True),
            better=_label(row, "label", {"A>B": "a", "B>A": "b"}),
            subset=text_of(row, "source") if "source" in row else subset_of(row),
        )
    ]


def _solution_pairs(row: Row, number: int) -> list[Pair]:
    """GSM8K model solutions: every right solution against every wrong one; none where all agree."""
    key, question, reference = row_id(row, number), text_of(row, "question"), text_of(row, "ground_truth")
    sides: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for model, found in row.items():
        if not isinstance(found, Mapping):
            continue
        right, solution = found.get("is_correct"), found.get("solution")
        if not isinstance(right, bool) or not isinstance(solution, str):
            raise DataError(f"'{model}' needs 'is_correct' (true or false) and 'solution' (text)")
        sides[right].append((model, solution))
    return [
        Pair(f"{key}/{a_model}>{b_model}", question, a, b, "a", f"{a_model}>{b_model}", reference)
        for (a_model, a), (b_model, b) in product(sides[True], sides[False])
        if a != b
    ]


PAIR_FORMATS = (
    Format("pair row", ("prompt", "a", "b"), _own_pair),
    Format("LLMBar row", ("input", "output_1", "output_2", "label"), _llmbar_pair),
    Format("PandaLM row", ("instruction", "input", "response1", "response2", "annotator1"), _pandalm_pair),
    Format("Auto-J row", ("prompt", "response 1", "response 2", "label"), _autoj_pair),
    Format("JudgeLM row", ("question_body", "answer1_body", "answer2_body"), _judgelm_pair),
    Format("MT-bench vote", ("conversation_a", "conversation_b", "winner"), _mtbench_pair),
    Format("JudgeBench row", ("question", "response_A", "response_B", "label"), _judgebench_pair),
    Format("row of model solutions", ("question", "ground_truth"), _solution_pairs),
    Format(
        "RewardBench 2 or RM-Bench row",
        ("prompt", "chosen", "rejected"),
        _many_pairs,
        lambda row: _is_texts(row["chosen"]),
    ),
    Format("preference row", ("chosen", "rejected"), _preference_pair),
)


def _one(item: Callable[[Row, int], Any]) -> Callable[[Row, int], list[Any]]:
    """A reader of rows that hold one item each."""
    return lambda row, number: [item(row, number)]


def _query(row: Row, number: int) -> Query:
    return Query(id=row_id(row, number), text=text_of(row, "text"), intent=text_of(row, "intent"))


def _question(row: Row, number: int) -> Question:
    sentence = (text_of(row, "sentence"),) if "sentence" in row else ()
    return Question(
        id=row_id(row, number),
        prompt=text_of(row, "prompt"),
        accepted=(text_of(row, "answer"), *sentence),
        subset=subset_of(row),
    )


QUERY_FORMATS = (Format("query row", ("text", "intent"), _one(_query)),)
QUESTION_FORMATS = (Format("question row", ("prompt", "answer"), _one(_question)),)

"""Readers of the row formats in which benchmarks and preference datasets publish pairs.

A row may contain several pairs: each right answer against each wrong one. Labels are optional; `Format.label`
names their field.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from smidgen.data.fields import (
    as_text,
    conversation,
    is_chat,
    is_finite,
    is_texts,
    label_of,
    prompt_of,
    reference_of,
    row_id,
    scores_of,
    shown,
    side_of,
    structured,
    subset_of,
    text_of,
    texts_of,
    turns_of,
)
from smidgen.data.items import Label, Pair, Scores
from smidgen.data.rows import Format, Row
from smidgen.errors import DataError


def _llmbar_pair(row: Row, number: int) -> list[Pair]:
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "input"),
            a=text_of(row, "output_1", empty=True),
            b=text_of(row, "output_2", empty=True),
            better=label_of(row, "label", {1: "a", 2: "b"}),
            subset=subset_of(row),
        )
    ]


def _preference_pair(row: Row, number: int) -> list[Pair]:
    """RewardBench, and TRL preference data: standard, conversational, or with an implicit prompt."""
    if is_chat(row["chosen"]) != is_chat(row["rejected"]):
        raise DataError("'chosen' and 'rejected' must both be text or both be lists of messages")
    if is_chat(row["chosen"]):
        prompt, a, b = _answers_of_chats(row)
    else:
        if "prompt" not in row:
            raise DataError("'prompt' is missing; only lists of messages may omit it")
        prompt = prompt_of(row)
        a, b = text_of(row, "chosen", empty=True), text_of(row, "rejected", empty=True)
    return [Pair(row_id(row, number), prompt, a, b, "a", subset_of(row), reference_of(row))]


def _answers_of_chats(row: Row) -> tuple[str, str, str]:
    """Split two conversations into prompt and answers; their shared prefix is the prompt."""
    chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
    shared = 0
    if "prompt" not in row:
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt = conversation(chosen[:shared], "chosen")
    else:
        chat = turns_of(row, "prompt") if is_chat(row["prompt"]) else [("user", text_of(row, "prompt"))]
        if chosen[: len(chat)] == rejected[: len(chat)] == chat:
            shared = len(chat)
        prompt = conversation(chat, "prompt")
    sides = [
        turns[0][1] if len(turns) == 1 else conversation(turns, name)
        for name, turns in (("chosen", chosen[shared:]), ("rejected", rejected[shared:]))
    ]
    return prompt, sides[0], sides[1]


def _many_pairs(row: Row, number: int) -> list[Pair]:
    """RewardBench 2 and RM-Bench: each chosen answer against each rejected one."""
    key, prompt = row_id(row, number), text_of(row, "prompt")
    chosen, rejected = texts_of(row, "chosen"), texts_of(row, "rejected")
    return [
        Pair(
            id=f"{key}/{i}-{j}",
            prompt=prompt,
            a=chosen[i],
            b=rejected[j],
            better="a",
            subset=subset_of(row),
            facts={"row": key, "chosen": i, "rejected": j},
            answer_ids=(f"{key}/{i}", f"{key}/{j}"),
        )
        for i, j in product(range(len(chosen)), range(len(rejected)))
    ]


def _judgelm_pair(row: Row, number: int) -> list[Pair]:
    """JudgeLM: labels from `score`, else the first line of `text`; likewise for the reference-based ones."""
    if row.get("text") == "error":
        return []
    scores = _judgelm_scores(row, "score", "text")
    beside = _judgelm_scores(row, "score_w_reference", "text_w_reference")
    return [
        Pair(
            id=row_id(row, number),
            prompt=text_of(row, "question_body"),
            a=text_of(row, "answer1_body", empty=True),
            b=text_of(row, "answer2_body", empty=True),
            better=_label_of(*scores) if scores else None,
            better_with_reference=_label_of(*beside) if beside else None,
            subset=subset_of(row),
            reference=reference_of(row),
            scores=scores,
            scores_with_reference=beside,
        )
    ]


def _judgelm_scores(row: Row, scores: str, text: str) -> Scores | None:
    """Return the scores of both answers; None if the row has none that are readable."""
    found = scores_of(row, scores)
    if found is None and row.get(text) is not None:
        found = _two_numbers(text_of(row, text, empty=True).partition("\n")[0].split())
    return found


def _two_numbers(words: Sequence[str]) -> Scores | None:
    try:
        first, second = map(float, words)
    except ValueError:
        return None
    return (first, second) if is_finite(first) and is_finite(second) else None


def _label_of(first: float, second: float) -> Label:
    if first == second:
        return "tie"
    return "a" if first > second else "b"


_PANDALM_ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def _majority(labels: Sequence[Label]) -> Label:
    """Return the label of most annotators; a tie if there is no majority."""
    for label in ("a", "b"):
        if 2 * labels.count(label) > len(labels):
            return label
    return "tie"


def _pandalm_pair(row: Row, number: int) -> list[Pair]:
    sides: dict[Any, Label] = {0: "tie", 1: "a", 2: "b"}
    annotators: tuple[Label, ...] = ()
    if any(row.get(name) is not None for name in _PANDALM_ANNOTATORS):
        annotators = tuple(side_of(row, name, sides) for name in _PANDALM_ANNOTATORS)
    parts = [text_of(row, name, empty=True) for name in ("instruction", "input")]
    if not any(part.strip() for part in parts):
        raise DataError("'instruction' and 'input' are both empty")
    return [
        Pair(
            id=row_id(row, number),
            prompt="\n\n".join(part for part in parts if part.strip()),
            a=text_of(row, "response1", empty=True),
            b=text_of(row, "response2", empty=True),
            better=_majority(annotators) if annotators else None,
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
            better=label_of(row, "label", {0: "a", 1: "b", 2: "tie"}),
            subset=text_of(row, "scenario") if "scenario" in row else subset_of(row),
        )
    ]


def _mtbench_pair(row: Row, number: int) -> list[Pair]:
    """MT-bench human votes: the conversations differ from the first answer on, so each is shown in full."""
    ties: dict[Any, Label] = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (inconsistent)": "tie"}
    for name in ("conversation_a", "conversation_b"):
        if not is_chat(structured(row, name)):
            raise DataError(f"'{name}' is {shown(row, name)}, expected a list of messages")
    turns = {side: turns_of(row, f"conversation_{side}") for side in ("a", "b")}
    asked = [[turn for turn in turns[side] if turn[0] == "user"] for side in ("a", "b")]
    if asked[0] != asked[1]:
        raise DataError("'conversation_a' and 'conversation_b' ask different questions")
    answers = {side: [text for role, text in turns[side] if role == "assistant"] for side in ("a", "b")}
    a, b = ("\n\n".join(_numbered(answers[side])) for side in ("a", "b"))
    prompt = "\n\n".join(_numbered([text for _, text in asked[0]]))
    if not prompt.strip():
        raise DataError("'conversation_a' contains no question")
    return [Pair(row_id(row, number), prompt, a, b, label_of(row, "winner", ties), subset_of(row))]


def _numbered(texts: Sequence[str]) -> list[str]:
    """Number the turns if there are several."""
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
            better=label_of(row, "label", {"A>B": "a", "B>A": "b"}),
            subset=text_of(row, "source") if "source" in row else subset_of(row),
        )
    ]


def _solution_pairs(row: Row, number: int) -> list[Pair]:
    """GSM8K model solutions: each right solution against each wrong one; none if all are right or wrong."""
    key, question, reference = row_id(row, number), text_of(row, "question"), text_of(row, "ground_truth")
    sides: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for model in row:
        found = structured(row, model)
        if not isinstance(found, Mapping):
            continue
        right, solution = found.get("is_correct"), as_text(found.get("solution"), row)
        if not isinstance(right, bool) or solution is None:
            raise DataError(f"'{model}' needs 'is_correct' (true or false) and 'solution' (text)")
        sides[right].append((model, solution))
    return [
        Pair(
            f"{key}/{a_model}>{b_model}",
            question,
            a,
            b,
            "a",
            f"{a_model}>{b_model}",
            reference,
            answer_ids=(f"{key}/{a_model}", f"{key}/{b_model}"),
        )
        for (a_model, a), (b_model, b) in product(sides[True], sides[False])
        if a != b
    ]


BENCHMARK_FORMATS = (
    Format("LLMBar row", ("input", "output_1", "output_2"), _llmbar_pair, label="label"),
    Format(
        "PandaLM row", ("instruction", "input", "response1", "response2"), _pandalm_pair, label="annotator1"
    ),
    Format("Auto-J row", ("prompt", "response 1", "response 2"), _autoj_pair, label="label"),
    Format("JudgeLM row", ("question_body", "answer1_body", "answer2_body"), _judgelm_pair, label="score"),
    Format("MT-bench vote", ("conversation_a", "conversation_b"), _mtbench_pair, label="winner"),
    Format("JudgeBench row", ("question", "response_A", "response_B"), _judgebench_pair, label="label"),
    Format("row of model solutions", ("question", "ground_truth"), _solution_pairs),
    Format(
        "RewardBench 2 or RM-Bench row",
        ("prompt", "chosen", "rejected"),
        _many_pairs,
        lambda row: is_texts(row["chosen"]),
    ),
    Format("preference row", ("chosen", "rejected"), _preference_pair),
)

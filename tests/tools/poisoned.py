"""Clean files of rows, and the same with each fault planted once: what the doctor has to find, and where."""

import json
import random
from pathlib import Path

Found = dict[str, tuple[str, ...]]
"""Rows by the kind of what is found in them."""

_RANDOM = random.Random(0)


def words(number: int) -> str:
    """Random words of five letters: no two texts are alike, and equally many words are equally long."""
    return " ".join("".join(_RANDOM.choices("bcdfghjklmnpqrstvwxyz", k=5)) for _ in range(number))


def write(path: Path, rows: list) -> Path:
    """Write rows as JSONL; a text is written as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def pair(name: str, **changes: object) -> dict:
    row = {"id": name, "prompt": words(12), "a": words(8), "b": words(8), "better": _RANDOM.choice("ab")}
    return {key: value for key, value in (row | changes).items() if value is not None}


def clean_pairs() -> list:
    return [pair(f"r{number}", better="ab"[number % 2]) for number in range(1, 41)]


def poisoned_pairs(clean: list) -> tuple[list, Found]:
    fourth, fifth, sixth = clean[3], clean[4], clean[5]
    flipped = {**sixth, "id": "flipped", "better": "ba"["ab".index(sixth["better"])]}
    nearly = " ".join([*fifth["prompt"].split()[:-1], "other"])
    planted = [
        '{"id": "cut", "prompt": "where the di',
        pair("lacking", b=None),
        pair("typed", a={"text": "an answer"}),
        pair("labelled", better="first"),
        pair("blank", prompt="  "),
        pair("r1"),
        pair("equal", a=(same := words(8)), b=same),
        pair("shouted", a=(loud := words(8)), b=loud.upper()),
        pair("lost", a=""),
        {**fourth, "id": "again", "prompt": fourth["prompt"].upper() + " "},
        {**fifth, "id": "nearly", "prompt": nearly},
        flipped,
        pair("mojibake", a="caf\u00c3\u00a9 " + words(7)),
        pair("control", b="<|im_end|> " + words(7)),
        pair("endless", prompt=words(500)),
        pair("misspelt", refrence="a right answer"),
        pair("extra", remark="seen"),
    ]
    return [*clean, *planted], {
        "unreadable line": ("line 41",),
        "missing field": ("line 42",),
        "wrong type": ("line 43",),
        "unknown label": ("line 44",),
        "empty field": ("line 45",),
        "repeated id": ("line 46",),
        "same answers": ("equal",),
        "alike answers": ("shouted",),
        "empty answer": ("lost",),
        "duplicate": ("again",),
        "near duplicate": ("nearly",),
        "two labels": ("flipped",),
        "damaged text": ("mojibake",),
        "control token": ("control",),
        "outlier": ("endless",),
        "misspelt column": (),
        "unread columns": (),
    }


def clean_completions() -> list:
    return [{"prompt": words(12), "completion": words(8)} for _ in range(40)]


def poisoned_completions(clean: list) -> tuple[list, Found]:
    copied = words(8)
    planted = [
        {"prompt": words(12), "completion": " "},
        {"prompt": "", "completion": words(8)},
        {"prompt": words(12), "completion": "TODO"},
        {"prompt": words(12), "completion": f"As an AI language model, {words(8)}"},
        {"prompt": words(12), "completion": words(8) + "\n"},
        {"prompt": f"{words(12)} {copied}", "completion": copied},
        {**clean[0], "completion": words(8)},
    ]
    return [*clean, *planted], {
        "nothing to learn": ("41",),
        "empty prompt": ("42",),
        "placeholder": ("43", "44"),
        "stray spaces": ("45",),
        "answer in prompt": ("46",),
        "two answers": ("47",),
    }


def chat(*turns: tuple[str, str]) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def clean_chats() -> list:
    user, assistant = ("user", "assistant")
    short = [chat((user, words(12)), (assistant, words(8))) for _ in range(5)]
    system = chat(
        ("system", words(4)), (user, words(9)), (assistant, words(5)), (user, words(9)), (assistant, words(5))
    )
    return [*short, system]


def poisoned_chats(clean: list) -> tuple[list, Found]:
    planted = [
        chat(("user", words(9)), ("user", words(9)), ("assistant", words(5))),
        chat(("user", words(9)), ("assistant", words(5)), ("user", words(9))),
        {"messages": "a chat"},
        {"messages": [{"role": "user"}]},
    ]
    return [*clean, *planted], {
        "turns": ("line 7",),
        "no answer": ("line 8",),
        "wrong type": ("line 9", "line 10"),
    }


LABELS = ("pay_bill", "book_table", "play_song", "set_alarm")


def query(number: int, **changes: object) -> dict:
    return {"id": f"q{number}", "text": words(14), "intent": LABELS[number % 4]} | changes


def clean_queries() -> tuple[list, list]:
    return [query(number) for number in range(40)], [query(number) for number in range(100, 120)]


def poisoned_queries(train: list, test: list) -> tuple[list, list, Found]:
    first, second, third, fourth = (row["text"] for row in train[:4])
    planted = [
        query(200, text=first.title()),
        query(201, text=f"{second} {words(1)}"),
        query(202, text=f"{words(6)} {third.removesuffix(third.split()[-1])}"),
        query(203, intent="sing_song"),
        query(207, text=fourth, intent="pay_bill"),
    ]
    odd = [query(300, intent="Pay Bill"), query(301, intent="once")]
    return (
        [*train, *odd],
        [*test, *planted],
        {
            "label spelling": ("q300",),
            "rare label": ("q301", "q300"),
            "leak": ("q200", "q207"),
            "near leak": ("q201",),
            "shared text": ("q202",),
            "unseen label": ("q203",),
            "other answer": ("q207",),
        },
    )

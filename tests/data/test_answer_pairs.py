"""Preference rows in TRL's forms, and other formats of pairs by their labels."""

from pathlib import Path

import pytest

from smidgen.data.answer_pairs import AnswerPair, answer_pairs
from smidgen.data.rows import read_rows
from smidgen.data.types import Message
from smidgen.errors import DataError

ASKED = (Message("user", "Why?"),)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("Because.", "No."))
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, ASKED),
        ({"prompt": CHAT, "chosen": "Because.", "rejected": "No."}, (Message("system", "Be brief."), *ASKED)),
        ({"prompt": CHAT[1:], "chosen": GOOD, "rejected": BAD}, ASKED),
        ({"prompt": "Why?", "chosen": CHAT[1:] + GOOD, "rejected": CHAT[1:] + BAD}, ASKED),
        ({"chosen": CHAT + GOOD, "rejected": CHAT + BAD}, (Message("system", "Be brief."), *ASKED)),
        ({"prompt": "Why?", "a": "No.", "b": "Because.", "better": "b"}, ASKED),
        ({"input": "Why?", "output_1": "Because.", "output_2": "No.", "label": 1}, ASKED),
    ],
)
def test_every_form_becomes_a_pair(row: dict, messages: tuple):
    assert answer_pairs([row]) == [AnswerPair("1", messages, "Because.", "No.")]


def test_a_row_of_several_answers_is_several_pairs_and_ties_are_none():
    many = {"id": "q", "prompt": "Why?", "chosen": ["a", "b"], "rejected": ["c"]}
    assert [(pair.id, pair.chosen, pair.rejected) for pair in answer_pairs([many])] == [
        ("q/0-0", "a", "c"),
        ("q/1-0", "b", "c"),
    ]
    tie, pair = ({"prompt": "Why?", "a": "x", "b": "y", "better": better} for better in ("tie", "a"))
    assert len(answer_pairs([tie, pair])) == 1
    with pytest.raises(DataError, match=r"file: none of 1 rows says which answer is better"):
        answer_pairs([tie], source="file")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen": "a", "rejected": "b"},
            r"'prompt' is missing; only conversations that begin alike may omit",
        ),
        ({"prompt": "x", "chosen": GOOD, "rejected": "b"}, r"must both be text or both be lists of messages"),
        (
            {"prompt": "x", "chosen": GOOD, "rejected": BAD + CHAT},
            r"'rejected' has assistant, system, user after the shared turns; expected one turn",
        ),
        ({"chosen": GOOD, "rejected": BAD}, r"'prompt' is missing"),
        ({"chosen": CHAT + GOOD, "rejected": BAD + BAD}, r"'rejected' has assistant, assistant after"),
        ({"prompt": "x", "chosen": "a", "rejected": " "}, r"'rejected' is \" \", expected text"),
        ({"prompt": "x", "a": "y", "b": "z"}, r"it has no label \('better'\)"),
    ],
)
def test_what_is_no_pair_is_said(row: dict, message: str):
    with pytest.raises(DataError, match=message):
        answer_pairs([row])
    assert len(answer_pairs([row, {"prompt": "x", "chosen": "a", "rejected": "b"}], rejected=[])) == 1


@pytest.mark.parametrize("name", ["pandalm_a.jsonl", "rmbench_chat_a.jsonl"])
def test_published_pairs_are_read(name: str):
    found = sorted(SHARED.rglob(name)) if SHARED.is_dir() else []
    if not found:
        pytest.skip("the data is not here")
    rows = read_rows(found[0])[:50]
    pairs = answer_pairs(rows)
    assert pairs and all(pair.chosen != pair.rejected for pair in pairs if name.startswith("rmbench"))

"""Lines of JSON as questions to a router."""

import json
from pathlib import Path

import pytest

from smidgen.data.memories import Candidate, IntentOffer
from smidgen.errors import DataError
from smidgen.router.lines import read_intents, read_lines
from smidgen.router.questions import ArbitrateQuestion, ClassifyQuestion, MemorizeQuestion


def read(*rows: object, **settings) -> list:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return list(read_lines(lines, **settings))


def test_questions_are_told_by_their_keys():
    found = read(
        {"id": "a", "text": "x", "decision": "SAVE"},
        {"id": 7, "fact": "y", "candidates": [{"id": "m1", "text": "z"}, {"id": 2, "text": ""}]},
        b"\n",
        {"text": "x", "intents": ["a", {"name": "b", "description": "c"}]},
        {"text": "x", "intents": {"a": "d"}},
        {"text": "x", "task": "classify"},
        intents=(IntentOffer("own"),),
    )
    assert [line.question for line in found] == [
        MemorizeQuestion("x"),
        ArbitrateQuestion("y", (Candidate("m1", "z"), Candidate("2", ""))),
        ClassifyQuestion("x", (IntentOffer("a"), IntentOffer("b", "c"))),
        ClassifyQuestion("x", (IntentOffer("a", "d"),)),
        ClassifyQuestion("x", (IntentOffer("own"),)),
    ]
    assert [line.number for line in found] == [1, 2, 4, 5, 6] and [line.id for line in found[:2]] == [
        "a",
        "7",
    ]


def test_made_up_ids_of_a_file_are_the_same_again_and_those_of_a_stream_are_not():
    rows = [{"text": "x"}, {"text": "x"}]
    ids = [[line.id for line in read(*rows, name=name)] for name in ("a", "a", "b", None, None)]
    assert ids[0] == ids[1] and len({name for found in ids for name in found}) == 8


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (b"{", r"line 1: it is not JSON .*; expected {\"text\": …}"),
        (b"\xff\xfe{}", "line 1: it is not JSON"),
        (b"[" * 100_000, "line 1: it is not JSON"),
        ([1], r"line 1: it is \[1\]; expected"),
        ({}, "line 1: it has no text; expected"),
        ({"text": 5}, "its text is 5; expected a text that is not empty"),
        ({"text": " "}, 'its text is " "; expected a text'),
        ({"text": "x", "id": True}, "its id is true; expected a text or a number"),
        ({"text": "x", "id": ""}, 'its id is ""; expected'),
        ({"text": "x", "task": "memorise"}, "there is no task \"memorise\".*Did you mean 'memorize'"),
        ({"text": "x", "task": ["y" * 99]}, "there is no task .*…; expected one of"),
        ({"fact": "x"}, "its candidates are null; expected a list"),
        ({"fact": "x", "candidates": ["y"]}, 'a candidate is "y"; expected an object'),
        ({"fact": "x", "candidates": [{"text": "y"}]}, "the id of a candidate is null; expected"),
        ({"task": "arbitrate", "text": "x"}, "it has no fact"),
        ({"text": "x", "task": "classify"}, "it has no intents; give some"),
        ({"text": "x", "intents": 5}, "the intents are 5; expected a list"),
        ({"text": "x", "intents": [5]}, "an intent is 5; expected a name"),
        ({"text": "x", "intents": [{"name": "a", "description": 1}]}, "an intent is .*; expected a name"),
    ],
)
def test_bad_lines_have_a_fault_and_others_go_on(row, fault):
    bad, good = read(row, {"text": "x"})
    assert bad.question is None and good.question == MemorizeQuestion("x")
    with pytest.raises(DataError, match=fault):
        raise DataError(bad.fault)


def test_a_bad_line_keeps_its_id():
    assert [line.id for line in read({"id": "mine", "text": ""})] == ["mine"]


def test_intents_in_a_file(tmp_path: Path):
    file = tmp_path / "intents.json"
    file.write_text('{"weather": "a forecast", "food": ""}', encoding="utf-8")
    assert read_intents(file) == (IntentOffer("weather", "a forecast"), IntentOffer("food"))
    file.write_text('"weather"', encoding="utf-8")
    with pytest.raises(DataError, match=r'intents\.json: the intents are "weather"; expected a list'):
        read_intents(file)

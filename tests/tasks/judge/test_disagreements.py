"""The pairs on which the two orders of a judge disagree."""

from typing import Any

from smidgen.data.formats import Pair
from smidgen.data.types import Completion, Record
from smidgen.tasks.judge import JudgeTask, disagreements
from smidgen.tasks.judge.disagreements import find_disagreements
from smidgen.tasks.judge.judgements import read_judgements
from smidgen.tasks.templates import FORMS

FORM = FORMS["verdict"]()
TASK = JudgeTask(FORM)
SAID = {
    "agrees": ("[[A]]", "[[B]]"),
    "first": ("[[A]]", "[[A]]"),
    "second": ("[[B]]", "[[B]]"),
    "tie": ("[[C]]", "[[B]]"),
    "ties": ("[[C]]", "[[C]]"),
    "unreadable": ("[[A]]", "what?"),
}
ROWS = [
    {"id": name, "prompt": f"q {name}", "a": "x", "b": "y", "better": "a", "subset": "s"} for name in SAID
]


def records() -> list[Record]:
    found = []
    for sample in TASK.samples(ROWS):
        completion = Completion(SAID[sample.metadata["pair"]][sample.metadata["order"] == "ba"])
        found.append(Record(sample, completion, TASK.score(sample, completion)))
    return found


PAIRS = {row["id"]: Pair(row["id"], row["prompt"], "x", "y", "a", "s") for row in ROWS}


def found_in(records: list[Record]) -> dict[str, Any]:
    return find_disagreements(records, read_judgements(records, FORM), PAIRS)


def test_every_kind_of_contradiction_is_found():
    found = found_in(records())
    assert (found["total"], found["pairs"]) == (4, 6)
    assert found["kinds"] == {"first": 1, "second": 1, "tie": 1, "unreadable": 1}
    assert {row["id"]: row["kind"] for row in found["rows"]} == {
        kind: kind for kind in ("first", "second", "tie", "unreadable")
    }
    assert found["rows"][2] == {
        "id": "tie",
        "subset": "s",
        "kind": "tie",
        "prompt": "q tie",
        "a": "x",
        "b": "y",
        "better": "a",
        "said": {"ab": "tie", "ba": "a"},
        "texts": {"ab": "[[C]]", "ba": "[[B]]"},
    }


def test_a_page_keeps_only_so_many(monkeypatch):
    monkeypatch.setattr(disagreements, "SHOWN", 2)
    found = found_in(records())
    assert found["total"] == 4 and len(found["rows"]) == 2


def test_a_pair_that_was_asked_once_does_not_disagree():
    assert found_in(records()[2:3])["total"] == 0

import json
from pathlib import Path

import pytest

from smidgen.data.memories import Candidate, Decision, IntentOffer
from smidgen.data.memory_rows import arbitration_row, arbitrations, classifications, memories
from smidgen.data.rows import read_rows
from smidgen.errors import DataError

SHARED = Path(__file__).parents[3] / "shared/data/memory"
STORED = [{"id": "m1", "text": "x lives in Graz"}, {"id": "m2", "text": "y"}]
UPDATE = {"fact": "x moved", "candidates": STORED, "decision": "UPDATE", "target": "m1", "kind": "correction"}
PAWS = {
    "id": "4",
    "sentence1_en": "a b",
    "sentence2_en": "b a",
    "label_en": 1,
    "sentence1_zh": "甲乙",
    "sentence2_zh": "乙甲",
    "label_zh": 0,
}


def letta(**changes: object) -> dict:
    extra = {"facts": ["f1", "f2", "f3"], "contradicting_fact": '"not f2"', "supporting_fact_indices": [1]}
    return {"index": 7, "input": "q", "agent_args": {"extra": extra | changes}}


def test_texts_with_decisions_are_read() -> None:
    (saved, skipped) = memories(
        [
            {"id": "a", "text": "t", "decision": "SAVE", "category": "fact", "language": "de"},
            {"id": "b", "text": "u", "decision": "SKIP", "kind": "log"},
        ]
    )
    assert saved.decision == Decision("SAVE", category="fact") and saved.language == "de"
    assert skipped.decision == Decision("SKIP") and skipped.kind == "log"


def test_facts_with_candidates_are_read_and_written_again() -> None:
    (item,) = arbitrations([{**UPDATE, "id": "a", "language": "en"}])
    assert item.candidates[0] == Candidate("m1", "x lives in Graz") and item.group == "a"
    assert item.decision == Decision("UPDATE", target="m1", kind="correction")
    assert arbitrations([arbitration_row(item)]) == [item]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "t", "decision": "KEEP"}, "'decision' is \"KEEP\", expected one of SAVE, SKIP"),
        ({"text": "t", "decision": "SAVE"}, "'category' is missing, expected a category"),
        ({"text": "t", "decision": "SAVE", "category": "idea"}, "expected one of fact, preference"),
        ({"text": "t", "decision": "SKIP", "category": "fact"}, "expected none, since nothing is saved"),
        ({"text": " ", "decision": "SKIP"}, "'text' is \" \", expected text"),
    ],
)
def test_contradictory_texts_are_refused(row: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        memories([row])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"target": "m3"}, "'target' is \"m3\", expected one of m1, m2"),
        ({"target": None}, "'target' is null, expected the id of a candidate"),
        ({"decision": "ADD", "kind": "new"}, "expected none, since no candidate is concerned"),
        ({"kind": "new"}, "'kind' is \"new\", expected one of correction, relational, expiry, mixed"),
        ({"decision": "KEEP"}, "expected one of ADD, UPDATE, DELETE, NONE"),
        ({"candidates": []}, "expected a list of stored facts with 'id' and 'text' each"),
        ({"candidates": ["x"]}, "expected a list of stored facts"),
        ({"candidates": [STORED[0], STORED[0]]}, "expected different ids"),
        ({"candidates": [{"id": "m1"}]}, "'text' is missing, expected text"),
    ],
)
def test_contradictory_facts_are_refused(changes: dict, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        arbitrations([UPDATE | changes])


def test_a_paraphrase_is_stored_already_and_other_sentences_are_new() -> None:
    same, other = arbitrations([PAWS])
    assert (same.id, same.fact, same.candidates[0].text) == ("4/en-en", "b a", "a b")
    assert same.decision == Decision("NONE", target="1", kind="paraphrase") and same.language == "en"
    assert other.id == "4/en-zh" and other.fact == "乙甲" and other.candidates[0].text == "a b"
    assert other.decision == Decision("ADD", kind="new") and other.language == "mixed"
    assert same.group == other.group
    with pytest.raises(DataError, match="'label_en' is 3, expected 0 or 1"):
        arbitrations([PAWS | {"label_en": 3}])


def test_a_fact_update_replaces_one_of_the_facts() -> None:
    (item,) = arbitrations([letta()])
    assert item.fact == "not f2" and [each.text for each in item.candidates] == ["f1", "f2", "f3"]
    assert item.decision == Decision("UPDATE", target="2", kind="correction") and item.id == "7"
    assert arbitrations([letta(supporting_fact_indices=[0, 1]), letta()]) == [item]
    with pytest.raises(
        DataError, match="'supporting_fact_indices' is \\[3\\], expected positions of the 3 facts"
    ):
        arbitrations([letta(supporting_fact_indices=[3])])
    with pytest.raises(DataError, match="'extra' is missing, expected an object"):
        arbitrations([{"agent_args": {"note": "supporting_fact_indices"}}])


def test_intents_are_read_with_and_without_descriptions() -> None:
    described = {"text": "t", "intents": [{"name": "a", "description": "d"}, {"name": "b"}], "intent": "a"}
    assert classifications([described])[0].intents == (IntentOffer("a", "d"), IntentOffer("b"))
    assert classifications([{"text": "t", "intents": ["a"], "intent": "oos"}])[0].intents == (
        IntentOffer("a"),
    )
    assert classifications([{"text": "t", "intent": "a"}])[0].intents == ()
    with pytest.raises(DataError, match="'intents' is 3, expected a list of intents with 'name' and"):
        classifications([{"text": "t", "intents": 3, "intent": "a"}])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_the_published_files_are_read() -> None:
    pairs = arbitrations(read_rows(SHARED / "pawsx_dev_en_zh.jsonl"))
    assert len(pairs) == 2 * 1983 and len({each.group for each in pairs}) == 1983
    updates = arbitrations(read_rows(SHARED / "letta_core_memory_update_a.jsonl"))
    assert len(updates) == 542 and len({each.group for each in updates}) == 100
    queries = classifications(read_rows(SHARED / "clinc150_train_val.jsonl"))
    assert len(queries) == 18200


def test_a_table_may_hold_candidates_as_json(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    cell = json.dumps(STORED).replace('"', '""')
    path.write_text(f'fact,candidates,decision,target,kind\nx moved,"{cell}",UPDATE,m1,correction\n')
    assert arbitrations(read_rows(path))[0].candidates[1].text == "y"

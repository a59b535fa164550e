"""Memories are stored as decided, once, and every change can be undone."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.memories import Candidate, Decision
from smidgen.errors import DataError, UserError, WorkError
from smidgen.memory import Applied, Kind, Store, reading, tables, verify
from smidgen.memory.journal import journal_path
from smidgen.memory.terms import storable

ADD = Decision("ADD", kind="new")
SAVE = Decision("SAVE", "fact")


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "memory.db") as opened:
        yield opened


def decide(store: Store, input_id: str, text: str, *decisions: Decision, offered=None) -> Applied:
    store.received(input_id, text)
    candidates = store.candidates(text) if offered is None else offered
    return store.apply(input_id, decisions, candidates=candidates, model="rules", version="1")


def texts(store: Store) -> dict[str, str]:
    return {memory.id: memory.text for memory in store.memories()}


def test_the_decision_on_an_input(store: Store):
    assert store.decided("a") is None
    store.received("a", "My sister lives in Graz.")
    assert store.decided("a") is None
    applied = store.apply("a", (SAVE, ADD), model="rules", version="1")
    entry = store.decided("a")
    assert entry is not None and (entry.number, entry.input) == (applied.entry, "a")


def test_a_fact_is_added_updated_and_deleted(store: Store):
    added = decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    assert added.state == "applied" and added.memory is not None
    (memory,) = store.memories()
    assert (memory.id, memory.text, memory.category) == (added.memory, "My sister lives in Graz.", "fact")
    decide(store, "b", "My sister lives in Wien.", Decision("UPDATE", target=memory.id, kind="correction"))
    (changed,) = store.memories()
    assert (changed.text, changed.category, changed.created) == (
        "My sister lives in Wien.",
        "fact",
        memory.created,
    )
    none = decide(
        store, "c", "She lives in Wien.", SAVE, Decision("NONE", target=memory.id, kind="paraphrase")
    )
    assert none.memory == memory.id and len(store.memories()) == 1
    assert decide(store, "d", "Good morning!", Decision("SKIP")).memory is None
    decide(store, "e", "My sister has no flat any more.", Decision("DELETE", target=memory.id, kind="expiry"))
    assert store.memories() == [] and store.pending() == []


def test_the_journal_says_what_was_asked_and_answered(store: Store):
    decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    applied = decide(store, "b", "Sister: Graz", SAVE, Decision("UPDATE", "lesson", "m3", "paraphrase"))
    body = store.entry(applied.entry).body
    assert body["candidates"] == [{"id": "m3", "text": "My sister lives in Graz."}]
    assert [found["action"] for found in body["decisions"]] == ["SAVE", "UPDATE"]
    assert (body["model"], body["version"]) == ("rules", "1")
    (change,) = body["changes"]
    assert (
        change["before"]["text"] == "My sister lives in Graz." and change["after"]["text"] == "Sister: Graz"
    )


def test_an_input_is_decided_once(store: Store):
    first = decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    again = decide(store, "a", "My sister lives in Graz.", Decision("SKIP"))
    assert again == Applied("already", first.entry, first.memory) and len(texts(store)) == 1


def test_an_input_is_received_once(store: Store):
    assert store.received("a", "one") and not store.received("a", "one")
    with pytest.raises(
        DataError, match=r"input 'a' was received before with another text; give every input an"
    ):
        store.received("a", "two")
    assert [found.text for found in store.pending()] == ["one"]


@pytest.mark.parametrize("input_id", ["", "x" * 201, "a\0", "a\nb", "\ud800"])
def test_an_id_must_be_printable(store: Store, input_id: str):
    with pytest.raises(DataError, match=r"the id of an input is .*; expected 1 to 200 printable characters"):
        store.received(input_id, "text")


@pytest.mark.parametrize(
    ("decisions", "sentence"),
    [
        ((), "the decisions are none; expected SKIP, or one of ADD, UPDATE, DELETE, NONE"),
        ((SAVE,), "the decisions are SAVE; expected SKIP"),
        ((Decision("SKIP"), ADD), "the decisions are SKIP, ADD; expected"),
        ((ADD, ADD), "the decisions are ADD, ADD; expected"),
        ((Decision("book_flight"),), "the decisions are book_flight; expected"),
        ((Decision("SAVE", "gossip"), ADD), "the category is 'gossip'; expected one of fact, preference"),
        ((Decision("UPDATE"),), r"UPDATE names no memory; expected one that was offered \(m3\)"),
        (
            (Decision("DELETE", target="m99"),),
            "DELETE names the memory m99, which was not offered; offered: m3",
        ),
        ((Decision("ADD", target="m3"),), "ADD names the memory m3; only the other actions are about one"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(store: Store, decisions: tuple, sentence: str):
    decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    before = store.entries()
    store.received("b", "Sister")
    with pytest.raises(DataError, match=sentence):
        store.apply("b", decisions, candidates=store.candidates("Sister"), model="m", version="1")
    assert store.entries()[: len(before)] == before and [found.id for found in store.pending()] == ["b"]


def test_nothing_offered_is_no_duplicate(store: Store):
    with pytest.raises(DataError, match=r"NONE names no memory; expected one that was offered \(no memory\)"):
        decide(store, "a", "Sister", Decision("NONE"))


def test_what_was_never_received_is_not_decided(store: Store):
    with pytest.raises(DataError, match="input 'a' was not received; journal it before a model is asked"):
        store.apply("a", [ADD], model="m", version="1")
    with pytest.raises(DataError, match="input 'a' was not received; only a pending one is deferred"):
        store.defer("a", "timeout")
    decide(store, "b", "text", Decision("SKIP"))
    with pytest.raises(DataError, match="input 'b' was decided in entry 3; only a pending one is deferred"):
        store.defer("b", "timeout")


def test_a_deferred_input_stays_pending_with_its_reason(store: Store):
    store.received("a", "one")
    store.received("b", "two")
    store.defer("a", "no decision in 500 ms")
    first, second = store.pending()
    assert (first.id, first.attempts, first.reason) == ("a", 1, "no decision in 500 ms")
    assert (second.id, second.attempts, second.reason) == ("b", 0, "")
    decide(store, "a", "one", SAVE, ADD)
    assert [found.id for found in store.pending()] == ["b"]


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (Decision("UPDATE", target="m3"), "memory m3 was changed meanwhile"),
        (Decision("DELETE", target="m3"), "memory m3 was deleted meanwhile"),
    ],
)
@pytest.mark.parametrize("action", ["UPDATE", "DELETE", "NONE"])
def test_a_decision_on_what_has_changed_is_asked_again(
    store: Store, meanwhile: Decision, reason: str, action: str
):
    decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    read = store.candidates("sister")
    decide(store, "b", "My sister lives in Wien.", meanwhile)
    before = texts(store)
    applied = decide(store, "c", "My sister lives in Linz.", Decision(action, target="m3"), offered=read)
    assert (applied.state, applied.reason) == ("stale", reason) and texts(store) == before
    (pending,) = store.pending()
    assert (pending.id, pending.attempts, pending.reason) == ("c", 1, reason)
    assert decide(store, "c", "My sister lives in Linz.", ADD).state == "applied"


def test_the_same_text_is_not_added_by_two(store: Store):
    text = "My sister lives in Graz."
    read = store.candidates(text)
    decide(store, "a", text, SAVE, ADD)
    assert decide(store, "b", text, SAVE, ADD, offered=read).reason == "the same text was stored meanwhile"
    assert decide(store, "b", text, SAVE, ADD).state == "applied"  # the model saw it and wants it twice


def test_an_undo_is_undone(store: Store):
    added = decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    updated = decide(store, "b", "She lives in Wien.", Decision("UPDATE", target=added.memory))
    states = [texts(store)]
    undo = store.undo(updated.entry)
    states.append(texts(store))
    store.undo(undo.entry)
    assert (
        states == [{"m3": "She lives in Wien."}, {"m3": "My sister lives in Graz."}]
        and texts(store) == states[0]
    )
    assert store.pending() == []  # it stays decided
    gone = decide(store, "c", "She left.", Decision("DELETE", target="m3"))
    memory = store.undo(gone.entry).memory
    assert memory == "m3" and texts(store) == states[0]
    assert verify(store.path).faults == ()


def test_what_cannot_be_undone_is_refused(store: Store):
    added = decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
    later = decide(store, "b", "She lives in Wien.", Decision("UPDATE", target=added.memory))
    with pytest.raises(
        UserError, match=f"entry 3 cannot be undone, since entry {later.entry} changed memory m3"
    ):
        store.undo(added.entry)
    with pytest.raises(UserError, match="entry 2 is received and changed no memory; `smidgen memory list"):
        store.undo(2)
    with pytest.raises(UserError, match="entry 99 does not exist"):
        store.undo(99)


@pytest.mark.parametrize("statement", ["UPDATE entry SET body = '{}'", "DELETE FROM entry"])
def test_the_journal_is_append_only(store: Store, statement: str):
    decide(store, "a", "text", Decision("SKIP"))
    store.close()
    connection = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError, match="the journal is append-only"):
        connection.execute(statement)
    connection.close()


HOSTILE = [
    "",
    "\0",
    "a\0b",
    "\ud800 alone \udfff",
    '" OR NEAR(a b) AND NOT * ^ - : {x} ( ) + "" \'',
    "'; DROP TABLE memory; --",
    '{"decision":"DELETE","id":1}',
    "words:* NEAR/2 AND",
    "%_%",
    "x" * 100_000,
    "word " * 20_000,
    "我" * 100_000,
    "🙂👩‍👩‍👧 \u202e\u0301\u0301",
    "\ufffd",
]


def test_hostile_texts_are_stored_found_and_proved(store: Store):
    for number, text in enumerate(HOSTILE):
        store.search(text)
        decide(store, f"i{number}", text, SAVE, ADD)
    assert len(store.memories()) == len(HOSTILE)
    assert all(
        store.candidates(text, 1)[0].text == memory.text
        for text, memory in zip(HOSTILE, store.memories(), strict=True)
    )
    received = [entry.body["text"] for entry in store.entries() if entry.kind == "received"]
    assert received == HOSTILE  # as they came, also what the database cannot hold
    assert verify(store.path).faults == ()


histories = st.lists(
    st.tuples(
        st.sampled_from(["ADD", "UPDATE", "DELETE", "NONE", "SKIP", "defer", "undo"]),
        st.text(max_size=12) | st.sampled_from(["Graz", "Graz Wien", "我妹妹", "Versicherung"]),
        st.integers(0, 9),
    ),
    max_size=12,
)


@settings(max_examples=15)
@given(histories)
def test_any_history_adds_up(tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, int]]):
    path = tmp_path_factory.mktemp("store") / "memory.db"
    expected: dict[str, str] = {}
    changes: list[tuple[int, dict[str, str]]] = []
    with Store.open(path) as store:
        for number, (action, text, choice) in enumerate(history):
            if action == "undo":
                if changes:
                    entry, expected = changes.pop()
                    store.undo(entry)
                assert texts(store) == expected
                continue
            store.received(str(number), text)
            if action == "defer":
                store.defer(str(number), "no decision")
                continue
            offered = [Candidate(id, text) for id, text in expected.items()]
            target = offered[choice % len(offered)].id if offered and action not in ("ADD", "SKIP") else None
            action = action if target or action == "SKIP" else "ADD"
            decision = Decision(action, target=target)
            applied = store.apply(str(number), [decision], candidates=offered, model="m", version="1")
            after = dict(expected)
            if action in ("ADD", "UPDATE"):
                after[str(applied.memory)] = storable(text)
            elif action == "DELETE":
                after.pop(str(target))
            assert texts(store) == after
            if action not in ("NONE", "SKIP"):
                changes.append((applied.entry, expected))
            expected = after
    report = verify(path)
    assert report.faults == () and report.memories == len(expected)


def test_threads_decide_once(store: Store):
    store.received("a", "My sister lives in Graz.")
    found: list[Applied] = []

    def work() -> None:
        found.append(store.apply("a", [SAVE, ADD], model="m", version="1"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.state for one in found) == ["already"] * 7 + ["applied"] and len(texts(store)) == 1


def test_two_openings_are_one_store(tmp_path: Path):
    path = tmp_path / "deep" / "memory.db"
    with Store.open(path) as one, Store.open(path) as two:
        decide(one, "a", "My sister lives in Graz.", SAVE, ADD)
        assert decide(two, "a", "My sister lives in Graz.", SAVE, ADD).state == "already"
        assert texts(one) == texts(two)
    lines = journal_path(path).read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["created", "received", "decided"]


def test_candidates_are_those_of_one_moment(tmp_path: Path):
    path = tmp_path / "memory.db"
    with Store.open(path) as store, Store.open(path) as other:
        decide(store, "a", "My sister lives in Graz.", SAVE, ADD)
        offered = store.candidates("sister")

        def delete_meanwhile(statement: str) -> None:
            if statement.startswith("SELECT * FROM memory"):
                decide(other, "b", "She left.", Decision("DELETE", target="m3"), offered=offered)

        store._connection.set_trace_callback(delete_meanwhile)
        assert store.candidates("sister") == offered
        assert store.candidates("sister") == []


def test_a_store_that_another_holds_too_long_is_said_to_be(tmp_path: Path):
    with Store.open(tmp_path / "memory.db", timeout=0.05) as store:
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            WorkError, match="has been in use by another process for too long; try again later"
        ):
            store.received("a", "text")
        other.execute("ROLLBACK")
        other.close()
        assert store.received("a", "text")


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["add", "defer", "receive", "undo"]), max_size=9),
    limit=st.integers(1, 12),
    offset=st.integers(0, 12) | st.just(2**63 - 1),
)
def test_pages_are_parts_of_the_whole(
    actions: list[str], limit: int, offset: int, tmp_path_factory: pytest.TempPathFactory
):
    with Store.open(tmp_path_factory.mktemp("paged") / "memory.db") as store:
        for number, action in enumerate(actions):
            text = f"fact {number}"
            if action in ("add", "undo"):
                applied = decide(store, str(number), text, ADD, offered=[])
                if action == "undo":  # leaves a gap among the memories
                    store.undo(applied.entry)
            else:
                store.received(str(number), text)
                if action == "defer":
                    store.defer(str(number), "late")
        wholes: dict[Kind, list[Any]] = {
            "memories": store.memories(),
            "journal": store.entries(),
            "pending": store.pending(),
        }
        for what, whole in wholes.items():
            page = store.page(what, limit=limit, offset=offset)
            assert (page.total, page.found) == (len(whole), whole[offset : offset + limit])


def test_a_page_reads_no_more_than_it_shows(store: Store, monkeypatch: pytest.MonkeyPatch):
    for number in range(6):
        decide(store, str(number), f"fact {number}", ADD, offered=[])
    read = []

    def seen(row: sqlite3.Row):
        read.append(row["number"])
        return tables.entry_from(row)

    monkeypatch.setattr(reading, "entry_from", seen)
    assert store.page("journal", limit=2, offset=3).total == 13
    assert read == [4, 5]

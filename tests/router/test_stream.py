"""Lines through a router, and into a store."""

import json
import threading
from pathlib import Path

import pytest
from tests.router.scripted import SKIP

from smidgen.errors import WorkError
from smidgen.memory import Store, verify
from smidgen.router.lines import read_lines
from smidgen.router.stream import MOST_STALE, Routed, route

SAVE = '{"decision":"SAVE","category":"fact"}'
ADD = '{"decision":"ADD","kind":"new"}'
UPDATE = '{"decision":"UPDATE","kind":"correction"}'


def lines(*texts: str | dict, name: str | None = "file"):
    rows = [{"id": text, "text": text} if isinstance(text, str) else text for text in texts]
    return read_lines([json.dumps(row).encode() for row in rows], name=name)


def text_of(request) -> str:
    return request.sample.messages[-1].content


def state(routed: Routed) -> str | None:
    return routed.stored and routed.stored.state


def is_comparison(request) -> bool:
    return request.sample.id.startswith("arbitrate")


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "memory.db") as opened:
        yield opened


def texts(store: Store) -> set[str]:
    return {memory.text for memory in store.memories()}


def test_results_come_in_the_order_of_the_lines_or_as_they_come(make, engine):
    held = {"0": threading.Event()}

    def say(request):
        return None if text_of(request) in held and not held[text_of(request)].is_set() else SKIP

    engine.say = say
    router = make(budget=None)
    some = [str(i) for i in range(5)]
    found = []
    for routed in route(router, lines(*some), in_order=False):
        found.append(routed.line.id)
        if len(found) == 4:
            held["0"].set()
            engine.wake()
    assert found[-1] == "0" and sorted(found) == some
    assert [routed.line.id for routed in route(router, lines(*some))] == some


def test_bad_lines_and_all_tasks(make, engine):
    fact = {"id": "f", "fact": "x", "candidates": [{"id": "m17", "text": "y"}]}
    found = list(route(make(), lines("a", {"id": "bad"}, fact, {"id": "i", "text": "x", "intents": ["c"]})))
    assert [routed.status for routed in found] == ["decided", "bad", "decided", "decided"]
    told = [routed.to_json() for routed in found]
    assert told[0]["decisions"] == [{"action": "SKIP"}] and told[0]["task"] == "memorize"
    assert told[1] | {"reason": ""} == {
        "line": 2,
        "id": "bad",
        "status": "bad",
        "decisions": [],
        "reason": "",
    }
    assert told[2]["decisions"] == [{"action": "ADD", "kind": "new"}]
    assert told[3]["decisions"] == [{"action": "c"}] and told[3]["line"] == 4


def test_what_is_saved_is_compared_and_applied_in_order(make, engine, store):
    """Every text sees what the ones before it have changed."""
    engine.say = lambda request: (
        UPDATE if is_comparison(request) else SKIP if "chat" in text_of(request) else SAVE
    )
    found = list(
        route(make(), lines("Mia lives in Linz", "chat", "Mia lives in Graz", "Mia lives in Wien"), store)
    )
    actions = [[decision.action for decision in routed.decisions] for routed in found]
    assert actions == [["SAVE", "ADD"], ["SKIP"], ["SAVE", "UPDATE"], ["SAVE", "UPDATE"]]
    assert [state(routed) for routed in found] == ["applied"] * 4
    assert texts(store) == {"Mia lives in Wien"}
    assert found[2].to_json()["stored"]["memory"] == found[3].decisions[1].target
    assert sum(is_comparison(request) for request in engine.asked) == 2  # nothing to compare the first with


def test_what_is_decided_is_not_decided_again(make, engine, store):
    router = make()
    first = [routed.status for routed in route(router, lines("a", "b"), store)]
    engine.asked.clear()
    again = list(route(router, lines("a", "b", "c"), store))
    assert first == ["decided"] * 2 and [routed.status for routed in again] == ["known", "known", "decided"]
    assert [text_of(request) for request in engine.asked] == ["c"]
    assert again[0].to_json() == {"line": 1, "id": "a", "status": "known", "decisions": []}


def test_an_id_with_another_text_is_a_bad_line(make, store):
    router = make()
    rows = [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}]
    found = list(route(router, lines(*rows), store))
    assert [routed.status for routed in found] == ["decided", "bad"]
    assert found[1].line.fault.startswith("line 2: input 'a' was received before with another text")


def test_inputs_are_journaled_before_the_model_is_asked_and_taken_up_after_a_kill(make, engine, store):
    router, seen = make(), []

    def say(request):
        seen.append({pending.text for pending in store.pending()})
        return None if text_of(request) == "b" else SKIP

    engine.say = say
    stream = route(router, lines("a", "b", "c"), store, in_order=False)
    assert {next(stream).line.id, next(stream).line.id} == {"a", "c"}
    stream.close()  # as a kill would end it
    assert all("b" in pending or "a" in pending for pending in seen)
    assert [pending.id for pending in store.pending()] == ["b"]
    engine.say = lambda request: SKIP
    engine.wake()
    found = list(route(router, lines("b", "d"), store))
    assert [(routed.line.number, routed.line.id, routed.status) for routed in found] == [
        (0, "b", "decided"),
        (1, "b", "known"),
        (2, "d", "decided"),
    ]
    assert store.pending() == [] and not verify(store.path).faults


def test_deferred_texts_stay_pending_until_they_are_settled(make, engine, store):
    router, is_over = make(budget=0.05), False
    engine.say = lambda request: (
        None if "slow" in text_of(request) and not is_over else SAVE if not is_comparison(request) else ADD
    )
    found = []
    for routed in route(router, lines("slow one", "quick one"), store):
        found.append(routed)
        if len(found) == 2:
            (pending,) = store.pending()
            assert pending.id == "slow one" and pending.reason.startswith("no decision within the budget")
            is_over = True
            engine.wake()
    assert [(routed.line.id, routed.status, routed.is_again) for routed in found] == [
        ("slow one", "deferred", False),
        ("quick one", "decided", False),
        ("slow one", "decided", True),
    ]
    assert texts(store) == {"slow one", "quick one"} and store.pending() == []


def test_failed_texts_stay_pending(make, engine, store):
    engine.say = lambda request: "no JSON" if text_of(request) == "a" else SKIP
    found = list(route(make(), lines("a", "b"), store))
    assert [routed.status for routed in found] == ["failed", "decided"]
    assert [pending.id for pending in store.pending()] == ["a"]


def test_stale_decisions_are_made_again(make, engine, store):
    """The memory that a text is compared with is changed while the model thinks."""
    store.received("old", "Mia lives in Linz")
    router = make()
    engine.say = lambda request: SAVE if not is_comparison(request) else ADD
    list(route(router, (), store))
    changes = iter(["Mia lives in Wien", None])

    def say(request):
        if is_comparison(request) and (text := next(changes, None)):
            change(store, text)
        return UPDATE if is_comparison(request) else SAVE

    engine.say = say
    (found,) = route(router, lines("Mia lives in Graz"), store)
    assert state(found) == "applied" and texts(store) == {"Mia lives in Graz"}
    assert [entry.kind for entry in store.entries()].count("stale") == 1


def change(store: Store, text: str) -> None:
    """Replace the only memory, as another process would."""
    from smidgen.data.memories import Decision

    (candidate,) = store.candidates(text)
    store.received(text, text)
    decision = Decision("UPDATE", target=candidate.id, kind="correction")
    store.apply(text, [decision], candidates=[candidate], model="other", version="1")


def test_a_text_that_is_stale_every_time_stays_pending(make, engine, store):
    router = make()
    engine.say = lambda request: SAVE
    list(route(router, lines("Mia lives in Linz"), store))
    numbers = iter(range(99))

    def say(request):
        if is_comparison(request):
            change(store, f"Mia lives in {next(numbers)}")
        return UPDATE if is_comparison(request) else SAVE

    engine.say = say
    (found,) = route(router, lines("Mia lives in Graz"), store)
    assert state(found) == "stale" and next(numbers) == MOST_STALE
    assert [pending.id for pending in store.pending()] == ["Mia lives in Graz"]


def test_a_store_that_cannot_be_written_ends_the_run(make, engine, store, monkeypatch):
    def full(*_, **__):
        raise WorkError("the disk is full")

    monkeypatch.setattr(store, "received", full)
    with pytest.raises(WorkError, match="the disk is full"):
        list(route(make(), lines("a"), store))


def test_lines_are_read_only_as_far_ahead_as_needed(make, engine):
    read = []

    def endless():
        for line in lines(*map(str, range(1000))):
            read.append(line)
            yield line

    stream = route(make(), endless())
    first_ten = [next(stream) for _ in range(10)]
    assert [routed.line.id for routed in first_ten] == [str(i) for i in range(10)] and len(read) < 40
    stream.close()

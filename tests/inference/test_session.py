"""Requests that arrive while others are decoded, in the engine `mlx`."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, ModelError, SmidgenError, WorkError
from smidgen.inference import lane as lane_module
from smidgen.inference import offline
from smidgen.inference.constraints import GrammarGuide
from smidgen.inference.engine import Event, Session
from smidgen.inference.mlx import MlxEngine

TEXTS = ["judge: the better", "judge: the better answer is", "why", "judge: the second", "which " * 9]


def ask(name: str, text: str, **sampling) -> Request:
    return Request(Sample(name, (Message("user", text),)), Sampling(**({"max_tokens": 8} | sampling)))


def many(count: int, **sampling) -> list[Request]:
    return [
        ask(str(i), TEXTS[i % len(TEXTS)] + str(i), **({"max_tokens": 3 + i % 6} | sampling))
        for i in range(count)
    ]


def answers(engine: MlxEngine, requests: list[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def finish(session: Session) -> list[Event]:
    """Step until nothing is pending."""
    events = []
    while not session.is_idle:
        events += session.step()
    return events


def completions(events: list[Event]) -> dict[str, Completion]:
    return {event.request.sample.id: event.completion for event in events if event.completion is not None}


def assert_same(left: dict[str, Completion], right: dict[str, Completion]) -> None:
    assert left.keys() == right.keys()
    for name, completion in left.items():
        other = right[name]
        assert (completion.token_ids, completion.text) == (other.token_ids, other.text)
        assert completion.finish_reason == other.finish_reason
        assert completion.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.fixture(scope="module")
def engine(loaded) -> MlxEngine:
    return MlxEngine(loaded, batch_size=3)


@pytest.mark.slow
@given(steps=st.lists(st.integers(0, 4), max_size=12), gone=st.sets(st.integers(0, 11), max_size=4))
@settings(max_examples=25)
def test_arrivals_at_any_time_are_answered_as_all_at_once(engine, steps, gone):
    requests = many(12, temperature=0.7)
    expected = answers(engine, requests)
    session, events, tickets = engine.session(), [], {}
    for i, request in enumerate(requests):
        tickets[i] = session.submit(request, stream=i % 2 == 0)
        for _ in range(steps[i] if i < len(steps) else 0):
            events += session.step()
        for cancelled in gone & tickets.keys():
            session.cancel(tickets[cancelled])
            events = [event for event in events if event.ticket != tickets[cancelled]]
    events += finish(session)
    session.close()
    assert session.pending == 0
    assert_same(completions(events), {name: c for name, c in expected.items() if int(name) not in gone})
    for i in range(0, 12, 2):
        pieces = [event.piece for event in events if event.ticket == tickets[i]]
        assert i in gone or "".join(pieces) == expected[str(i)].text
    assert all(event.piece == "" for event in events if int(event.request.sample.id) % 2)


def test_a_request_joins_those_that_run(engine):
    session = engine.session()
    session.submit(ask("long", "why", max_tokens=30))
    before = [session.step() for _ in range(5)]
    session.submit(ask("short", "which", max_tokens=2))
    assert session.pending == 2 and not session.is_idle
    names = [event.request.sample.id for event in finish(session)]
    assert not any(before) and names == ["short", "long"]
    session.close()


def test_nothing_comes_of_a_cancelled_request(engine):
    session = engine.session()
    ticket = session.submit(ask("a", "why", max_tokens=30), stream=True)
    waits = [session.submit(request) for request in many(8)]
    session.step()
    for one in (ticket, waits[-1], 999):
        session.cancel(one)
    assert session.pending == 7
    assert sorted(completions(finish(session))) == [str(i) for i in range(7)]
    session.cancel(waits[0])  # is over
    assert session.step() == []
    session.close()


def test_a_bad_request_ends_itself_alone(engine):
    good = many(5)
    bad = [
        ask("range", "why", top_p=2.0),
        Request(Sample("empty", ())),
        replace(ask("adapter", "why"), adapter="/nowhere"),
        replace(ask("grammar", "why"), constraint=Constraint("json_schema", '{"uniqueItems": true}')),
        replace(ask("nothing", "why"), constraint=Constraint("regex", r"[<]think>")),
    ]
    session = engine.session()
    for pair in zip(good, bad, strict=True):
        for request in pair:
            session.submit(request)
    events = session.step() + finish(session)
    session.close()
    assert_same(completions(events), answers(engine, good))
    errors = {event.request.sample.id: event.error for event in events if event.error is not None}
    assert errors.keys() == {"range", "empty", "adapter", "grammar", "nothing"}
    assert all(isinstance(error, SmidgenError) for error in errors.values())
    with pytest.raises(ConfigError, match=r"top_p is 2\.0"):
        raise errors["range"]


@pytest.mark.parametrize("place", ["force", "allowed", "take"])
def test_a_constraint_that_fails_on_the_way_ends_its_row_alone(engine, monkeypatch, place):
    constrained = replace(ask("bad", "why"), constraint=Constraint("regex", "(?:[xyz]){6}"))
    whole, calls = getattr(GrammarGuide, place), []

    def failing(guide, *given):
        calls.append(given)
        if len(calls) > 2:
            raise ConfigError("it cannot be followed")
        return whole(guide, *given)

    expected = answers(engine, many(3))
    monkeypatch.setattr(GrammarGuide, place, failing)
    session = engine.session()
    for request in [constrained, *many(3)]:
        session.submit(request)
    events = finish(session)
    session.close()
    assert_same(completions(events), expected)
    (error,) = [event.error for event in events if event.error is not None]
    with pytest.raises(ConfigError, match="it cannot be followed"):
        raise error


def test_scores_that_are_no_numbers_end_their_row_alone(engine, monkeypatch):
    draw = lane_module.draw

    def damaged(logits, states, xp):
        tokens, logprobs = draw(logits, states, xp)
        return tokens, [
            float("nan") if s.sample_id == "bad" else p for p, s in zip(logprobs, states, strict=True)
        ]

    expected = answers(engine, many(3))
    monkeypatch.setattr(lane_module, "draw", damaged)
    session = engine.session()
    for request in [ask("bad", "why"), *many(3)]:
        session.submit(request)
    events = finish(session)
    session.close()
    assert_same(completions(events), expected)
    (error,) = [event.error for event in events if event.error is not None]
    with pytest.raises(ModelError, match=r"computes logits that are NaN; its weights, or the adapter's"):
        raise error


def test_closed_sessions_take_nothing(engine):
    session = engine.session()
    session.submit(ask("a", "why"))
    session.step()
    session.close()
    assert session.is_idle and session.step() == []
    with pytest.raises(WorkError, match="the session is closed and takes no more requests; open another"):
        session.submit(ask("a", "why"))


def test_other_threads_submit_and_cancel(engine):
    requests = many(24)
    session, events = engine.session(), []
    gone = []

    def work(share: list[Request]) -> None:
        tickets = [session.submit(request) for request in share]
        session.cancel(tickets[0])
        gone.append(share[0].sample.id)

    threads = [threading.Thread(target=work, args=(requests[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not session.is_idle:
        events += session.step()
    session.close()
    found, expected = completions(events), answers(engine, requests)
    assert {name for name in expected if name not in gone} <= found.keys()
    assert_same(found, {name: expected[name] for name in found})


def slow(monkeypatch, requests: list[Request], read: list[str]) -> Iterator[Request]:
    """A source that takes a second for each request, by the clock that is looked at."""
    now = [0.0]
    monkeypatch.setattr(offline.time, "perf_counter", lambda: now[0])

    def source() -> Iterator[Request]:
        for request in requests:
            now[0] += 1.0
            read.append(request.sample.id)
            yield request

    return source()


def test_a_slow_source_is_answered_as_it_comes(engine, monkeypatch):
    requests, read = many(5), []
    expected = answers(engine, requests)
    found = {}
    for request, completion in engine.complete(slow(monkeypatch, requests, read)):
        assert read[-1] == request.sample.id  # the next was not waited for
        found[request.sample.id] = completion
    assert {name: c.token_ids for name, c in found.items()} == {n: c.token_ids for n, c in expected.items()}


def test_a_list_is_read_ahead_whatever_the_clock_says(engine, monkeypatch):
    ran = []
    add = lane_module.Decoder.add
    monkeypatch.setattr(
        lane_module.Decoder, "add", lambda self, rows, last: ran.append(len(rows)) or add(self, rows, last)
    )
    now = iter(range(10**6))
    monkeypatch.setattr(offline.time, "perf_counter", lambda: next(now))
    assert len(list(engine.complete(many(6)))) == 6
    assert ran[0] == 3


def test_arrivals_use_the_prefix_cache(loaded, monkeypatch):
    engine = MlxEngine(loaded)
    ran: list[int] = []
    hidden = engine._decoders.base.hidden
    monkeypatch.setattr(
        engine._decoders.base,
        "hidden",
        lambda rows, at, caches: ran.append(sum(map(len, rows))) or hidden(rows, at, caches),
    )
    alike = [
        ask(str(i), "the first is better, says the second answer: " * 3 + "x" * (i + 1)) for i in range(4)
    ]
    session, brought = engine.session(), []
    session.submit(ask("runs", "other", max_tokens=64))
    session.step()
    for request in alike:
        session.submit(request)
        ran.clear()
        session.step()
        brought.append(sum(ran))
    expected = completions(finish(session))
    session.close()
    size = len(engine._builder.prompt(alike[0].sample))
    assert brought[0] > 0.6 * size  # what it shares with the template of the first is there
    assert all(tokens < 0.3 * size for tokens in brought[2:])
    assert_same(expected, answers(engine, [ask("runs", "other", max_tokens=64), *alike]))


def test_answers_do_not_depend_on_a_window_with_and_without_the_prefix(engine):
    alike = [ask(f"a{i}", "the first is better, says the second answer: " * 3 + str(i)) for i in range(5)]
    session = engine.session()
    for request in alike[:2]:
        session.submit(request)
    session.step()
    for request in [ask("other", "which"), *alike[2:]]:
        session.submit(request)
    found = completions(finish(session))
    session.close()
    assert_same(
        found, {n: c for r in [ask("other", "which"), *alike] for n, c in answers(engine, [r]).items()}
    )

"""Requests that arrive while a server answers others, and adapters that it knows by name."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.inference.test_http_engine import FakeServer, ask, engine_at

from smidgen.data.types import Request
from smidgen.errors import ConfigError, WorkError
from smidgen.inference import offline
from smidgen.inference.engine import Event, Session
from smidgen.inference.http_server import Patience


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def finish(session: Session) -> list[Event]:
    """Step until nothing is pending."""
    events = []
    while not session.is_idle:
        events += session.step()
    return events


def test_arrivals_are_answered_while_others_are_under_way(server):
    server.script = [30.0]
    session = engine_at(server, batch_size=3, patience=Patience()).session()
    assert session.step() == [] and session.room == 3
    stuck = session.submit(ask("stuck"))
    for text in ("a", "b"):
        session.submit(ask(text), stream=True)
        while not (events := session.step()):
            pass
        (event,) = events
        assert event.is_last and event.piece == event.completion.text == f"echo {text}"
    assert session.pending == 1 and session.step(timeout=0) == []
    session.cancel(stuck)
    assert session.is_idle
    session.submit(ask("c"))
    (event,) = finish(session)
    assert (event.piece, event.completion.text) == ("", "echo c")
    session.close()
    session.close()
    with pytest.raises(WorkError, match="the session is closed"):
        session.submit(ask())


def test_no_more_are_under_way_than_asked_for(server):
    server.delay = 0.02
    session = engine_at(server, batch_size=2).session()
    for i in range(8):
        session.submit(ask(str(i)))
    assert session.room == 0
    assert sorted(event.completion.text for event in finish(session)) == [f"echo {i}" for i in range(8)]
    assert server.most_together == 2
    session.close()


def test_a_bad_request_ends_itself_alone(server):
    server.script = [(400, {}, "no such thing")]
    session = engine_at(server, batch_size=1).session()
    for request in (ask("refused"), ask("setting", top_k=3), ask("good")):
        session.submit(request)
    found = {event.request.sample.id: event for event in finish(session)}
    session.close()
    assert found["good"].completion.text == "echo good"
    with pytest.raises(ConfigError, match="refuses a request with status 400: no such thing"):
        raise found["refused"].error
    with pytest.raises(ConfigError, match="OpenAI's protocol has no top_k"):
        raise found["setting"].error


def test_a_waiting_step_ends_when_its_request_is_cancelled(server):
    server.script = [30.0]
    session = engine_at(server, patience=Patience()).session()
    session.cancel(session.submit(ask("stuck")))
    assert finish(session) == [] and session.step() == []
    session.close()


def test_requests_are_sent_while_the_source_is_waited_for(server, monkeypatch):
    monkeypatch.setattr(offline, "SLOW", -1.0)  # whatever has to be waited for
    deadline = time.perf_counter() + 30

    def source() -> Iterator[Request]:
        yield ask("first")
        yield ask("second")
        while len(server.requests) < 2:
            assert time.perf_counter() < deadline
        yield ask("third")

    found = [completion.text for _, completion in engine_at(server).complete(source())]
    assert sorted(found) == ["echo first", "echo second", "echo third"]


def test_an_adapter_is_a_model_of_the_server(server):
    server.models = ["base", "judge-lora"]
    engine = engine_at(server, model_name="base")
    requests = [
        replace(ask("one"), adapter="judge-lora"),
        ask("two"),
        replace(ask("three"), adapter="judge-lora"),
    ]
    assert len(list(engine.complete(requests))) == 3
    assert {sent["messages"][0]["content"]: sent["model"] for sent in server.requests} == {
        "one": "judge-lora",
        "two": "base",
        "three": "judge-lora",
    }
    fault = r"lists no model 'judge-lor' .* it lists base, judge-lora\. Did you mean 'judge-lora'\? Load the"
    with pytest.raises(ConfigError, match=fault):
        list(engine.complete([replace(ask("one"), adapter="judge-lor")]))
    server.models.append("late")  # is listed anew
    assert len(list(engine.complete([replace(ask("four"), adapter="late")]))) == 1

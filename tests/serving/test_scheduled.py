"""The scheduler as an engine's session, and the stream of texts into a store."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.router.scripted import Scripted, first_choice

from smidgen import Router
from smidgen.data.types import Message, Request, Sample
from smidgen.errors import WorkError
from smidgen.inference import Event
from smidgen.memory import Store
from smidgen.serving.scheduled import PAUSE, ScheduledSession, ScheduledSessions
from smidgen.serving.scheduler import Scheduler
from smidgen.serving.stored_routes import StoredRoutes

REQUEST = Request(Sample("a", (Message("user", "Hello"),)))


@pytest.fixture
def script() -> Scripted:
    return Scripted(lambda request: "yes")


@pytest.fixture
def scheduler(script: Scripted) -> Iterator[Scheduler]:
    made = Scheduler(script.session(), places=1)
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, as a server's is."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    if not made.is_closed():
        made.call_soon_threadsafe(made.stop)
        thread.join()
        made.close()


@pytest.fixture
def session(scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> ScheduledSession:
    return ScheduledSessions(scheduler, "router", loop).session()


def events_of(session: ScheduledSession) -> list[Event]:
    """The events of a step that has some."""
    end = time.monotonic() + 10
    while not (events := session.step(timeout=0.05)):
        assert time.monotonic() < end
    return events


def wait_for(scheduler: Scheduler, *, running: int) -> None:
    end = time.monotonic() + 10
    while scheduler.running != running:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_requests_are_answered_and_those_that_fail_fail_alone(session: ScheduledSession, script: Scripted):
    assert session.step() == [] and session.room == 1
    ticket = session.submit(REQUEST)
    (event,) = events_of(session)
    assert event.ticket == ticket and event.completion is not None and event.completion.text == "yes"
    script.say = lambda request: ValueError("no memory")
    session.submit(REQUEST)
    (event,) = events_of(session)
    assert isinstance(event.error, ValueError) and "no memory" in str(event.error)
    assert session.is_idle


def test_what_is_cancelled_frees_its_place(session: ScheduledSession, scheduler: Scheduler, script: Scripted):
    script.say = lambda request: None
    first, second = session.submit(REQUEST), session.submit(REQUEST)
    wait_for(scheduler, running=1)
    session.cancel(first)
    script.say = lambda request: "yes"
    script.wake()
    (event,) = events_of(session)
    assert event.ticket == second
    session.cancel(second)  # which is finished
    script.say = lambda request: None
    session.submit(REQUEST)
    wait_for(scheduler, running=1)
    session.close()
    wait_for(scheduler, running=0)
    with pytest.raises(WorkError, match="the session is closed"):
        session.submit(REQUEST)


def test_a_full_queue_is_waited_for(loop: asyncio.AbstractEventLoop, script: Scripted):
    script.say = lambda request: None
    scheduler = Scheduler(script.session(), places=1, most_waiting=0)
    first, second = (ScheduledSessions(scheduler, name, loop).session() for name in "ab")
    first.submit(REQUEST)
    wait_for(scheduler, running=1)
    second.submit(REQUEST)
    assert second.step(timeout=3 * PAUSE) == []
    script.say = lambda request: "yes"
    script.wake()
    assert events_of(first)[0].completion and events_of(second)[0].completion
    scheduler.close()


def test_a_session_outlives_its_loop(session: ScheduledSession, loop: asyncio.AbstractEventLoop):
    stopped = threading.Event()
    loop.call_soon_threadsafe(lambda: (stopped.set(), loop.stop()))
    stopped.wait(10)
    while loop.is_running():
        time.sleep(0.002)
    loop.close()
    ticket = session.submit(REQUEST)
    session.cancel(ticket)
    session.close()


def test_routes_that_are_closed_take_no_text(
    scheduler: Scheduler, loop: asyncio.AbstractEventLoop, script: Scripted, tmp_path: Path
):
    script.say = first_choice
    sessions = ScheduledSessions(scheduler, "router", loop)
    with Store.open(tmp_path / "memory.db") as store, Router("scripted", sessions=sessions) as router:
        routes = StoredRoutes(router, store)
        assert routes.submit("a", "x").result(10).status == "decided"
        routes.close()
        with pytest.raises(WorkError, match="the server is stopping; send the text again"):
            routes.submit("b", "y")
    assert not script.closed  # the engine is the server's

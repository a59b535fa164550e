"""Turns, bounds, deadlines and cancellation, on a session whose every step a test decides."""

import asyncio
import queue
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smidgen.data.types import Completion, Message, Request, Sample, Timing
from smidgen.errors import ConfigError, WorkError
from smidgen.inference import Event
from smidgen.serving.faults import ApiError
from smidgen.serving.scheduler import Scheduler


class Scripted:
    """A session that does what `told` says, and nothing else."""

    def __init__(self):
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.started: list[str] = []
        self.cancelled: list[int] = []
        self.requests: list[Request] = []
        self.room = 100
        self.is_closed = False

    def submit(self, request: Request, *, stream: bool = False) -> int:
        self.started.append(request.sample.id)
        self.requests.append(request)
        return len(self.started) - 1

    def cancel(self, ticket: int) -> None:
        self.cancelled.append(ticket)
        self.told.put(None)

    def step(self, *, timeout: float | None = None) -> list[Event]:
        try:
            what = self.told.get(timeout=timeout)
        except queue.Empty:
            return []
        if isinstance(what, BaseException):
            raise what
        return [] if what is None else [what]

    def close(self) -> None:
        self.is_closed = True

    def finish(self, name: str, **facts: Any) -> None:
        """Finish a started request."""
        ticket = self.started.index(name)
        completion = Completion(f"answer {name}", timing=Timing(0.1, 0.2, 3, 2))
        self.told.put(Event(ticket, self.requests[ticket], **({"completion": completion} | facts)))


def ask(name: str) -> Request:
    return Request(Sample(name, (Message("user", "?"),)))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def run(test: Callable[[Scripted, Scheduler], Coroutine], **settings: Any) -> Scripted:
    """Run a test on a scheduler with one place."""
    session = Scripted()
    scheduler = Scheduler(session, **({"places": 1} | settings))  # type: ignore[arg-type]
    try:
        asyncio.run(test(session, scheduler))
    finally:
        scheduler.close()
    assert session.is_closed
    return session


def test_each_client_in_turn_gets_the_place_that_is_free():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        asked = [asyncio.create_task(scheduler.complete(ask(f"a{i}"), "a")) for i in range(50)]
        await until(lambda: scheduler.waiting == 49)
        asked += [asyncio.create_task(scheduler.complete(ask(name), name[0])) for name in ("b0", "b1", "c0")]
        await until(lambda: scheduler.waiting == 52)
        for done in range(6):
            await until(lambda done=done: len(session.started) == done + 1)
            session.finish(session.started[-1])
        await until(lambda: len(session.started) == 7)
        assert session.started == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
        assert (await asked[50]).text == "answer b0"
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert (scheduler.waiting, scheduler.running) == (0, 0)

    run(test)


def test_a_full_queue_refuses_and_takes_requests_of_a_kind_all_or_none():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        with filled(scheduler, 3):
            with pytest.raises(ApiError, match="2 requests are waiting already; ask again") as refused:
                scheduler.enter([ask("x")], "b")
            assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
        assert scheduler.waiting == 0
        with pytest.raises(ApiError, match="asks for 4 answers, more than the 3 that this") as refused:
            scheduler.enter([ask(str(i)) for i in range(4)], "b")
        assert refused.value.status == 400  # whoever tries again as 429 says would do so for ever
        assert (scheduler.waiting, scheduler.running) == (0, 0)
        async with scheduler.enter([ask(str(i)) for i in range(3)], "b"):
            assert (scheduler.waiting, scheduler.running) == (2, 1)

    run(test, most_waiting=2)


@contextmanager
def filled(scheduler: Scheduler, number: int) -> Iterator[None]:
    """A scheduler with a number of requests of one client."""
    answers = scheduler.enter([ask(f"filler {i}") for i in range(number)], "a")
    yield
    answers.cancel()


def test_no_more_is_submitted_than_the_session_has_room_for():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        session.room = 0
        async with scheduler.enter([ask("first")], "a") as answers:
            session.finish("first", completion=None, piece="so far")
            assert (await answers.next())[1].piece == "so far"  # type: ignore[index]
            async with scheduler.enter([ask("second")], "b"):
                await asyncio.sleep(0.01)
                assert session.started == ["first"] and scheduler.waiting == 1
                session.room = 1
                session.finish("first")
                await until(lambda: session.started == ["first", "second"])

    run(test, places=4)


def test_room_that_comes_without_an_event_is_used():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        session.room = 0
        async with scheduler.enter([ask("first")], "a") as answers:
            session.finish("first", completion=None, piece="so far")
            await answers.next()
            async with scheduler.enter([ask("second")], "b"):
                assert scheduler.waiting == 1
                session.room = 1  # the first one still runs, and says nothing
                await until(lambda: session.started == ["first", "second"])

    run(test, places=4)


def test_a_deadline_frees_the_place_and_says_whether_the_request_had_begun():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        running = asyncio.create_task(scheduler.complete(ask("runs"), "a", 0.15))
        waiting = asyncio.create_task(scheduler.complete(ask("waits"), "a", 0.05))
        with pytest.raises(ApiError, match=r"no place was free within 0\.05 s; ask again later") as late:
            await waiting
        assert late.value.status == 503 and late.value.headers
        with pytest.raises(ApiError, match=r"the answer was not complete after 0\.15 s") as late:
            await running
        assert (late.value.status, late.value.code) == (504, "deadline_exceeded")
        assert session.cancelled == [0] and (scheduler.waiting, scheduler.running) == (0, 0)

    run(test)


def test_a_cancelled_request_makes_room_wherever_it_was():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        asked = [asyncio.create_task(scheduler.complete(ask(str(i)), "a")) for i in range(3)]
        await until(lambda: scheduler.waiting == 2)
        asked[1].cancel()
        await until(lambda: scheduler.waiting == 1)
        asked[0].cancel()
        await until(lambda: session.started == ["0", "2"])
        session.finish("0")  # what still comes of it is dropped
        session.finish("2")
        assert (await asked[2]).text == "answer 2" and session.cancelled == [0]

    run(test)


def test_faults_of_requests_and_of_the_engine_end_those_they_concern():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        bad, failed = (asyncio.create_task(scheduler.complete(ask(name), "a")) for name in ("bad", "failed"))
        others = [asyncio.create_task(scheduler.complete(ask(name), "a")) for name in ("x", "y", "long")]
        await until(lambda: scheduler.running == 3)
        session.finish("bad", completion=None, error=ConfigError("temperature is -1"))
        with pytest.raises(ApiError, match="temperature is -1") as fault:
            await bad
        assert fault.value.status == 400
        session.finish("failed", completion=None, error=WorkError("the disk is full"))
        with pytest.raises(
            ApiError, match="the engine failed on this request; the server's log says where"
        ) as fault:
            await failed
        assert (fault.value.status, fault.value.type) == (500, "server_error")
        await until(lambda: len(session.started) == 5)
        session.told.put(RuntimeError("no memory"))
        for each in others:
            with pytest.raises(ApiError, match="the engine failed on this request"):
                await each
        later = asyncio.create_task(scheduler.complete(ask("later"), "a"))
        await until(lambda: "later" in session.started)
        session.finish("later")
        assert (await later).text == "answer later"

    run(test, places=3)


def test_a_prompt_without_room_for_an_answer_is_refused():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        asked = asyncio.create_task(scheduler.complete(ask("long"), "a"))
        await until(lambda: scheduler.running == 1)
        session.finish("long", completion=Completion("", finish_reason="context"))
        with pytest.raises(ApiError, match="leaves no room for an answer") as fault:
            await asked
        assert (fault.value.status, fault.value.code) == (400, "context_length_exceeded")

    run(test)


def test_draining_finishes_what_came_before_and_closing_gives_up_the_rest():
    async def test(session: Scripted, scheduler: Scheduler) -> None:
        asked = [asyncio.create_task(scheduler.complete(ask(str(i)), "a")) for i in range(3)]
        await until(lambda: scheduler.waiting == 2)
        scheduler.drain()
        with pytest.raises(ApiError, match="the server is stopping; ask again once it runs") as refused:
            scheduler.enter([ask("late")], "a")
        assert refused.value.status == 503
        session.finish("0")
        assert (await asked[0]).text == "answer 0"
        await asyncio.to_thread(scheduler.close)
        for each in asked[1:]:
            with pytest.raises(ApiError, match="the server is stopping"):
                await each

    run(test)


def test_figures_of_requests_are_reported():
    seen: dict[str, list[float]] = {}

    async def test(session: Scripted, scheduler: Scheduler) -> None:
        async def pieces() -> list[Event]:
            return [event async for event in scheduler.stream(ask("one"), "a")]

        asked = asyncio.create_task(pieces())
        await until(lambda: scheduler.running == 1)
        session.finish("one", completion=None, piece="ans")
        session.finish("one", piece="wer one")
        assert [event.piece for event in await asked] == ["ans", "wer one"]
        await until(lambda: "completion_tokens" in seen)

    run(test, observe=lambda name, value: seen.setdefault(name, []).append(value))
    assert seen["prompt_tokens"] == [3] and seen["completion_tokens"] == [2]
    assert seen["first_token_seconds"] == [0.1]
    assert 0 <= seen["queue_seconds"][0] <= seen["seconds"][0] < 5

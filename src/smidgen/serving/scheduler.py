"""Requests of many clients on one session: a bounded queue, fair between clients, with deadlines.

One thread steps the session. Coroutines enter requests and receive their events. No more requests are
submitted than the engine decodes together, so that the next free place always goes to the client whose turn
it is (round robin), however many requests another client has entered before.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress

from smidgen.backend import mx
from smidgen.data.types import Completion, Request
from smidgen.inference import Event, Session
from smidgen.serving.faults import ApiError
from smidgen.serving.jobs import Answers, Job, fault_of, overloaded

MOST_WAITING = 256
"""Requests that wait for a place; further ones are refused."""
RECHECK = 0.01
"""Seconds between looks at a session without room: it may have some before its next event, for example once
it has taken what has just been submitted."""
STOPPING = "the server is stopping; ask again once it runs"

Observe = Callable[[str, float], None]
"""Receives figures of requests: `queue_seconds` when one starts, and when it is finished `seconds` since it
came, `first_token_seconds` since it started, `prompt_tokens` and `completion_tokens`."""


class Scheduler:
    """Gives the places of a session to the requests of clients in turn; `close` ends its thread."""

    def __init__(
        self,
        session: Session,
        *,
        places: int,
        most_waiting: int = MOST_WAITING,
        observe: Observe = lambda name, value: None,
    ):
        """Take over a session.

        Args:
            session: a session; it is closed with the scheduler.
            places: number of requests that the engine decodes together.
            most_waiting: number of requests that may wait for a place.
            observe: receives figures of requests, in the thread of the session; it must not block.
        """
        self.observe = observe
        self._session = session
        self._places = places
        self._most_waiting = most_waiting
        self._running: dict[int, Job] = {}
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # the client whose turn it is comes first
        self._num_waiting = 0
        self._has_room = True
        self._is_draining = self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="smidgen-serving", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a place."""
        return self._num_waiting

    @property
    def running(self) -> int:
        """Number of requests that the engine works on."""
        return len(self._running)

    @property
    def is_draining(self) -> bool:
        """Whether no more requests are taken."""
        return self._is_draining

    async def complete(self, request: Request, client: str, deadline_s: float | None = None) -> Completion:
        """Complete one request; raises as `enter` and `Answers.next` do."""
        (completion,) = await self.enter([request], client, deadline_s=deadline_s).completions()
        return completion

    async def stream(
        self, request: Request, client: str, deadline_s: float | None = None
    ) -> AsyncIterator[Event]:
        """Complete one request; yields its events, with its text in pieces, and raises as `complete` does."""
        async with self.enter([request], client, stream=True, deadline_s=deadline_s) as answers:
            while (each := await answers.next()) is not None:
                yield each[1]

    def enter(
        self,
        requests: Sequence[Request],
        client: str,
        *,
        stream: bool = False,
        deadline_s: float | None = None,
    ) -> Answers:
        """Enter requests that belong together, all of them or none; call it in the event loop.

        Args:
            requests: the requests.
            client: who asks; each client in turn gets a free place.
            stream: whether events contain the text as it is generated.
            deadline_s: seconds until the requests are given up.

        Raises:
            ApiError: 400, they are more than the server ever holds; 429, the queue is full; 503, the server
                stops.
        """
        most = self._places + self._most_waiting
        if len(requests) > most:
            raise ApiError(
                400,
                f"the request asks for {len(requests)} answers, more than the {most} that this server holds "
                "at a time; send several requests",
            )
        answers = Answers(self.cancel, deadline_s)
        jobs = [Job(i, request, client, stream, answers) for i, request in enumerate(requests)]
        with self._changed:
            if self._is_draining:
                raise overloaded(503, STOPPING)
            free = self._most_waiting + max(0, self._places - len(self._running)) - self._num_waiting
            if len(jobs) > free:
                raise overloaded(
                    429, f"{self._num_waiting} requests are waiting already; ask again in a moment"
                )
            answers.expect(jobs)
            self._queues.setdefault(client, deque()).extend(jobs)
            self._num_waiting += len(jobs)
            self._start_waiting()
            self._changed.notify()
        return answers

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Cancel requests, wherever they are; others take their places."""
        jobs = set(jobs)
        if not jobs:
            return
        with self._changed:
            for job in jobs:
                if job.ticket is not None and self._running.pop(job.ticket, None) is not None:
                    self._session.cancel(job.ticket)
            for client in {job.client for job in jobs} & self._queues.keys():
                self._queues[client] = deque(job for job in self._queues[client] if job not in jobs)
                if not self._queues[client]:
                    del self._queues[client]
            self._num_waiting = sum(map(len, self._queues.values()))
            self._start_waiting()
            self._changed.notify()

    def drain(self) -> None:
        """Take no more requests; those that have been entered are finished. May be called in a signal."""
        self._is_draining = True

    def close(self) -> None:
        """Give up all requests, end the thread and close the session."""
        with self._changed:
            self._is_draining = self._is_closed = True
            for ticket in self._running:
                self._session.cancel(ticket)  # wakes the session
            self._changed.notify()
        self._thread.join()

    # ------------------------------------------------------------------------------- in the session's thread

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    events = self._session.step(timeout=None if self._has_room else RECHECK)
                except Exception as error:  # a fault of the engine, not of a request
                    self._fail_running(error)
                else:
                    self._take(events)
        finally:
            self._session.close()
            self._abandon()
            mx.clear_streams()  # MLX may otherwise abort the process at exit

    def _wait_for_work(self) -> bool:
        """Wait until requests run; return False once the scheduler is closed."""
        with self._changed:
            while not self._running and not self._is_closed:
                self._has_room = True
                self._start_waiting()
                if not self._running:
                    self._changed.wait()
            return not self._is_closed

    def _take(self, events: Iterable[Event]) -> None:
        """Hand out the events of a step and give the places that are free to those who wait."""
        told: list[tuple[Job, Event | ApiError]] = []
        with self._changed:
            for event in events:
                if (job := self._running.get(event.ticket)) is not None:
                    told.append((job, event))
                    if event.is_last:
                        del self._running[event.ticket]
            self._has_room = self._session.room > 0
            self._start_waiting()
        _tell(told)
        for job, event in told:
            if isinstance(event, Event) and event.completion is not None:
                self._report(job, event.completion)

    def _report(self, job: Job, completion: Completion) -> None:
        self.observe("seconds", time.perf_counter() - job.arrived)
        if (timing := completion.timing) is not None:
            self.observe("first_token_seconds", timing.time_to_first_token)
            self.observe("prompt_tokens", timing.prompt_tokens)
            self.observe("completion_tokens", timing.completion_tokens)

    def _fail_running(self, error: Exception) -> None:
        with self._changed:
            failed, self._running = list(self._running.items()), {}
            for ticket, _ in failed:
                self._session.cancel(ticket)
        _tell([(job, fault_of(error)) for _, job in failed])

    def _abandon(self) -> None:
        with self._changed:
            left = [*self._running.values(), *(job for jobs in self._queues.values() for job in jobs)]
            self._running, self._queues, self._num_waiting = {}, OrderedDict(), 0
        _tell([(job, overloaded(503, STOPPING)) for job in left])

    # ----------------------------------------------------------------------------- with the lock in hand

    def _start_waiting(self) -> None:
        """Give free places to the clients in turn."""
        while self._queues and self._has_room and len(self._running) < self._places and not self._is_closed:
            client, jobs = next(iter(self._queues.items()))
            job = jobs.popleft()
            self._num_waiting -= 1
            if jobs:
                self._queues.move_to_end(client)
            else:
                del self._queues[client]
            job.ticket = self._session.submit(job.request, stream=job.stream)
            self._running[job.ticket] = job
            waited = time.perf_counter() - job.arrived
            if job.answers.queue_seconds is None:
                job.answers.queue_seconds = waited
            self.observe("queue_seconds", waited)


def _tell(told: Sequence[tuple[Job, Event | ApiError]]) -> None:
    """Hand events to their event loops, all of a loop at once."""
    for loop in {job.answers.loop for job, _ in told}:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(_deliver, [each for each in told if each[0].answers.loop is loop])


def _deliver(told: Sequence[tuple[Job, Event | ApiError]]) -> None:
    for job, event in told:
        job.answers.put(job, event)

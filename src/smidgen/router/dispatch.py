"""Questions from many threads on one session: places for every task, a budget for every question.

Every task has places of its own in the session, so that questions of one that are slow or many do not hold up
those of another. What misses its deadline is deferred: it keeps its place as long as no other question of the
task needs it, and is otherwise cancelled and tried again when nothing else is to be done, after a pause that
doubles with every attempt. Nothing is dropped.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from math import inf

from smidgen.backend import mx
from smidgen.errors import WorkError
from smidgen.inference import Event, Session
from smidgen.router.job import CLOSED, Job, Outcome

PAUSE, LONGEST_PAUSE = 0.25, 60.0
"""Seconds before a deferred question is tried again: after the first attempt, and at most."""
TOGETHER = 3
"""Requests of one question that the engine works on at a time."""
STEP = 0.1
"""Most seconds of a step: a question that comes during one may have the earliest deadline."""

Told = list[tuple[Job, Outcome]]


class Dispatcher:
    """Submits jobs to a session in a thread of its own, which ends with `close`."""

    def __init__(self, session: Session, places: int):
        """Take over a session.

        Args:
            session: a session; it is closed with the dispatcher.
            places: number of questions of one task that the engine works on at a time.
        """
        self._session = session
        self._places = places
        self._running: dict[int, Job] = {}
        self._waiting: dict[str, deque[Job]] = {}
        self._late: list[Job] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="smidgen-router", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; its futures get its outcomes.

        Raises:
            WorkError: the dispatcher is closed.
        """
        with self._changed:
            if self._is_closed:
                raise WorkError("the router is closed and takes no more questions; open another")
            if job.requests:
                self._waiting.setdefault(job.task, deque()).append(job)
                self._start_waiting()
                self._changed.notify_all()
        if not job.requests:  # it is decided without the model
            job.tell(job.outcome())

    def expire(self) -> None:
        """Defer the jobs whose budget is spent, without waiting for the step that the session is in."""
        with self._changed:
            told = self._expire()
            self._changed.notify_all()
        _tell(told)

    @property
    def num_unsettled(self) -> int:
        """Number of jobs without a final outcome."""
        with self._changed:
            return len(self._jobs()) + len(self._late) + sum(map(len, self._waiting.values()))

    def close(self) -> None:
        """End the thread and close the session; unfinished jobs are told so."""
        with self._changed:
            self._is_closed = True
            for ticket in self._running:
                self._session.cancel(ticket)  # wakes the session
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ------------------------------------------------------------------------------ in the router's thread

    def _work(self) -> None:
        try:
            while (timeout := self._next_timeout()) is not None:
                try:
                    events = self._session.step(timeout=timeout)
                except Exception as error:  # a fault of the engine, not of a request
                    _tell(self._fail_running(error))
                else:
                    _tell(self._finish(events))
        finally:
            self._session.close()
            _tell(self._abandon())
            mx.clear_streams()  # MLX may otherwise abort the process at exit

    def _next_timeout(self) -> float | None:
        """Wait until there is something to do; return the seconds until the next deadline, None if closed."""
        while True:
            with self._changed:
                told = self._expire()
                self._start_late()
                if self._is_closed:
                    return None
                seconds = self._seconds_left()
                if not told and not self._running:
                    self._changed.wait(seconds)
                    continue
            _tell(told)
            if self._running:
                return STEP if seconds is None else min(STEP, seconds)

    def _finish(self, events: Iterable[Event]) -> Told:
        """Take the answers of the engine, and give the places that are free to those who wait."""
        told: Told = []
        with self._changed:
            for event in events:
                if not event.is_last or (job := self._running.pop(event.ticket, None)) is None:
                    continue
                number = job.tickets.pop(event.ticket)
                outcome = None
                if event.completion is not None:
                    outcome = job.take(number, event.completion)
                elif event.error is not None:
                    outcome = job.failed_by(event.error)
                if outcome is None:
                    self._go_on(job)
                else:
                    self._withdraw(job)
                    told.append((job, outcome))
            self._start_waiting()
        return told

    def _fail_running(self, error: Exception) -> Told:
        with self._changed:
            failed = self._jobs()
            for job in failed:
                self._withdraw(job)
            self._start_waiting()
        return [(job, job.failed_by(error, "the engine failed: ")) for job in failed]

    def _abandon(self) -> Told:
        with self._changed:
            left = [*self._jobs(), *self._late]
            left += [job for waiting in self._waiting.values() for job in waiting]
            self._running, self._late, self._waiting = {}, [], {}
        return [(job, job.deferred(CLOSED)) for job in left]

    # ---------------------------------------------------------------------------- with the lock in hand

    def _jobs(self) -> list[Job]:
        """Return the jobs that the engine works on."""
        return list(dict.fromkeys(self._running.values()))

    def _start(self, job: Job) -> None:
        job.attempts += 1
        self._go_on(job)

    def _go_on(self, job: Job) -> None:
        """Give the engine further requests of a job, as many as it may work on."""
        for number in job.next_requests[: TOGETHER - len(job.tickets)]:
            ticket = self._session.submit(job.requests[number])
            job.tickets[ticket] = number
            self._running[ticket] = job

    def _withdraw(self, job: Job) -> None:
        """Take a job's requests from the engine; the answers that there are stay."""
        for ticket in job.tickets:
            self._session.cancel(ticket)
            del self._running[ticket]
        job.tickets.clear()

    def _start_waiting(self) -> None:
        for task, waiting in self._waiting.items():
            while waiting and self._makes_room(task):
                self._start(waiting.popleft())

    def _makes_room(self, task: str) -> bool:
        """Whether a task has a free place; one of a late job is freed."""
        held = [job for job in self._jobs() if job.task == task]
        if len(held) < self._places:
            return True
        late = next((job for job in held if job.is_late), None)
        if late is not None:
            self._withdraw(late)
            self._postpone(late)
        return late is not None

    def _expire(self) -> Told:
        """Defer the jobs whose budget is spent; those that wait make way for others."""
        now, told = time.perf_counter(), []
        waiting = [job for jobs in self._waiting.values() for job in jobs]
        for job in [*self._jobs(), *waiting]:
            if not job.is_late and job.deadline <= now:
                job.is_late = True
                told.append((job, job.deferred()))
        for task, jobs in self._waiting.items():
            for job in [job for job in jobs if job.is_late]:
                self._postpone(job)
            self._waiting[task] = deque(job for job in jobs if not job.is_late)
        if told:
            self._start_waiting()
        return told

    def _postpone(self, job: Job) -> None:
        job.due = time.perf_counter() + min(LONGEST_PAUSE, PAUSE * 2 ** max(0, job.attempts - 1))
        self._late.append(job)

    def _start_late(self) -> None:
        """Try the oldest late job again whose pause is over, if nothing is running."""
        now = time.perf_counter()
        due = [job for job in self._late if job.due <= now]
        if due and not self._running and not self._is_closed:
            job = min(due, key=lambda job: job.asked)
            self._late.remove(job)
            self._start(job)

    def _seconds_left(self) -> float | None:
        """Return the seconds until a deadline or the end of a pause; None if there is neither."""
        times = [job.deadline for job in self._jobs() if not job.is_late]
        times += [job.deadline for jobs in self._waiting.values() for job in jobs]
        if not self._running:
            times += [job.due for job in self._late]
        first = min(times, default=inf)
        return max(0.0, first - time.perf_counter()) if first < inf else None


def _tell(told: Told) -> None:
    for job, outcome in told:
        job.tell(outcome)

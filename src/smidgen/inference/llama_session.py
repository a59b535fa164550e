"""A session of the engine `llama`: requests that arrive over time are decoded in the slots of llama.cpp."""

import queue
from collections.abc import Callable

from smidgen.data.types import Request
from smidgen.errors import SmidgenError
from smidgen.inference.engine import Event
from smidgen.inference.inbox import Inbox, Lanes
from smidgen.inference.llama_lane import LlamaLane
from smidgen.inference.llama_row import llama_row

READ_AHEAD = 1024
"""Requests that are sorted together; also how late a fault in a later request may come up."""
RETRY = 0.05
"""Seconds after which is looked again whether another session has left a model that has to be loaded anew."""


class LlamaSession:
    """A `Session` on llama.cpp. Rows run in threads; a step deals out what has arrived, and waits."""

    def __init__(
        self,
        opened: Callable[[str | None, Callable[[Event | None], None]], LlamaLane],
        reserved: Callable[[LlamaLane], int],
        *,
        thinking: bool,
    ):
        """Serve requests.

        Args:
            opened: opens the lane of an adapter, given its key and what takes its events.
            reserved: bytes of memory that a lane's model cannot have.
            thinking: passed to the chat template.
        """
        self._inbox = Inbox()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lanes = Lanes(lambda key: opened(key, self._events.put))
        self._reserved = reserved
        self._thinking = thinking

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Take a request; see `Session.submit`."""
        ticket = self._inbox.submit(request, stream)
        self._events.put(None)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Give a request up; see `Session.cancel`. It may keep its slot until its end."""
        if self._inbox.cancel(ticket):
            self._events.put(None)

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Deal out what has arrived, wait until something happens, and return what it brought."""
        events = self._lanes.deal(*self._inbox.take())
        for lane in self._lanes:
            if lane.arrived and not lane.has_waiting:
                events += self._admit(lane)
        if not events:
            for lane in self._lanes:
                events += lane.deal(self._reserved(lane))
        if not events and not self.is_idle:
            if not any(lane.is_busy for lane in self._lanes):
                timeout = RETRY if timeout is None else min(RETRY, timeout)
            events = self._waited_for(timeout)
        return self._inbox.finish(events)

    def close(self) -> None:
        """Give up all requests; waits for those that run."""
        self._inbox.close()
        self._lanes.close()

    @property
    def pending(self) -> int:
        """How many requests have an event to come."""
        return self._inbox.pending

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        return self.pending == 0

    @property
    def room(self) -> int:
        """A whole window once none is waiting; until then nothing."""
        return 0 if self._inbox.has_arrived or self._lanes.has_waiting else READ_AHEAD

    def _waited_for(self, timeout: float | None) -> list[Event]:
        """All events that are there, once there is one, or something to do."""
        events: list[Event | None] = []
        try:
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return [event for event in events if event is not None]

    def _admit(self, lane: LlamaLane) -> list[Event]:
        """Make rows of what a lane's next window holds; return the events of those that are over already."""
        events, rows, model = [], [], lane.host.model
        for one in [lane.arrived.popleft() for _ in range(min(READ_AHEAD, len(lane.arrived)))]:
            try:
                row = llama_row(one, model.tokenizer, model.context, thinking=self._thinking)
            except SmidgenError as error:
                events.append(one.event(error=error))
                continue
            if row.finish_reason is None:
                rows.append(row)
            else:
                events.append(one.event(completion=row.completion()))
        if rows:
            lane.admit(rows)
        return events

"""A session of the engine `llama`: continuous batching in the slots of llama.cpp."""

import queue
from collections.abc import Callable

from smidgen.data.types import Request
from smidgen.errors import SmidgenError
from smidgen.inference.engine import Event
from smidgen.inference.inbox import READ_AHEAD, InboxSession, Lanes, wait_for_events
from smidgen.inference.llama_lane import LlamaLane
from smidgen.inference.llama_row import llama_row

RETRY = 0.05
"""Seconds between checks whether another session has released a model that has to be reloaded."""


class LlamaSession(InboxSession):
    """A `Session` on llama.cpp. Rows run in threads; a step assigns new requests to them and waits."""

    def __init__(
        self,
        open_lane: Callable[[str | None, Callable[[Event | None], None]], LlamaLane],
        reserved: Callable[[LlamaLane], int],
        *,
        thinking: bool,
    ):
        """Serve requests.

        Args:
            open_lane: opens the lane of an adapter, given its key and the receiver of its events.
            reserved: returns the bytes of memory that are used by other models than a lane's.
            thinking: passed to the chat template.
        """
        super().__init__()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lanes = Lanes(lambda key: open_lane(key, self._events.put))
        self._reserved = reserved
        self._thinking = thinking

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Queue a request; see `Session.submit`."""
        ticket = self._inbox.submit(request, stream)
        self._events.put(None)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Cancel a request; see `Session.cancel`. It may occupy its slot until it ends."""
        if self._inbox.cancel(ticket):
            self._events.put(None)

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Assign new requests to slots, wait until something happens, and return the new events."""
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
            events = wait_for_events(self._events, timeout)
        return self._inbox.finish(events)

    def close(self) -> None:
        """Cancel all requests; waits for the running ones."""
        self._inbox.close()
        self._lanes.close()

    @property
    def room(self) -> int:
        """A full window if no requests are waiting, else 0."""
        return 0 if self._inbox.has_arrived or self._lanes.has_waiting else READ_AHEAD

    def _admit(self, lane: LlamaLane) -> list[Event]:
        """Build the rows of a lane's next window; return the events of requests that are already finished."""
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

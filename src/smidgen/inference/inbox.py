"""Shared parts of sessions: tickets, the queues of requests and events, and one lane per adapter."""

import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from smidgen.data.types import Completion, Request
from smidgen.errors import SmidgenError, WorkError
from smidgen.inference.engine import Event

MOST_ADAPTERS = 4
"""Adapters that an engine keeps loaded besides its own weights; each takes memory."""

READ_AHEAD = 1024
"""Requests sorted together in a window; errors in later requests show up only after the window."""


@dataclass(frozen=True)
class Submitted:
    """A submitted request.

    Attributes:
        ticket: its number.
        request: the request.
        stream: whether to stream its text.
    """

    ticket: int
    request: Request
    stream: bool = False

    def event(
        self, *, piece: str = "", completion: Completion | None = None, error: Exception | None = None
    ) -> Event:
        """Return an event of this request."""
        return Event(self.ticket, self.request, piece, completion, error)


class Inbox:
    """Thread-safe queue from the threads that submit requests to the one that steps."""

    def __init__(self):
        self._lock = threading.Lock()
        self._next_ticket = 0
        self._arrived: list[Submitted] = []
        self._pending: set[int] = set()
        self._cancelled: set[int] = set()
        self._is_closed = False

    def submit(self, request: Request, stream: bool) -> int:
        """Add a request.

        Raises:
            WorkError: the session is closed.
        """
        with self._lock:
            if self._is_closed:
                raise WorkError("the session is closed and takes no more requests; open another")
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            self._arrived.append(Submitted(ticket, request, stream))
            self._pending.add(ticket)
            return ticket

    def cancel(self, ticket: int) -> bool:
        """Cancel a request; return whether it was pending."""
        with self._lock:
            if ticket not in self._pending:
                return False
            self._pending.discard(ticket)
            self._cancelled.add(ticket)
            return True

    def take(self) -> tuple[list[Submitted], set[int]]:
        """Return the requests submitted and the tickets cancelled since the last call."""
        with self._lock:
            gone, self._cancelled = self._cancelled, set()
            arrived, self._arrived = self._arrived, []
        return [one for one in arrived if one.ticket not in gone], gone

    def finish(self, events: list[Event]) -> list[Event]:
        """Mark finished requests; return the events without those of cancelled requests."""
        with self._lock:
            delivered = [event for event in events if event.ticket in self._pending]
            self._pending.difference_update(event.ticket for event in delivered if event.is_last)
        return delivered

    def close(self) -> None:
        """Drop all requests and refuse new ones."""
        with self._lock:
            self._is_closed = True
            self._arrived.clear()
            self._pending.clear()

    @property
    def pending(self) -> int:
        """Number of unfinished requests."""
        with self._lock:
            return len(self._pending)

    @property
    def has_arrived(self) -> bool:
        """Whether submitted requests are waiting to be taken."""
        with self._lock:
            return bool(self._arrived)


class InboxSession:
    """The part of a `Session` that every engine has: its inbox, and what follows from that."""

    def __init__(self):
        self._inbox = Inbox()

    def submit(self, request: Request, *, stream: bool = False) -> int:
        """Queue a request; see `Session.submit`."""
        return self._inbox.submit(request, stream)

    def cancel(self, ticket: int) -> None:
        """Cancel a request; see `Session.cancel`."""
        self._inbox.cancel(ticket)

    @property
    def pending(self) -> int:
        """Number of unfinished requests."""
        return self._inbox.pending

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        return self.pending == 0


def wait_for_events(arriving: "queue.SimpleQueue[Event | None]", timeout: float | None) -> list[Event]:
    """Wait for an event of another thread, or for a wake-up (None); return all events that have arrived."""
    events: list[Event | None] = []
    try:
        events.append(arriving.get(timeout=timeout))
        while True:
            events.append(arriving.get_nowait())
    except queue.Empty:
        return [event for event in events if event is not None]


class Waiting(Protocol):
    """The interface of a lane, which serves the requests of one adapter.

    Attributes:
        arrived: requests that are not rows yet.
    """

    arrived: deque[Submitted]

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        ...

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a place, so no new requests are admitted."""
        ...

    def drop(self, tickets: Collection[int]) -> None:
        """Drop cancelled requests."""
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


Served = TypeVar("Served", bound=Waiting)


class Lanes(Generic[Served]):
    """The lanes of all adapters in use; the least recently used idle one is closed for a new adapter."""

    def __init__(self, open_lane: Callable[[str | None], Served]):
        """Open lanes by calling `open_lane` with the key of an adapter."""
        self._open_lane = open_lane
        self._lanes: OrderedDict[str | None, Served] = OrderedDict()
        self._parked: list[Submitted] = []  # requests whose adapter has no lane yet

    def __iter__(self) -> Iterator[Served]:
        return iter(self._lanes.values())

    @property
    def has_waiting(self) -> bool:
        """Whether requests wait for a lane or for a place in one."""
        return bool(self._parked) or any(lane.arrived or lane.has_waiting for lane in self)

    def deal(self, arrived: Sequence[Submitted], gone: Collection[int]) -> list[Event]:
        """Assign new requests to lanes and drop cancelled ones; return the events of requests that failed."""
        if gone:
            self._parked = [one for one in self._parked if one.ticket not in gone]
            for lane in self:
                lane.drop(gone)
        arrived, self._parked, events = [*self._parked, *arrived], [], []
        for one in arrived:
            try:
                lane = self._get(adapter_key(one.request.adapter))
            except SmidgenError as error:
                events.append(one.event(error=error))
                continue
            (self._parked if lane is None else lane.arrived).append(one)
        return events

    def close(self) -> None:
        """Close all lanes."""
        self._parked.clear()
        while self._lanes:
            self._lanes.popitem()[1].close()

    def _get(self, key: str | None) -> Served | None:
        """Return the lane of an adapter, opened if necessary; None while all lanes are busy."""
        if key not in self._lanes:
            if len(self._lanes) > MOST_ADAPTERS:
                idle = [name for name, lane in self._lanes.items() if lane.is_idle]
                if not idle:
                    return None
                self._lanes.pop(idle[0]).close()
            self._lanes[key] = self._open_lane(key)
        self._lanes.move_to_end(key)
        return self._lanes[key]


def adapter_key(adapter: str | Path | None) -> str | None:
    """Return the key of a local adapter, its resolved path; None for the engine's own weights."""
    return None if adapter is None else str(Path(adapter).expanduser().resolve())

"""What sessions have in common: tickets, requests that have arrived, and a bounded number of adapters."""

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
"""Adapters that an engine keeps ready at a time, beside its own weights; each costs memory."""


@dataclass(frozen=True)
class Submitted:
    """A request that has arrived.

    Attributes:
        ticket: its number.
        request: what to complete.
        stream: whether its text is wanted while it is made.
    """

    ticket: int
    request: Request
    stream: bool = False

    def event(
        self, *, piece: str = "", completion: Completion | None = None, error: Exception | None = None
    ) -> Event:
        """What there is to say of it."""
        return Event(self.ticket, self.request, piece, completion, error)


class Inbox:
    """Requests on their way from the threads that submit them to the one that steps."""

    def __init__(self):
        self._lock = threading.Lock()
        self._next_ticket = 0
        self._arrived: list[Submitted] = []
        self._pending: set[int] = set()
        self._cancelled: set[int] = set()
        self._is_closed = False

    def submit(self, request: Request, stream: bool) -> int:
        """Take a request.

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
        """Note that a request is given up; return whether it was pending."""
        with self._lock:
            if ticket not in self._pending:
                return False
            self._pending.discard(ticket)
            self._cancelled.add(ticket)
            return True

    def take(self) -> tuple[list[Submitted], set[int]]:
        """Take what has arrived, and the tickets that were cancelled, since the last time."""
        with self._lock:
            gone, self._cancelled = self._cancelled, set()
            arrived, self._arrived = self._arrived, []
        return [one for one in arrived if one.ticket not in gone], gone

    def finish(self, events: list[Event]) -> list[Event]:
        """Count the requests that are over; return the events of those that were not cancelled meanwhile."""
        with self._lock:
            told = [event for event in events if event.ticket in self._pending]
            self._pending.difference_update(event.ticket for event in told if event.is_last)
        return told

    def close(self) -> None:
        """Take no more requests and forget those that there are."""
        with self._lock:
            self._is_closed = True
            self._arrived.clear()
            self._pending.clear()

    @property
    def pending(self) -> int:
        """How many requests have an event to come."""
        with self._lock:
            return len(self._pending)

    @property
    def has_arrived(self) -> bool:
        """Whether there is something to take."""
        with self._lock:
            return bool(self._arrived)


class Waiting(Protocol):
    """What serves the requests of one adapter.

    Attributes:
        arrived: requests that it has not looked at yet.
    """

    arrived: deque[Submitted]

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        ...

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a place, so that nothing that has arrived is looked at."""
        ...

    def drop(self, tickets: Collection[int]) -> None:
        """Let requests go that were given up."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


Served = TypeVar("Served", bound=Waiting)


class Lanes(Generic[Served]):
    """What serves the requests of each adapter; the one that was used longest ago makes room for another."""

    def __init__(self, opened: Callable[[str | None], Served]):
        """Open lanes by calling `opened` with the key of an adapter."""
        self._opened = opened
        self._lanes: OrderedDict[str | None, Served] = OrderedDict()
        self._parked: list[Submitted] = []  # until a lane is free for their adapter

    def __iter__(self) -> Iterator[Served]:
        return iter(self._lanes.values())

    @property
    def has_waiting(self) -> bool:
        """Whether requests wait for a place."""
        return bool(self._parked) or any(lane.arrived or lane.has_waiting for lane in self)

    def deal(self, arrived: Sequence[Submitted], gone: Collection[int]) -> list[Event]:
        """Hand what has arrived to the lanes and drop what was cancelled; return the events of misfits."""
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
        """Close all of them."""
        self._parked.clear()
        while self._lanes:
            self._lanes.popitem()[1].close()

    def _get(self, key: str | None) -> Served | None:
        """The lane of an adapter; None as long as all are taken and busy."""
        if key not in self._lanes:
            if len(self._lanes) > MOST_ADAPTERS:
                idle = [name for name, lane in self._lanes.items() if lane.is_idle]
                if not idle:
                    return None
                self._lanes.pop(idle[0]).close()
            self._lanes[key] = self._opened(key)
        self._lanes.move_to_end(key)
        return self._lanes[key]


def adapter_key(adapter: str | Path | None) -> str | None:
    """What an adapter of this machine is known by: its place; None for the engine's own."""
    return None if adapter is None else str(Path(adapter).expanduser().resolve())

"""A session of the engine `mlx`: continuous batching of requests that arrive over time."""

from collections.abc import Callable

from smidgen.errors import SmidgenError
from smidgen.inference.engine import Event
from smidgen.inference.inbox import READ_AHEAD, InboxSession, Lanes
from smidgen.inference.lane import Lane
from smidgen.inference.row import DecodeRow, RowBuilder


class MlxSession(InboxSession):
    """A `Session` on weights in this process: every step is one forward pass of one adapter's rows.

    Waiting requests are admitted in windows: all that have arrived by the time the last window is empty. A
    thread other than the main one that calls `step` should call `mx.clear_streams()` before it ends, since
    MLX may otherwise abort the process at exit.
    """

    def __init__(self, builder: RowBuilder, open_lane: Callable[[str | None], Lane]):
        """Serve requests.

        Args:
            builder: builds their rows.
            open_lane: opens the lane of an adapter, given its key; raises `ModelError` if it does not fit.
        """
        super().__init__()
        self._builder = builder
        self._lanes = Lanes(open_lane)
        self._last: Lane | None = None

    def step(self, *, timeout: float | None = None) -> list[Event]:
        """Admit new requests and run one pass; it never waits, so `timeout` has no effect."""
        events = self._lanes.deal(*self._inbox.take())
        for lane in self._lanes:
            if lane.arrived and not lane.has_waiting:
                events += self._admit(lane)
        if not events and (lane := self._next_lane()) is not None:
            events = [event for row in lane.step() if (event := self._event(row)) is not None]
        return self._inbox.finish(events)

    def close(self) -> None:
        """Cancel all requests and release their memory."""
        self._inbox.close()
        self._last = None
        self._lanes.close()

    def reset(self) -> None:
        """Discard everything computed with the weights; no requests may be pending."""
        assert self.is_idle
        self._lanes.deal(*self._inbox.take())
        self._last = None
        self._lanes.close()

    @property
    def room(self) -> int:
        """A full window if no requests are waiting and a lane has a free place, else 0."""
        if self._inbox.has_arrived or self._lanes.has_waiting:
            return 0
        lanes = list(self._lanes)
        return 0 if lanes and all(lane.is_full for lane in lanes) else READ_AHEAD

    def _admit(self, lane: Lane) -> list[Event]:
        """Build the rows of a lane's next window; return the events of requests that are already finished."""
        events, rows = [], []
        for one in [lane.arrived.popleft() for _ in range(min(READ_AHEAD, len(lane.arrived)))]:
            try:
                row = self._builder.build(one)
            except SmidgenError as error:
                events.append(one.event(error=error))
                continue
            if (event := self._event(row)) is not None and event.is_last:
                events.append(event)
            else:
                rows.append(row)
        if rows:
            lane.admit(rows, sum(other.reserved_bytes for other in self._lanes if other is not lane))
        return events

    def _next_lane(self) -> Lane | None:
        """Return the lane for the next pass, round-robin among those with work."""
        lanes = list(self._lanes)
        if self._last in lanes:
            at = 1 + lanes.index(self._last)
            lanes = lanes[at:] + lanes[:at]
        self._last = next((lane for lane in lanes if lane.rows or lane.has_waiting), None)
        return self._last

    def _event(self, row: DecodeRow) -> Event | None:
        """Return the event of a row after a step, if there is one."""
        one = row.submitted
        if row.error is not None:
            return one.event(error=row.error)
        if row.finish_reason is not None:
            completion = self._builder.completion(row)
            piece = completion.text[row.num_streamed :] if one.stream else ""
            return one.event(piece=piece, completion=completion)
        if one.stream and (piece := row.take_piece()):
            return one.event(piece=piece)
        return None

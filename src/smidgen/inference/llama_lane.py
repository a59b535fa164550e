"""Rows of one llama.cpp model, each in a slot, and the requests that wait for a slot.

A slot reuses the prefix that its next prompt shares with its last one, so waiting rows are assigned in the
order of their prompts, and a few rows each to the slot that has most of its prompt.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Generic, TypeVar

from smidgen.errors import ModelError, SmidgenError
from smidgen.inference.engine import Event
from smidgen.inference.inbox import Submitted
from smidgen.inference.llama_guided import begin_guide, follow
from smidgen.inference.llama_host import LlamaHost
from smidgen.inference.llama_question import question_of, question_of_token
from smidgen.inference.llama_row import LlamaRow
from smidgen.inference.llama_server import LlamaServer, Refused
from smidgen.inference.prefixes import stem_of
from smidgen.inference.slot_prompts import SlotPrompts
from smidgen.inference.stopping import GrowingText

Item = TypeVar("Item")


class Shares(Generic[Item]):
    """Items in order, split into one contiguous share per slot, with work stealing; thread-safe.

    A slot works through its share from the front, so its next item is a neighbour of its last one. A slot
    whose share is empty takes the back half of the longest remaining share.
    """

    def __init__(self, items: Sequence[Item], num_slots: int):
        self._lock = threading.Lock()
        bounds = [len(items) * slot // num_slots for slot in range(num_slots + 1)]
        self._shares = [deque(items[start:stop]) for start, stop in pairwise(bounds)]

    @classmethod
    def of(cls, items: Mapping[int, Sequence[Item]], num_slots: int) -> "Shares[Item]":
        """Return shares that are given, by slot."""
        shares = cls([], num_slots)
        shares._shares = [deque(items.get(slot, ())) for slot in range(num_slots)]
        return shares

    def __iter__(self) -> Iterator[Item]:
        with self._lock:
            return iter([item for share in self._shares for item in share])

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._shares))

    def take(self, slot: int) -> Item | None:
        """Take the next item for `slot`; None if no items are left."""
        with self._lock:
            own = self._shares[slot]
            if not own:
                longest = max(self._shares, key=len)
                own.extendleft(longest.pop() for _ in range(-(-len(longest) // 2)))
            return own.popleft() if own else None

    def drain(self) -> list[Item]:
        """Remove and return all remaining items, in order."""
        with self._lock:
            left = [item for share in self._shares for item in share]
            for share in self._shares:
                share.clear()
        return left


class LlamaLane:
    """The rows of one model. Each busy slot has a thread, which takes waiting rows by itself.

    Attributes:
        host: the model.
        arrived: requests that are not rows yet.
    """

    def __init__(
        self, host: LlamaHost, put: Callable[[Event | None], None], *, thinking: bool, arriving: bool
    ):
        """Serve the rows of a session.

        Args:
            host: loads the model.
            put: receives events from any thread; None only wakes up the session.
            thinking: passed to the chat template.
            arriving: whether requests arrive over time, so that free slots are kept.
        """
        self.host = host
        self.arrived: deque[Submitted] = deque()
        self._put = put
        self._thinking = thinking
        self._arriving = arriving
        self._window: list[LlamaRow] = []
        self._shares = Shares[LlamaRow]([], 1)
        self._pool: ThreadPoolExecutor | None = None
        self._server: LlamaServer | None = None  # leased while rows run
        self._lock = threading.Lock()
        self._running: dict[int, LlamaRow | None] = {}  # by slot
        self._slots = SlotPrompts()

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for a slot."""
        return bool(self._window) or len(self._shares) > 0

    @property
    def is_busy(self) -> bool:
        """Whether rows are running."""
        with self._lock:
            return bool(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.arrived or self.has_waiting or self.is_busy)

    def admit(self, rows: Sequence[LlamaRow]) -> None:
        """Queue a window of rows; no rows may be waiting."""
        assert not self.has_waiting
        self._window = sorted(rows, key=lambda row: row.prompt)

    def deal(self, reserved: int) -> list[Event]:
        """Assign waiting rows to free slots; return error events if the model cannot be loaded.

        Args:
            reserved: bytes of memory used elsewhere, in case the model has to be loaded.
        """
        if not self._window and not self._start_more():
            self._window = self._shares.drain()  # the last thread ended while these were being assigned
        if not self._window:
            return []
        try:
            server = self.host.lease(self._window, arriving=self._arriving, reserved=reserved)
        except SmidgenError as error:
            failed, self._window = self._window, []
            return [row.submitted.event(error=error) for row in failed]
        if server is not None:
            try:
                self._open_window(server)
            finally:
                self.host.release()
        return []

    def drop(self, tickets: Collection[int]) -> None:
        """Drop cancelled requests; a running row stops at its next part, or its result is discarded."""
        self.arrived = deque(one for one in self.arrived if one.ticket not in tickets)
        self._window = [row for row in self._window if row.submitted.ticket not in tickets]
        for row in [*self._shares, *self._running_rows()]:
            row.is_cancelled |= row.submitted.ticket in tickets

    def close(self) -> None:
        """Cancel all rows; waits for the running ones."""
        self.arrived.clear()
        self._window = []
        self._shares.drain()
        for row in self._running_rows():
            row.is_cancelled = True
        if self._pool is not None:
            self._pool.shutdown()

    def _running_rows(self) -> list[LlamaRow]:
        with self._lock:
            return [row for row in self._running.values() if row is not None]

    def _open_window(self, server: LlamaServer) -> None:
        """Deal the window out to the slots of the leased model, matching prompts to cached prefixes."""
        window, prompts = self._window, [row.prompt for row in self._window]
        with self._lock:
            if server is not self._server:
                self._server, self._slots = server, SlotPrompts()
            free = [slot for slot in range(server.num_slots) if slot not in self._running]
            if len(window) <= len(free):
                chosen = self._slots.assigned(free, prompts)
                shares = Shares.of({slot: [window[i]] for slot, i in chosen.items()}, server.num_slots)
                slots = list(chosen)
            else:
                shares, slots = Shares(window, server.num_slots), self._slots.ranked(free, prompts[0])
        if len(window) > 1 and not self.is_busy:
            self._share(server, stem_of(prompts), slots)
        with self._lock:
            self._shares, self._window = shares, []
            self._start(slots)

    def _share(self, server: LlamaServer, prefix: list[int], slots: Sequence[int]) -> None:
        """Compute a prefix once for those slots that do not have it; no rows are running."""
        lacking = [slot for slot in slots if self._slots.shared(slot, prefix) < len(prefix)]
        if server.share(prefix, lacking):
            for slot in lacking:
                self._slots.read(slot, prefix)

    def _start_more(self) -> bool:
        """Start free slots while others run; return whether all waiting rows are taken care of."""
        with self._lock:
            if self._running:
                assert self._server is not None
                self._start([slot for slot in range(self._server.num_slots) if slot not in self._running])
            return bool(self._running) or not self._shares

    def _start(self, slots: Sequence[int]) -> None:
        """Start a thread per slot, as many as there are waiting rows; the caller has lease and lock."""
        assert self._server is not None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.host.most_slots, thread_name_prefix="smidgen-llama")
        for slot in slots[: len(self._shares)]:
            self.host.retain()
            self._running[slot] = None
            self._pool.submit(self._work, self._server, slot)

    def _work(self, server: LlamaServer, slot: int) -> None:
        while (row := self._shares.take(slot)) is not None:
            with self._lock:
                self._running[slot] = row
                self._slots.read(slot, row.prompt)
            if row.is_cancelled:
                continue
            try:
                if not self._run_guided(server, row, slot):
                    if row.submitted.stream or (self._arriving and not row.request.logprobs):
                        row = self._run_stream(server, row, slot)  # stops as soon as it is cancelled
                    else:
                        self._run(server, row, slot)
                event = None if row.is_cancelled else _last_event(row)
            except Refused as error:
                fault = f"llama.cpp refuses a prompt of {self.host.model.name}: {error}"
                event = row.submitted.event(error=ModelError(fault))
            except Exception as error:  # any error becomes an event for the thread that steps
                event = row.submitted.event(error=error)
            if event is not None:
                self._put(event)
        with self._lock:
            del self._running[slot]
        self.host.release()
        self._put(None)

    def _run(self, server: LlamaServer, row: LlamaRow, slot: int) -> None:
        """Request completions until the row is finished; llama.cpp also stops at strings inside thinking."""
        while row.finish_reason is None and not row.is_cancelled:
            answer = server.complete(
                question_of(row, context=server.context, slot=slot, thinking=self._thinking)
            )
            row.take(answer["__verbose"], self.host.model.tokenizer.eos_token_ids)

    def _run_guided(self, server: LlamaServer, row: LlamaRow, slot: int) -> bool:
        """Follow the row's constraint outside of llama.cpp, if it has one that allows that."""
        host, constraint = self.host, row.request.constraint
        if constraint is None or constraint in host.wide or (guide := begin_guide(row, host.guides)) is None:
            return False

        def ask(token_ids: list[int], allowed: list[int], number: int) -> dict[str, Any]:
            question = question_of_token(
                row, token_ids, allowed, number=number, context=server.context, slot=slot
            )
            return server.complete(question)["__verbose"]

        if follow(guide, row, ask, host.model.tokenizer.eos_token_ids):
            return True
        host.wide.add(constraint)
        return False

    def _run_stream(self, server: LlamaServer, row: LlamaRow, slot: int) -> LlamaRow:
        """Run one streaming completion, emitting its text if wanted; return the row to its end.

        `take` returns True to stop it.
        """
        question = question_of(row, context=server.context, slot=slot, thinking=self._thinking)
        ends = self.host.model.tokenizer.eos_token_ids
        started, faults = time.perf_counter(), list[Exception]()

        def take(part: dict[str, Any]) -> bool:
            if row.is_cancelled or row.finish_reason is not None or faults:
                return True
            try:
                if error := part.get("error"):
                    raise Refused(str(error.get("message", error)))
                row.seconds = time.perf_counter() - started
                row.take_part(part, ends)
                if row.submitted.stream and row.finish_reason is None and (piece := row.take_piece()):
                    self._put(row.submitted.event(piece=piece))
            except Exception as error:  # must not propagate through llama.cpp's C++ code
                faults.append(error)
            return row.finish_reason is not None or bool(faults)

        server.complete(question | {"stop": [], "stream": True}, take)
        if faults:
            raise faults[0]
        if self.host.model.tokenizer.decode(row.token_ids) != row.streamed:
            row.hidden = max(row.hidden, 1)
        return self._mended(server, row, slot) if row.is_torn else row

    def _mended(self, server: LlamaServer, row: LlamaRow, slot: int) -> LlamaRow:
        """Run a row again whose stream lacks its end; the row as it is if its beginning differs now."""
        tokenizer, stop = self.host.model.tokenizer, row.request.sampling.stop
        whole = LlamaRow(
            row.submitted,
            row.prompt,
            row.max_tokens,
            GrowingText(tokenizer.stream_decoder(), stop),
            row.ending,
            time_to_first_token=row.time_to_first_token,
            seconds=row.seconds,
            num_streamed=row.num_streamed,
            is_cancelled=row.is_cancelled,
        )
        with self._lock:
            self._running[slot] = whole
        self._run(server, whole, slot)
        told = row.text.text[: row.num_streamed]
        return whole if whole.is_cancelled or whole.completion().text.startswith(told) else row


def _last_event(row: LlamaRow) -> Event:
    completion = row.completion()
    piece = completion.text[row.num_streamed :] if row.submitted.stream else ""
    return row.submitted.event(piece=piece, completion=completion)

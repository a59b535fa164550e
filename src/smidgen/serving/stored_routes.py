"""Texts of many clients into one memory store: one stream of the router, in a thread, for all of them.

An input is journaled before the model is asked, as `smidgen route --store` does, and the stream takes up what
an earlier server left pending. One stream means one order: a later text sees what an earlier one changed.
"""

import itertools
import queue
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from smidgen import __version__
from smidgen.errors import WorkError
from smidgen.memory import Store
from smidgen.router import Router
from smidgen.router.lines import Line
from smidgen.router.questions import MemorizeQuestion
from smidgen.router.stream import Routed, route

CLOSING = 10.0
"""Seconds that the last decisions get when the server stops; what is not decided stays pending."""

Lines = queue.SimpleQueue[Line | None]


class StoredRoutes:
    """Routes texts into a store until it is closed."""

    def __init__(self, router: Router, store: Store):
        """Begin with what is pending in the store."""
        self._router, self._store = router, store
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._is_closed = self._is_running = False
        self._lines: Lines = queue.SimpleQueue()
        self._waiting: dict[int, Future[Routed]] = {}
        self._start()

    def submit(self, input_id: str, text: str) -> "Future[Routed]":
        """Route a text; the result is its first outcome.

        The same input may be given again, as after an answer that was lost: it is decided once.

        Raises:
            WorkError: the routes are closed.
        """
        future: Future[Routed] = Future()
        with self._lock:
            if self._is_closed:
                raise WorkError("the server is stopping; send the text again once it runs")
            if not self._is_running:  # a full disk ended it, and there may be space again
                self._start()
            number = next(self._numbers)
            self._waiting[number] = future
            self._lines.put(Line(number, input_id, MemorizeQuestion(text)))
        return future

    def close(self) -> None:
        """End the thread; what it has not decided stays pending in the store."""
        with self._lock:
            self._is_closed = True
            self._lines.put(None)
        self._thread.join(CLOSING)

    def _start(self) -> None:
        self._is_running = True
        self._thread = threading.Thread(
            target=self._work, args=(self._lines,), name="smidgen-routes", daemon=True
        )
        self._thread.start()

    def _work(self, lines: Lines) -> None:
        try:
            source = iter(lines.get, None)
            for routed in route(self._router, source, self._store, version=__version__, in_order=False):
                with self._lock:
                    future = self._waiting.pop(routed.line.number, None)
                if future is not None:
                    with suppress(InvalidStateError):  # its client has left
                        future.set_result(routed)
        except Exception as error:  # of the store; those who wait are told, and the next text tries again
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._is_running = False
            self._lines.put(None)  # ends the reader of the stream that failed
            self._lines, failed, self._waiting = queue.SimpleQueue(), self._waiting, {}
        for future in failed.values():
            with suppress(InvalidStateError):
                future.set_exception(error)

"""An engine that follows a script: who answers, what and when is up to a test."""

import json
import threading
from collections.abc import Callable
from typing import Any

from smidgen.data.types import Completion, Request
from smidgen.inference.engine import Event
from smidgen.inference.inbox import InboxSession

Answer = str | Exception | None
"""A text, an error, or no answer until the test changes its mind."""

SKIP = '{"decision":"SKIP"}'


def first_choice(request: Request) -> str:
    """The first answer that a request's constraint allows."""
    assert request.constraint is not None
    return json.loads(request.constraint.value)[0]


class Scripted:
    """An engine whose only session answers what `say` returns for a request.

    Attributes:
        say: the answer to a request.
        asked: the requests so far.
        cancelled: tickets that were cancelled.
    """

    def __init__(self, say: Callable[[Request], Answer] = first_choice):
        self.say = say
        self.asked: list[Request] = []
        self.cancelled: list[int] = []
        self.opened: list[ScriptedSession] = []
        self.closed = False

    def session(self) -> "ScriptedSession":
        self.opened.append(ScriptedSession(self))
        return self.opened[-1]

    def wake(self) -> None:
        """Let the session ask for answers again, after the script has changed."""
        for session in self.opened:
            session.changed.set()

    def close(self) -> None:
        self.closed = True


class ScriptedSession(InboxSession):
    """Answers at once what has an answer, and waits for the rest."""

    def __init__(self, engine: Scripted):
        super().__init__()
        self.engine = engine
        self.open: dict[int, Any] = {}
        self.changed = threading.Event()

    def submit(self, request: Request, *, stream: bool = False) -> int:
        ticket = super().submit(request, stream=stream)
        self.engine.asked.append(request)
        self.changed.set()
        return ticket

    def cancel(self, ticket: int) -> None:
        super().cancel(ticket)
        self.engine.cancelled.append(ticket)
        self.changed.set()

    def step(self, *, timeout: float | None = None) -> list[Event]:
        arrived, gone = self._inbox.take()
        self.open |= {one.ticket: one for one in arrived}
        self.open = {ticket: one for ticket, one in self.open.items() if ticket not in gone}
        events = []
        for ticket, one in list(self.open.items()):
            said = self.engine.say(one.request)
            if said is None:
                continue
            del self.open[ticket]
            is_error = isinstance(said, Exception)
            events.append(one.event(error=said) if is_error else one.event(completion=Completion(str(said))))
        if not events:
            self.changed.wait(timeout)
            self.changed.clear()
        return self._inbox.finish(events)

    def close(self) -> None:
        self._inbox.close()

    @property
    def room(self) -> int:
        return 1

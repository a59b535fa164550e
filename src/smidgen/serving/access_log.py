"""The log of a server: one line of JSON for every request, without what was asked unless it is wanted."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smidgen.errors import UserError
from smidgen.serving.faults import CLIENT_LEFT
from smidgen.serving.metrics import Metrics
from smidgen.serving.request_facts import RequestFacts, facts_of, fault_of

NO_ROUTE = "other"
"""Route of a request that no endpoint has, so that strangers cannot make up labels of metrics."""


class AccessLog:
    """Lines of JSON on stderr or at the end of a file."""

    def __init__(self, path: Path | None = None, *, prompts: bool = False):
        """Open a log.

        Args:
            path: the file, readable by its owner only; stderr if None.
            prompts: log what was asked.

        Raises:
            UserError: the file cannot be written.
        """
        self.prompts = prompts
        self._is_lost = False
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                raise UserError(
                    f"the log {path} cannot be written ({error.strerror}); name another file"
                ) from None

    def write(self, **facts: Any) -> None:
        """Write a line. A full disk must not stop the server: what is lost is said once, on stderr."""
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
        line = json.dumps(row, ensure_ascii=True, default=str) + "\n"  # no text can begin a line of its own
        try:
            if self._file is None:
                print(line, end="", file=sys.stderr, flush=True)
            else:
                os.write(self._file, line.encode("ascii"))
        except OSError as error:
            if not self._is_lost:
                self._is_lost = True
                with suppress(OSError):
                    print(f"the log cannot be written ({error}); its lines are lost", file=sys.stderr)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)

    @contextmanager
    def taking(self, *loggers: str) -> Iterator[None]:
        """Write what libraries log meanwhile into this log, instead of as text with tracebacks to stderr."""
        handler, found = _LogHandler(self), [logging.getLogger(name) for name in loggers]
        before = [logger.propagate for logger in found]
        for logger in found:
            logger.addHandler(handler)
            logger.propagate = False
        try:
            yield
        finally:
            for logger, propagate in zip(found, before, strict=True):
                logger.removeHandler(handler)
                logger.propagate = propagate


class _LogHandler(logging.Handler):
    """Writes records as lines of an access log."""

    def __init__(self, log: AccessLog):
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; an exception by its kind and place."""
        error = record.exc_info[1] if record.exc_info else None
        fault = {"fault": fault_of(error)} if error is not None else {}
        message = record.getMessage().strip()
        self._log.write(level=record.levelname.lower(), logger=record.name, message=message, **fault)


class Observed:
    """Logs and counts every request when it is answered; the outermost middleware."""

    def __init__(self, app: ASGIApp, log: AccessLog, metrics: Metrics):
        self._app, self._log, self._metrics = app, log, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        facts, status = facts_of(scope), CLIENT_LEFT

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            seconds = time.perf_counter() - facts.started
            route = _route_of(scope)
            self._metrics.observe(route, status, seconds)
            self._log.write(**self._line(facts, scope["method"], route, status, seconds))

    def _line(
        self, facts: RequestFacts, method: str, route: str, status: int, seconds: float
    ) -> dict[str, Any]:
        optional = {
            "model": facts.model,
            "prompt_tokens": facts.prompt_tokens or None,
            "completion_tokens": facts.completion_tokens or None,
            "queue_ms": _milliseconds(facts.queue_seconds),
            "first_token_ms": _milliseconds(facts.first_token_seconds),
            "fault": facts.fault or None,
            "texts": facts.texts if self._log.prompts else None,
        }
        return {
            "id": facts.id,
            "client": facts.client,
            "method": method if len(method) <= 20 else "other",
            "route": route,
            "status": status,
            "ms": _milliseconds(seconds),
            **{name: value for name, value in optional.items() if value is not None},
        }


def _route_of(scope: Scope) -> str:
    """Return the path of the endpoint that a request is for, also if it was refused before it got there."""
    routes = scope["app"].routes if "app" in scope else ()
    found = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
    return getattr(next(found, None), "path", NO_ROUTE)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)

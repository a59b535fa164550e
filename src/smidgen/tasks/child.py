"""A child process that answers lines with lines, and is ended when an answer takes too long."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress


class Child:
    """A process with pipes, the leader of a session of its own, which ends with it."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        """Start it; by default with this process's environment."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._unread = b""

    @property
    def process_id(self) -> int:
        """Its number, and that of its session."""
        return self._process.pid

    def say(self, line: bytes) -> None:
        """Write a line.

        Raises:
            OSError: the process ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def line(self, seconds: float) -> bytes:
        """Read a line; empty if none comes in time, or the process ended."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                return b""
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line + b"\n"

    def end(self) -> None:
        """End the process and what it started."""
        with suppress(OSError):  # until it is waited for, its id is its own
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not written is lost
                if pipe is not None:
                    pipe.close()
        self._process.wait()

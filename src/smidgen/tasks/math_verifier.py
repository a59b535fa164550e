r"""Equality of mathematical expressions by math-verify (https://github.com/huggingface/Math-Verify).

A model may write `9^{9^{9^9}}`, which takes longer to compute than anyone waits. math-verify guards against
that with an alarm signal, which works in the main thread only and cannot interrupt long arithmetic. So it
runs in a process of its own (`math_worker`), without its timeouts; a process that does not answer in time is
ended, and the two expressions count as different.
"""

import atexit
import json
import select
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

from smidgen.errors import WorkError

LONGEST_EXPRESSION = 300
"""Characters of an expression; longer ones count as different from everything."""
SECONDS = 5.0
"""Time for one comparison, the default of math-verify."""
SECONDS_TO_START = 120.0
"""Time to import math-verify and sympy, on a machine that is busy and has a slow disk."""
_WORKER = Path(__file__).with_name("math_worker.py")


@lru_cache(maxsize=4096)
def same_expression(gold: str, said: str) -> bool:
    """Whether two expressions in LaTeX or plain text are mathematically equal; thread-safe.

    Raises:
        WorkError: math-verify does not start.
    """
    if gold.strip() == said.strip():
        return True
    if max(len(gold), len(said)) > LONGEST_EXPRESSION:
        return False
    return _VERIFIER.compare(gold, said)


class Verifier:
    """The process that compares expressions; started on first use, and again after it was ended."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def compare(self, gold: str, said: str) -> bool:
        """Whether two expressions are equal; false if that is not known in time."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([gold, said]).encode() + b"\n")
                process.stdin.flush()
                answer = _line(process, self._seconds)
            except OSError:  # it ended, for want of memory
                answer = b""
            if not answer:
                self._end()
            return answer.strip() == b"true"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            # -P: the folder of the worker is not searched for modules
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            if not _line(self._process, SECONDS_TO_START):
                self._end()
                raise WorkError("math-verify does not start; try `python -c 'import math_verify'`")
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not written is lost
                if pipe is not None:
                    pipe.close()
        process.wait()


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
    """Read one line of a process; empty if none comes in time, or the process ended."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else b""


_VERIFIER = Verifier()
atexit.register(_VERIFIER.close)

r"""Equality of mathematical expressions by math-verify (https://github.com/huggingface/Math-Verify).

A model may write `9^{9^{9^9}}`, which takes longer to compute than anyone waits. math-verify guards against
that with an alarm signal, which works in the main thread only and cannot interrupt long arithmetic. So it
runs in a process of its own (`math_worker`), without its timeouts; a process that does not answer in time is
ended, and the two expressions count as different.
"""

import atexit
import json
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock

from smidgen.errors import WorkError
from smidgen.tasks.child import Child

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
        self._process: Child | None = None
        self._lock = Lock()

    def compare(self, gold: str, said: str) -> bool:
        """Whether two expressions are equal; false if that is not known in time."""
        with self._lock:
            process = self._running()
            try:
                process.say(json.dumps([gold, said]).encode())
                answer = process.line(self._seconds)
            except OSError:  # it ended, for want of memory
                answer = b""
            if not answer:
                self._end()
            return answer.strip() == b"true"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> Child:
        if self._process is None:
            # -P: the folder of the worker is not searched for modules
            self._process = Child([sys.executable, "-P", str(_WORKER)])
            if not self._process.line(SECONDS_TO_START):
                self._end()
                raise WorkError("math-verify does not start; try `python -c 'import math_verify'`")
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


_VERIFIER = Verifier()
atexit.register(_VERIFIER.close)

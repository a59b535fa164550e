"""The process of a slot of the sandbox: it forks a worker and a grader for every program.

It starts clean: an empty environment, three open files, the standard library only. It never reads a job, so
that the processes that it forks hold nothing of earlier ones; the grader reads the job after the worker was
forked. A pair waits for the next job, so that starting Python costs a program nothing.
"""

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from smidgen.tasks.sandbox.confine import Confinement, Limits, not_enforced
from smidgen.tasks.sandbox.grader import grade, write_verdict
from smidgen.tasks.sandbox.worker import work

NO_MORE_JOBS = 3
"""Exit status of a grader that found no job."""
_JOBS, _VERDICTS, _ERRORS = 0, 1, 2
_LOADED = (
    "array bisect calendar cmath copy dataclasses datetime decimal enum fractions hashlib heapq math "
    "operator queue random statistics string threading typing unicodedata zlib"
).split()
"""Modules that programs import: loaded once, and before libraries that some of them need are out of reach."""


def main() -> None:
    """Say what the platform does not enforce, then serve jobs until the input ends."""
    limits, unsafe = Limits(**json.loads(sys.argv[2])), sys.argv[3] == "unsafe"
    confinement = Confinement(limits)
    for name in _LOADED:
        with suppress(ImportError):  # a Python may be built without one of them
            importlib.import_module(name)
    with suppress(BrokenPipeError):  # the parent is gone
        _write({"not_enforced": _trial(confinement, limits)})
        gc.freeze()  # the pages of these objects stay shared with every fork
        _serve(confinement, limits, unsafe)


def _serve(confinement: Confinement, limits: Limits, unsafe: bool) -> None:
    """Have each job judged by two new processes, and say how they ended."""
    while True:
        worker, grader = _forked(confinement, limits, unsafe)
        graded = os.waitpid(grader, 0)[1]
        os.kill(
            worker, signal.SIGKILL
        )  # it may have ended by itself: until it is waited for, its id is its own
        worked = os.waitpid(worker, 0)[1]
        if os.waitstatus_to_exitcode(graded) == NO_MORE_JOBS:
            return
        _write({"grader": os.waitstatus_to_exitcode(graded), "worker": os.waitstatus_to_exitcode(worked)})


def _forked(confinement: Confinement, limits: Limits, unsafe: bool) -> tuple[int, int]:
    """Fork the two processes of the next job."""
    to_worker, to_grader = os.pipe(), os.pipe()

    def answer() -> None:
        _silence(_JOBS, _VERDICTS, _ERRORS)
        _close_others(to_worker[0], to_grader[1], confinement.rules)
        confinement.enter(unsafe=unsafe)
        if unsafe:
            confinement.watch()
        work(to_worker[0], to_grader[1])

    def judge() -> None:
        line, verdicts = _job(confinement, to_worker[1], to_grader[0])
        signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
        confinement.enter(unsafe=unsafe)
        write_verdict(verdicts, grade(json.loads(line), to_worker[1], to_grader[0]))

    processes = _child(answer), _child(judge)
    for pipe in (*to_worker, *to_grader):
        os.close(pipe)
    return processes


def _child(run: Callable[[], None]) -> int:
    """Fork a process that runs one function and ends, whatever happens in it."""
    if (child := os.fork()) == 0:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def _job(confinement: Confinement, *pipes: int) -> tuple[bytes, int]:
    """Read a job, and end if there is none; returns it and the file that its verdict goes to."""
    verdicts = os.dup(_VERDICTS)
    _silence(_VERDICTS, _ERRORS)
    _close_others(*pipes, verdicts, confinement.rules)
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := os.read(_JOBS, 1 << 16)):
            os._exit(NO_MORE_JOBS)
        line += piece
    _silence(_JOBS)
    return line, verdicts


def _silence(*numbers: int) -> None:
    """Connect files to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)


def _close_others(*kept: int | None) -> None:
    """Close all files but standard input, output and error and the given ones."""
    for number in range(3, 64):
        if number not in kept:
            with suppress(OSError):
                os.close(number)


def _trial(confinement: Confinement, limits: Limits) -> list[str]:
    """What a confined process can do that it must not, as one of them reports it."""
    found = os.pipe()

    def report() -> None:
        confinement.enter(unsafe=True)
        os.write(found[1], json.dumps(not_enforced(limits.memory)).encode())

    child = _child(report)
    os.close(found[1])
    with os.fdopen(found[0], "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else ["anything"]


def _write(message: object) -> None:
    os.write(_VERDICTS, json.dumps(message).encode() + b"\n")

"""The process of a slot of the sandbox: it forks a worker and a grader for every program.

It starts clean: an empty environment, three open files, the standard library only. It never reads a job, so
that the processes that it forks hold nothing of earlier ones; the grader reads the job after the worker was
forked. A pair waits for the next job, so that starting Python costs a program nothing.
"""

import array  # noqa: F401  loaded once, before files are out of reach, for programs that import them
import bisect  # noqa: F401
import calendar  # noqa: F401
import cmath  # noqa: F401
import contextlib  # noqa: F401
import copy  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import enum  # noqa: F401
import fractions  # noqa: F401
import gc
import hashlib  # noqa: F401
import heapq  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import os
import queue  # noqa: F401
import signal
import statistics  # noqa: F401
import string  # noqa: F401
import sys
import threading  # noqa: F401
import typing  # noqa: F401
import unicodedata  # noqa: F401
import zlib  # noqa: F401

from smidgen.tasks.sandbox.confine import Confinement, Limits, not_enforced
from smidgen.tasks.sandbox.grader import grade, write_verdict
from smidgen.tasks.sandbox.worker import work

NO_MORE_JOBS = 3
"""Exit status of a grader that found no job."""
_JOBS, _VERDICTS, _ERRORS = 0, 1, 2


def main() -> None:
    """Say what the platform does not enforce, then serve jobs until the input ends."""
    limits, unsafe = Limits(int(sys.argv[1]), int(sys.argv[2])), sys.argv[3] == "unsafe"
    confinement = Confinement(limits)
    _write({"not_enforced": _trial(confinement, limits)})
    gc.freeze()
    while True:
        worker, grader = _forked(confinement, limits, unsafe)
        graded = os.waitpid(grader, 0)[1]
        os.kill(worker, signal.SIGKILL)  # it may have ended by itself: until it is waited for, its id is its own
        worked = os.waitpid(worker, 0)[1]
        if os.waitstatus_to_exitcode(graded) == NO_MORE_JOBS:
            return
        _write({"grader": os.waitstatus_to_exitcode(graded), "worker": os.waitstatus_to_exitcode(worked)})


def _forked(confinement: Confinement, limits: Limits, unsafe: bool) -> tuple[int, int]:
    """Fork the two processes of the next job."""
    to_worker, to_grader = os.pipe(), os.pipe()
    if (worker := os.fork()) == 0:
        _silence(_JOBS, _VERDICTS, _ERRORS)
        _close_others(to_worker[0], to_grader[1], confinement.rules)
        confinement.enter(unsafe=unsafe)
        confinement.watch()
        work(to_worker[0], to_grader[1])
    if (grader := os.fork()) == 0:
        try:
            line, verdicts = _job(confinement, to_worker[1], to_grader[0])
            signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
            confinement.enter(unsafe=unsafe)
            write_verdict(verdicts, grade(json.loads(line), to_worker[1], to_grader[0]))
            os._exit(0)
        finally:
            os._exit(1)
    for pipe in (*to_worker, *to_grader):
        os.close(pipe)
    return worker, grader


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
            try:
                os.close(number)
            except OSError:
                pass


def _trial(confinement: Confinement, limits: Limits) -> list[str]:
    """What a confined process can do that it must not, as one of them reports it."""
    found = os.pipe()
    if (child := os.fork()) == 0:
        confinement.enter(unsafe=True)
        os.write(found[1], json.dumps(not_enforced(limits.memory)).encode())
        os._exit(0)
    os.close(found[1])
    with os.fdopen(found[0], "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else ["anything"]


def _write(message: object) -> None:
    os.write(_VERDICTS, json.dumps(message).encode() + b"\n")

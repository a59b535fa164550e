"""Runs programs that nobody has read, and judges them by tests that they cannot reach.

One slot of the sandbox is a process without secrets (`zygote`) that forks two more for every program:

    parent ── program and tests ──▶ grader ── calls, arguments ──▶ worker
           ◀─────── verdict ───────        ◀──── plain values ────

The *worker* runs the program under test. It never receives a test, nor the expected values, nor a way to the
parent. The *grader* runs the tests; a name that the program defines is a `Remote` there, which sends its
arguments to the worker and gets back copies of plain values, such as numbers, texts and lists. So nothing
that a program does to its own interpreter changes a verdict: the tests run in another one.

Both are confined by the kernel before anything of a program or a test is read (`confine`): an allow-list of
system calls, no file but Python's own library, and limits on memory and time. The zygote tries them once
before the first program, and reports what the platform does not enforce.

Children import these modules without running `smidgen/__init__.py`, so all but `pool` use the standard
library only.
"""

"""The parent's side of the sandbox: slots that each judge one program at a time, on all cores."""

import atexit
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue

from smidgen.errors import ConfigError, WorkError
from smidgen.tasks.child import Child
from smidgen.tasks.sandbox.confine import Limits

SECONDS_TO_START = 120.0
"""Time to start Python, on a machine that is busy and has a slow disk."""
_GRACE = 10.0
"""Seconds beyond the limit by the clock after which a slot is ended from outside."""
_BOOT = """
import sys, types
for name, place in (("smidgen", sys.argv[1]), ("smidgen.tasks", sys.argv[1] + "/tasks")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]  # its __init__ is not run
from smidgen.tasks.sandbox.zygote import main
main()
"""
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""All of it: nothing of the user's, and the same order of sets in every run."""


@dataclass(frozen=True)
class Program:
    """A program under test, and its tests.

    Attributes:
        code: the program.
        tests: code that raises unless the program is right.
        names: what the tests use of the program, even where Python has such a name itself.
        context: what the program continues, such as imports and the head of a function; may be empty.
        entry_point: the function that the context leaves open; may be empty.
        setup: code that runs after the program, with its names.
    """

    code: str
    tests: tuple[str, ...]
    names: tuple[str, ...]
    context: str = ""
    entry_point: str = ""
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes:
        outcome: `passed`, `wrong` (a test failed), `error` (the program or a test raised something, or the
            program ended), `timeout`, or `syntax` (it is not Python).
        why: the test that failed, or the error.
    """

    outcome: str
    why: str = ""


class Sandbox:
    """Judges programs, several at once; see the package. Slots start when they are needed."""

    def __init__(self, limits: Limits, *, unsafe: bool = False, slots: int = 0) -> None:
        """Create it.

        Args:
            limits: of each program.
            unsafe: whether to run programs where the platform does not enforce everything.
            slots: number of programs judged at once; 0 for one per core.
        """
        self.slots = slots or _cores()
        self._limits, self._unsafe = limits, unsafe
        self._free: SimpleQueue[Child | None] = SimpleQueue()
        self._started: set[Child] = set()
        for _ in range(self.slots):
            self._free.put(None)

    def open(self) -> None:
        """Start the first slot; errors as in `judge`."""
        slot = self._free.get()
        try:
            slot = slot or self._start()
        finally:
            self._free.put(slot)

    def judge(self, program: Program) -> Verdict:
        """Run a program against its tests; thread-safe.

        Raises:
            ConfigError: the platform does not enforce everything, and it need not be unsafe.
            WorkError: the sandbox does not start.
        """
        slot, kept = self._free.get(), None
        try:
            slot = slot or self._start()
            if verdict := self._ask(slot, json.dumps(asdict(program)).encode()):
                kept = slot
        finally:  # a slot that has not answered, or whose answer nobody waited for, has no further use
            if slot and not kept:
                self._end(slot)
            self._free.put(kept)
        return verdict or Verdict("timeout", "the tests did not end")

    def close(self) -> None:
        """End all slots; programs that are being judged fail."""
        for slot in tuple(self._started):
            self._end(slot)

    def _start(self) -> Child:
        limits, package = self._limits, str(Path(__file__).parents[2])
        arguments = [package, json.dumps(asdict(limits)), "unsafe" if self._unsafe else "safe"]
        slot = Child([sys.executable, "-S", "-s", "-P", "-c", _BOOT, *arguments], environment=_ENVIRONMENT)
        self._started.add(slot)
        line = slot.line(SECONDS_TO_START)
        if not line:
            self._end(slot)
            raise WorkError("the sandbox for programs does not start; its errors are above")
        missing = json.loads(line)["not_enforced"]
        if missing and not self._unsafe:
            self._end(slot)
            raise ConfigError(
                f"programs of a model cannot be run safely here: this platform ({sys.platform}) does not "
                f"keep them from {', '.join(missing)}; use Linux 5.13 or newer with Landlock and seccomp, "
                "or, if you trust the model and its data, unsafe = true in [settings] or --unsafe"
            )
        return slot

    def _ask(self, slot: Child, job: bytes) -> Verdict | None:
        """Judge one program; None if the slot ended, or does not answer in time or as it should."""
        deadline = self._limits.wall_seconds + _GRACE
        try:
            slot.say(job)
        except OSError:
            return None
        found: dict[str, str] = {}
        while line := slot.line(deadline):
            try:
                message = json.loads(line)
            except ValueError:  # not of the sandbox, so a test wrote it
                return None
            if "outcome" in message:
                found = message
            else:
                return _verdict(found, message)
        return None

    def _end(self, slot: Child) -> None:
        self._started.discard(slot)
        slot.end()


def _verdict(found: dict[str, str], ends: dict[str, int]) -> Verdict:
    """Combine the grader's verdict with how the two processes ended."""
    outcome, grader, worker = found.get("outcome"), ends["grader"], ends["worker"]
    if outcome is None:
        if grader in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
            return Verdict("timeout")
        return Verdict("error", f"the tests ended with status {grader}")
    if outcome != "ended":
        why = "".join(letter if letter.isprintable() else "\ufffd" for letter in found["why"])
        return Verdict(outcome, why)
    if worker in (-signal.SIGXCPU, -signal.SIGKILL):
        return Verdict("timeout")
    how = f"signal {signal.Signals(-worker).name}" if worker < 0 else f"status {worker}"
    return Verdict("error", f"the program ended with {how}")


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@cache
def shared_sandbox(limits: Limits, *, unsafe: bool = False) -> Sandbox:
    """Return the sandbox of this process for some limits; its slots end with the process."""
    sandbox = Sandbox(limits, unsafe=unsafe)
    atexit.register(sandbox.close)
    return sandbox

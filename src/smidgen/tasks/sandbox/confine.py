"""Confine a process to computing: the limits of the sandbox, and a trial of what the platform enforces."""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.tasks.sandbox.file_rights import library_folders, open_rules, restrict_files
from smidgen.tasks.sandbox.system_calls import restrict_calls

_OPEN_FILES = 32
_PR_SET_PDEATHSIG = 1
_CAPABILITIES_VERSION = 0x20080522
_NOT_CONFINED = 70
"""Exit status of a process that could not confine itself; EX_SOFTWARE."""
_REFUSED_EVENTS = (
    "ctypes.dlopen", "os.", "pty.", "shutil.", "signal.pthread_kill", "socket.", "subprocess.", "syslog.",
)  # fmt: skip
_HARMLESS_EVENTS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")


@dataclass(frozen=True)
class Limits:
    """Limits of one program.

    Attributes:
        seconds: of processor time, of each of its two processes.
        wall_seconds: by the clock, of both together; generous, since a program may share its machine.
        memory: bytes of address space, of each.
    """

    seconds: int
    wall_seconds: float
    memory: int


class Confinement:
    """The limits, prepared once in the process from which the confined ones are forked."""

    def __init__(self, limits: Limits) -> None:
        """Prepare what needs files; where the kernel has no means, the trial will tell."""
        self._limits = limits
        self._parent = os.getpid()
        places = {path for folder in library_folders() for path in (folder, folder.resolve())}
        self._folders = tuple(os.path.join(path, "") for path in places)
        self._rules: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self._rules = open_rules()

    @property
    def rules(self) -> int | None:
        """The file descriptor to keep open until `enter`."""
        return self._rules

    def enter(self, *, unsafe: bool = False) -> None:
        """Confine this process for good; where that fails it ends, unless it may be unsafe."""
        _limit(self._limits)
        if sys.platform != "linux":
            return
        # The zygote may be killed; what it started must not stay behind.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._parent:
            os._exit(_NOT_CONFINED)
        for restrict in (_drop_capabilities, self._restrict_files, restrict_calls):
            try:
                restrict()
            except OSError:
                if not unsafe:
                    os._exit(_NOT_CONFINED)

    def _restrict_files(self) -> None:
        if self._rules is None:
            raise OSError("no Landlock")
        restrict_files(self._rules)
        os.close(self._rules)

    def watch(self) -> None:
        """Refuse in Python what the kernel does not: against accidents, since a program can get around it."""
        sys.addaudithook(_hook(self._folders))


def _drop_capabilities() -> None:
    """Give up what root may do beyond its own files, such as taking pages of memory out of use."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def _limit(limits: Limits) -> None:
    """Lower the resource limits; a system without one of them fails the trial if that matters."""
    wanted = {
        "RLIMIT_AS": (limits.memory, limits.memory),
        "RLIMIT_CPU": (limits.seconds, limits.seconds + 1),  # after the signal that can be caught, SIGKILL
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_NOFILE": (_OPEN_FILES, _OPEN_FILES),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
    }
    for name, values in wanted.items():
        if (number := getattr(resource, name, None)) is not None:
            with suppress(ValueError, OSError):
                resource.setrlimit(number, values)


def _hook(folders: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that allows reading from folders, and nothing that acts on the system."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or (
                not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                and os.path.realpath(os.fsdecode(path)).startswith(folders)
            ):
                return
        elif event in _HARMLESS_EVENTS or not event.startswith(_REFUSED_EVENTS):
            return
        raise PermissionError(f"the sandbox does not allow {event}")

    return audit


def not_enforced(memory: int) -> list[str]:
    """Try what a confined process must not be able to do; returns what this one could."""
    trials: dict[str, Callable[[], object]] = {
        "reading files": lambda: Path(__file__).read_bytes(),
        "writing files": lambda: Path(os.devnull).open("wb").close(),
        "the network": lambda: socket.socket().close(),
        "other processes": _fork,
        "signals": lambda: os.kill(os.getppid(), 0),
        "memory": lambda: bytearray(memory),
    }
    return [name for name, trial in trials.items() if _succeeds(trial)]


def _succeeds(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except (OSError, MemoryError):
        return False
    return True


def _fork() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    with suppress(OSError):
        os.waitpid(child, 0)

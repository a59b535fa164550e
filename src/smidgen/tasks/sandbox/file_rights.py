"""Files of confined Python code: it reads Python's standard library, and nothing else (Linux, Landlock).

Landlock restricts a process without privileges and holds for root too; see landlock(7). What it does not
cover, such as a file's size and times, is told in docs/code.md.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same system calls on every architecture
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock → number of rights on files that it knows."""
_PACKAGES = ("site-packages", "dist-packages", "sitecustomize.py", "usercustomize.py")
_PR_SET_NO_NEW_PRIVS = 38


def open_rules() -> int:
    """Prepare the rules; returns a file descriptor for `restrict_files`.

    Raises:
        OSError: the kernel has no Landlock.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise OSError(ctypes.get_errno(), "Landlock is not available")
    handled = (1 << max(count for known, count in _FILE_RIGHTS.items() if known <= version)) - 1
    network = 3 if version >= 4 else 0  # bind and connect of TCP
    scopes = 3 if version >= 6 else 0  # abstract Unix sockets, and signals
    fields = (handled, network, scopes)[: 3 if version >= 6 else 2 if version >= 4 else 1]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "Landlock is not available")
    for path, rights in _readable():
        _allow(libc, rules, path, rights)
    return rules


def restrict_files(rules: int) -> None:
    """Take the rights on files from this process, but those of the rules.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "Landlock is not available")


def library_folders() -> list[Path]:
    """Return the folders of the standard library."""
    return [Path(entry) for entry in sys.path if os.path.isdir(entry)]


def _readable() -> list[tuple[Path, int]]:
    """Return what may be read: the standard library, without the packages that are installed in it."""
    found = []
    for folder in library_folders():
        found.append((folder, _READ_DIR))
        for path in folder.iterdir():
            if path.name not in _PACKAGES:
                found.append((path, _READ_FILE | (_READ_DIR if path.is_dir() else 0)))
    return found


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, place)
        if libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
    finally:
        os.close(place)

"""The system calls that confined Python code may make, as a seccomp filter (Linux, unprivileged).

An allow-list, so that what future kernels add is refused too. Nothing in it creates a process or a thread,
sends a signal, opens a socket, changes a file's attributes, or changes a limit. Refused calls fail with
EPERM, which Python raises as `PermissionError`. See seccomp(2) and bpf(4).
"""

import ctypes
import platform
import struct

_CALLS = {
    # name: (x86-64, aarch64); None where the architecture has no such call
    "access": (21, None), "brk": (12, 214), "clock_getres": (229, 114), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "close": (3, 57), "exit": (60, 93), "exit_group": (231, 94),
    "faccessat": (269, 48), "faccessat2": (439, 439), "fstat": (5, 80), "futex": (202, 98),
    "getcwd": (79, 17), "getdents64": (217, 61), "getegid": (108, 177), "geteuid": (107, 175),
    "getgid": (104, 176), "getpid": (39, 172), "getppid": (110, 173), "getrandom": (318, 278),
    "getrusage": (98, 165), "gettid": (186, 178), "gettimeofday": (96, 169), "getuid": (102, 174),
    "lseek": (8, 62), "lstat": (6, None), "madvise": (28, 233), "mmap": (9, 222), "mprotect": (10, 226),
    "mremap": (25, 216), "munmap": (11, 215), "nanosleep": (35, 101), "newfstatat": (262, 79),
    "open": (2, None), "openat": (257, 56), "pread64": (17, 67), "read": (0, 63), "readv": (19, 65),
    "restart_syscall": (219, 128), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sched_getaffinity": (204, 123), "sched_yield": (24, 124),
    "sigaltstack": (131, 132), "stat": (4, None), "time": (201, None), "times": (100, 153),
    "uname": (63, 160), "write": (1, 64), "writev": (20, 66),
}  # fmt: skip
_FCNTL = (72, 25)
_FCNTL_COMMANDS = (1, 2, 3)
"""F_GETFD, F_SETFD and F_GETFL; F_SETOWN would have the kernel send signals to any process of the user."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables, and AUDIT_ARCH."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # offsets in struct seccomp_data; low half, little endian
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # EPERM is 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def allowed_calls(machine: str) -> list[int]:
    """Return the numbers of the calls that an architecture may make, `fcntl` with some commands included.

    Raises:
        OSError: the numbers of this architecture are not known.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no table of system calls for {machine}")
    column, _ = _ARCHITECTURES[machine]
    return [found for numbers in (*_CALLS.values(), _FCNTL) if (found := numbers[column]) is not None]


def call_filter(machine: str) -> bytes:
    """Return the filter for an architecture, as instructions of classic BPF; raises as `allowed_calls`."""
    *numbers, fcntl = allowed_calls(machine)
    _, audit = _ARCHITECTURES[machine]
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL)]
    lines.append((_LOAD, 0, 0, _NUMBER))
    for number in numbers:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_EQUAL, 0, 1 + 2 * len(_FCNTL_COMMANDS), fcntl), (_LOAD, 0, 0, _SECOND_ARGUMENT)]
    for command in _FCNTL_COMMANDS:
        lines += [(_EQUAL, 0, 1, command), (_RETURN, 0, 0, _ALLOW)]
    lines.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def restrict_calls() -> None:
    """Allow this process the listed system calls only, from now on and for all that it starts.

    Raises:
        OSError: the kernel or the architecture cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    code = call_filter(platform.machine())
    program = _Program(len(code) // 8, code)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "seccomp is not available")

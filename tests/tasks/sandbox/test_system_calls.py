"""The filter of system calls, run as the kernel runs it."""

import struct

import pytest

from smidgen.tasks.sandbox.system_calls import allowed_calls, call_filter

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FCNTL = {"x86_64": 72, "aarch64": 25}


def action(code: bytes, architecture: int, number: int, second: int = 0) -> int:
    """What a filter says of a call: classic BPF, the instructions that the filter uses."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, 0, second, 0, 0, 0, 0)
    lines, place, value = list(struct.iter_unpack("=HBBI", code)), 0, 0
    while True:
        operation, if_true, if_false, operand = lines[place]
        place += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        else:
            assert operation == 0x15
            place += if_true if value == operand else if_false


@pytest.mark.parametrize(("machine", "architecture"), MACHINES.items())
def test_the_filter_allows_what_the_table_lists(machine: str, architecture: int):
    code, allowed = call_filter(machine), set(allowed_calls(machine)) - {FCNTL[machine]}
    found = {number for number in range(1024) if action(code, architecture, number) == ALLOW}
    assert found == allowed and 40 < len(allowed) < 60
    assert action(code, architecture, 1023) == REFUSE
    assert {action(code, architecture, number | 0x40000000) for number in allowed} == {REFUSE}  # x32
    assert {action(code, 0x40000003, number) for number in allowed} == {KILL}  # i386


@pytest.mark.parametrize(("machine", "architecture"), MACHINES.items())
def test_files_may_be_asked_but_send_no_signals(machine: str, architecture: int):
    code = call_filter(machine)
    found = [
        command for command in range(2000) if action(code, architecture, FCNTL[machine], command) == ALLOW
    ]
    assert found == [1, 2, 3]  # F_GETFD, F_SETFD, F_GETFL


@pytest.mark.parametrize("forbidden", [{"x86_64": 56, "aarch64": 220}, {"x86_64": 41, "aarch64": 198}])
def test_no_process_and_no_socket(forbidden: dict[str, int]):
    for machine, number in forbidden.items():
        assert number not in allowed_calls(machine)


def test_an_unknown_processor_has_no_filter():
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        call_filter("riscv64")

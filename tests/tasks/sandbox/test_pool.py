"""Slots of the sandbox: what they judge, how they recover, and where they refuse to start."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.errors import ConfigError, WorkError
from smidgen.tasks.sandbox import pool
from smidgen.tasks.sandbox.confine import Limits
from smidgen.tasks.sandbox.pool import Program, Sandbox, Verdict, shared_sandbox

LIMITS = Limits(seconds=1, wall_seconds=1.0, memory=128 << 20)
RIGHT = "def f(x): return x + 1"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing enforces the sandbox here")
pytestmark = needs_linux


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(LIMITS, slots=2)
    yield sandbox
    sandbox.close()


def judged(sandbox: Sandbox, code: str, *tests: str, **more: str) -> Verdict:
    return sandbox.judge(Program(code, tests or ("assert f(1) == 2",), ("f",), **more))


def waits_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    ("code", "test", "verdict"),
    [
        (RIGHT, "assert f(1) == 2\nassert f(2) == 3", Verdict("passed")),
        (RIGHT, "assert f(1) == 2\nassert f(2) == 4", Verdict("wrong", "assert f(2) == 4")),
        (RIGHT, "f(1); f('a')", Verdict("error", 'TypeError: can only concatenate str (not "int") to str')),
        ("def g(): pass", "assert f(1)", Verdict("error", "NameError: name 'f' is not defined")),
        ("def f(x) return x", "f(1)", Verdict("syntax", "SyntaxError: expected ':' (<answer>, line 1)")),
        ("raise KeyError(1)", "assert f(1)", Verdict("error", "KeyError: '1'")),
        ("class Odd(Exception): pass\ndef f(x): raise Odd", "f(1)", Verdict("error", "RuntimeError: Odd")),
        ("def f(): raise OSError('\\ud800\\x1b[2J')", "f()", Verdict("error", "OSError: \ufffd\ufffd[2J")),
        ("import os\ndef f(x): os._exit(3)", "f(1)", Verdict("error", "the program ended with status 3")),
        ("def f(x):\n while 1: pass", "f(1)", Verdict("timeout")),
        (RIGHT, "while True: pass", Verdict("timeout")),
        (RIGHT, "f(f(print))", Verdict("error", "TypeError: the test passes a builtin_function_or_method, "
                                       "which cannot be sent to the program")),
        (RIGHT, "import os; os._exit(0)", Verdict("error", "the tests ended with status 0")),
        (RIGHT, "try:\n f()\nexcept TypeError:\n pass", Verdict("passed")),
        ("import os\ndef f(): os._exit(0)", "try:\n f()\nexcept Exception:\n pass",
         Verdict("error", "the program ended with status 0")),
    ],
)  # fmt: skip
def test_verdicts(code: str, test: str, verdict: Verdict, sandbox: Sandbox):
    assert judged(sandbox, code, test) == verdict


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x): return (i for i in range(x))", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x): return {1: (2.5, None), 'a': {b'x'}}", "assert f(0) == {1: (2.5, None), 'a': {b'x'}}"),
        ("def f(x): return 10 ** x", "assert f(400) == 10 ** 400"),
        ("def f(x): return x[::-1]", "assert f('\\ud800a') == 'a\\ud800'"),
        ("class P:\n def __init__(s, a): s.a = a\ndef f(p): return p.a", "assert f(P(3)) == P(3).a == 3"),
        ("class P(list): pass\ndef f(x): return P([x])", "assert len(f(1)) == 1 and f(1)[0] == 1"),
        ("class P:\n def __len__(s): return 3\n def __getitem__(s, i): return i\ndef f(x): return P()",
         "assert len(f(1)) == 3 and f(1)[2] == 2"),
        ("class P:\n def __bool__(s): return False\ndef f(x): return P()", "assert not f(1)"),
        ("def f(*a, b=0): return sum(a) + b", "assert f(1, 2, b=3) == 6"),
        ("def f(x): return x", "assert math.isclose(f(math.pi), 3.141592653589793)"),
        ("import hashlib, zlib, decimal, statistics, json, functools\ndef f(x): return 1", "assert f(1)"),
        ("print('x' * 99999)\ndef f(x): return input", "assert f(1)"),
    ],
)  # fmt: skip
def test_values_of_a_right_program(code: str, test: str, sandbox: Sandbox):
    assert judged(sandbox, code, test) == Verdict("passed")


HEAD = 'import math\n\ndef f(x):\n    """One more."""\n'


@pytest.mark.parametrize(
    "code",
    [
        "    return x + 1",
        "return x + 1",
        "f = 1\nreturn x + f",
        "y = 1\n    return x + y",
        "if x:\n    return math.floor(x) + 1",
        "def f(x):\n    return x + 1",
        "f = lambda x: x + 1",
        "from __future__ import annotations\ndef f(x: No) -> No:\n    return x + 1",
        "    return g(x)\n\ndef g(x):\n    return x + 1",
    ],
)
def test_a_program_continues_its_context_or_replaces_it(code: str, sandbox: Sandbox):
    assert judged(sandbox, code, context=HEAD, entry_point="f") == Verdict("passed")


@pytest.mark.parametrize("code", ["return (", "def g(x): return x", "", "    pass"])
def test_a_program_that_does_not_fit_its_context(code: str, sandbox: Sandbox):
    assert judged(sandbox, code, context=HEAD, entry_point="f").outcome in ("syntax", "wrong")


def test_threads_get_the_verdicts_of_their_own_programs(sandbox: Sandbox):
    programs = [Program(f"def f(): return {n}", (f"assert f() == {n - n % 3}",), ("f",)) for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(sandbox.judge, programs))
    assert [verdict.outcome for verdict in found] == ["passed", "wrong", "wrong"] * 20


@pytest.mark.parametrize(
    "test",
    ["import os\nfor n in range(3, 32):\n try: os.write(n, b'x' * 99 + b'\\n')\n except OSError: pass"],
)
def test_a_test_that_writes_to_the_parent_costs_only_itself(test: str):
    sandbox = Sandbox(LIMITS, slots=1)
    try:
        assert judged(sandbox, RIGHT, test).outcome == "timeout"
        assert judged(sandbox, RIGHT) == Verdict("passed")
    finally:
        sandbox.close()


def test_a_slot_that_ends_is_replaced():
    sandbox = Sandbox(LIMITS, slots=1)
    try:
        sandbox.open()
        (slot,) = sandbox._started
        os.kill(slot.process_id, signal.SIGKILL)
        assert judged(sandbox, RIGHT) == Verdict("timeout", "the tests did not end")
        assert judged(sandbox, RIGHT) == Verdict("passed")
        assert sandbox._started != {slot}
    finally:
        sandbox.close()


def test_an_interrupted_program_has_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch):
    sandbox = Sandbox(LIMITS, slots=1)
    line = pool.Child.line

    def interrupted(self: pool.Child, seconds: float) -> bytes:
        monkeypatch.setattr(pool.Child, "line", line)
        raise KeyboardInterrupt

    try:
        sandbox.open()
        monkeypatch.setattr(pool.Child, "line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judged(sandbox, RIGHT)
        assert judged(sandbox, "def f(x): return x").outcome == "wrong"
    finally:
        sandbox.close()


@pytest.mark.slow
def test_both_processes_of_a_program_are_confined():
    sandbox = Sandbox(replace(LIMITS, wall_seconds=3.0), slots=1)
    try:
        sandbox.open()
        (slot,) = sandbox._started

        def confined() -> list[dict[str, str]]:
            found = []
            for path in Path("/proc").glob("[0-9]*/status"):
                try:
                    lines = path.read_text().splitlines()
                except OSError:
                    continue
                status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                if status["PPid"] == str(slot.process_id) and status["Seccomp"] == "2":
                    found.append(status)
            return found if len(found) == 2 else []

        with ThreadPoolExecutor(1) as thread:
            verdict = thread.submit(judged, sandbox, "import time\ndef f(x): time.sleep(9)")
            statuses = waits_for(confined)
            assert len(statuses) == 2
            for status in statuses:
                assert status["NoNewPrivs"] == "1" and status["CapEff"] == status["CapPrm"] == "0" * 16
            assert verdict.result() == Verdict("timeout")
    finally:
        sandbox.close()


@pytest.mark.slow
def test_nothing_outlives_a_parent_that_is_killed():
    package = Path(smidgen.__file__).parent
    script = f"""
import sys, types
sys.modules["smidgen.tasks"] = types.ModuleType("smidgen.tasks")
sys.modules["smidgen.tasks"].__path__ = [{str(package / "tasks")!r}]  # loads no other task
from smidgen.tasks.sandbox.pool import Limits, Program, Sandbox
sandbox = Sandbox({LIMITS!r}, slots=1)
sandbox.open()
print(*(slot.process_id for slot in sandbox._started), flush=True)
sandbox.judge(Program("while True: pass", ("f()",), ("f",)))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout and parent.stderr
    slot = int(parent.stdout.readline())
    time.sleep(0.1)
    parent.kill()
    assert parent.communicate()[1] == b""
    assert waits_for(lambda: not any(group_of(path) == slot for path in Path("/proc").glob("[0-9]*/stat")))


def group_of(path: Path) -> int:
    """Session of a process; 0 if it is none, or has ended."""
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[3])


WITHOUT = {
    "no Landlock": ("confine.open_rules = fail", "reading files, writing files"),
    "no seccomp": ("confine.restrict_calls = fail", "the network"),
    "no limits": ("confine._limit = lambda limits: None", "memory"),
}


@pytest.mark.slow
@pytest.mark.parametrize("missing", WITHOUT)
def test_a_platform_that_does_not_enforce_everything_is_refused(
    missing: str, monkeypatch: pytest.MonkeyPatch
):
    lacking(monkeypatch, WITHOUT[missing][0])
    sandbox = Sandbox(LIMITS, slots=1)
    with pytest.raises(
        ConfigError, match=f"cannot be run safely here.* keep them from {WITHOUT[missing][1]}"
    ):
        sandbox.open()
    with pytest.raises(ConfigError, match="if you trust the model and its data, unsafe = true in "):
        judged(sandbox, RIGHT)
    assert not sandbox._started
    unsafe = Sandbox(LIMITS, unsafe=True, slots=1)
    try:
        assert judged(unsafe, RIGHT) == Verdict("passed")
        assert judged(unsafe, "def f(x): return x").outcome == "wrong"
    finally:
        unsafe.close()


@pytest.mark.parametrize("missing", ["no Landlock", "no seccomp"])
def test_what_fails_later_ends_the_program(missing: str, monkeypatch: pytest.MonkeyPatch):
    late = WITHOUT[missing][0].replace("fail", "lambda *_: fail()") + "\nconfine.Confinement._rules = None"
    lacking(monkeypatch, f"zygote._trial = lambda *_: []\n{late}")
    sandbox = Sandbox(LIMITS, slots=1)
    try:
        assert judged(sandbox, RIGHT).outcome == "error"
    finally:
        sandbox.close()


@pytest.fixture(scope="module")
def unconfined() -> Iterator[Sandbox]:
    sandbox = Sandbox(LIMITS, unsafe=True, slots=1)
    with pytest.MonkeyPatch.context() as patch:
        lacking(patch, "confine.Confinement.enter = lambda *_, **__: None")
        sandbox.open()
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("open('FILE', 'w')", "error"),
        ("open('/etc/passwd')", "error"),
        ("import os; os.remove('FILE')", "error"),
        ("import os; os.system('true')", "error"),
        ("import shutil; shutil.rmtree('FILE')", "error"),
        ("import socket; socket.socket()", "error"),
        ("import subprocess; subprocess.run(['true'])", "error"),
        ("import colorsys, os, json; os.listdir('/'); open(os.__file__).close()", "passed"),
    ],
)
def test_an_unsafe_run_has_no_accidents(code: str, outcome: str, tmp_path: Path, unconfined: Sandbox):
    (tmp_path / "file").write_text("kept")
    verdict = judged(unconfined, f"{code.replace('FILE', str(tmp_path / 'file'))}\n{RIGHT}")
    assert verdict.outcome == outcome, verdict
    assert outcome == "passed" or "the sandbox does not allow" in verdict.why
    assert (tmp_path / "file").read_text() == "kept"


def test_a_sandbox_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_BOOT", "")
    with pytest.raises(WorkError, match="the sandbox for programs does not start; its errors are above"):
        Sandbox(LIMITS).open()


def test_the_sandbox_of_a_process_is_shared_by_limits():
    limits = Limits(1, 2.0, 200 << 20)
    assert shared_sandbox(limits) is shared_sandbox(Limits(1, 2.0, 200 << 20))
    assert shared_sandbox(limits) is not shared_sandbox(limits, unsafe=True)
    assert shared_sandbox(limits).slots >= 1


def lacking(monkeypatch: pytest.MonkeyPatch, patch: str) -> None:
    """Have the processes of the sandbox start on a platform that lacks something."""
    code = f"""
from smidgen.tasks.sandbox import confine, zygote
def fail(*_):
    raise OSError("not here")
{patch}
main()
"""
    monkeypatch.setattr(pool, "_BOOT", pool._BOOT.removesuffix("main()\n") + code)
